"""What holds back clients that are many, large, slow or silent."""

from tests.mutants.mutant import Mutant

DOORS = (
    Mutant(
        "the proxy reads bodies that nobody asked for",
        "app/api/windows.py",
        "while more and self._wanted <= 0:",
        "while False:",
        "tests/unit/test_windows.py",
    ),
    Mutant(
        "an answer is sent that its client does not take",
        "app/api/windows.py",
        "while self._untaken >= WINDOW and not self._client_left:",
        "while False:",
        "tests/unit/test_windows.py",
    ),
    Mutant(
        "a body that stands still takes a slot of the gateway",
        "deployments/small_bodies.py",
        "if is_upload(scope):",
        "if True:",
        "tests/unit/test_proxy.py",
    ),
    Mutant(
        "large bodies that stand still take all slots",
        "deployments/small_bodies.py",
        "                await self._places.acquire()\n",
        "                pass\n",
        "tests/unit/test_proxy.py",
    ),
    Mutant(
        "a trickle keeps its place for ever",
        "app/api/pace.py",
        "        self._seconds_left -= time.monotonic() - began\n",
        "",
        "tests/unit/test_api_stalls.py",
    ),
    Mutant(
        "probes wait for a slot",
        "app/api/slots.py",
        'if scope["path"] in OPEN_PATHS:',
        "if False:",
        "tests/unit/test_api_slots.py",
    ),
    Mutant(
        "an upload without a place is read",
        "app/api/files.py",
        "if self._places.locked():",
        "if False:",
        "tests/unit/test_api_uploads.py",
    ),
    Mutant(
        "a busy proxy counts as gone",
        "deployments/local/life.py",
        "    except OSError:\n        return True\n",
        "    except OSError:\n        return False\n",
        "tests/unit/test_cluster.py",
    ),
    Mutant(
        "a page that rebound its name reaches a server without keys",
        "app/api/keyless.py",
        'if not _is_here(f"//{host}"):',
        "if False:",
        "tests/unit/test_api_keyless.py",
    ),
    Mutant(
        "pages of other sites may use a server without keys",
        "app/api/keyless.py",
        "if not self._may(origin):",
        "if False:",
        "tests/unit/test_api_keyless.py",
    ),
    Mutant(
        "media are fetched from any host",
        "app/media.py",
        "    if ANY_HOST in allowed or host.lower() in allowed:\n",
        "    if True:\n",
        "tests/unit/test_media.py",
    ),
    Mutant(
        "media are fetched from inside the network",
        "deployments/media.py",
        "    if not is_public(str(address[0])):\n",
        "    if False:\n",
        "tests/unit/test_media.py",
    ),
    Mutant(
        "a redirect leads media anywhere",
        "deployments/media.py",
        'if (why := host_refusal(request.url.host or "", self._allowed)) is not None:',
        "if (why := None) is not None:",
        "tests/unit/test_media.py",
    ),
    Mutant(
        "settings hold keys as they are",
        "app/settings/fields.py",
        "KeyDigest = Annotated[NotEmpty, AfterValidator(api_keys.as_digest)]",
        "KeyDigest = NotEmpty",
        "tests/unit/test_settings.py tests/unit/test_api_auth.py",
    ),
)
