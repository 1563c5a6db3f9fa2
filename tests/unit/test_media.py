"""Which URLs of media pass the door, and what the engine's connector then really connects to."""

import base64
import contextlib
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from app.media import is_public, media_fault, refusal
from tests.unit.fakes import FakeEngines, MakeClient, error_of
from tests.unit.test_validate import CHAT, file_of, line, marks, validated

PICTURE = "https://pictures.example/cat.png"
DATA = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "168.63.129.16", "198.18.0.1", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
    ],
)
def test_addresses_that_are_not_on_the_public_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "allowed", "passes"),
    [
        (DATA, (), True),
        ("DATA:image/png;base64,x", (), True),
        (PICTURE, (), False),
        (PICTURE, ("pictures.example",), True),
        (PICTURE.upper(), ("pictures.example",), True),
        ("http://pictures.example:8080/x", ("pictures.example",), True),
        (PICTURE, ("other.example",), False),
        (PICTURE, ("*",), True),
        ("https://a.pictures.example/x", ("pictures.example",), False),
        ("https://pictures.example.other.example/x", ("pictures.example",), False),
        ("https://pictures.example@other.example/x", ("pictures.example",), False),
        ("https://127.0.0.1/x", ("127.0.0.1", "*"), False),
        ("https://[::ffff:10.0.0.1]/x", ("*",), False),
        ("https://1.1.1.1/x", ("*",), True),
        ("file:///etc/passwd", ("*",), False),
        ("file://pictures.example/x", ("pictures.example",), False),
        ("ftp://pictures.example/x", ("*",), False),
        ("//pictures.example/x", ("*",), False),
        ("https:///x", ("*",), False),
        ("https://[/x", ("*",), False),
        ("", ("*",), False),
    ],
)
def test_a_url_passes_the_door_or_not(url: str, allowed: tuple[str, ...], passes: bool) -> None:
    assert (refusal(url, allowed) is None) == passes


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"messages": [{"content": [{"type": "text"}, {"type": "image_url", "image_url": {"url": PICTURE}}]}]}, "url"),
        ({"messages": [{"content": [{"image_url": PICTURE}]}]}, "messages[0].content[0].image_url"),
        ({"messages": [{}, {"content": [{"audio_url": {"url": PICTURE}}]}]}, "messages[1].content[0].audio_url.url"),
        ({"messages": [{"content": [{"video_url": PICTURE}]}]}, "messages[0].content[0].video_url"),
        ({"input": [{"content": [{"type": "input_image", "image_url": PICTURE}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"type": "input_image", "image_url": PICTURE}]}, "input[0].image_url"),
        ({"input": [{"type": "computer_call_output", "output": {"image_url": PICTURE}}]}, "input[0].output.image_url"),
        ({"input": [{"output": [{"image_url": PICTURE}]}]}, "input[0].output[0].image_url"),
        ({"messages": [{"content": [{"image_url": {"url": DATA}}, {"image_url": PICTURE}]}]}, "content[1].image_url"),
    ],
)
def test_a_url_is_found_wherever_an_engine_would_fetch_it(body: dict[str, Any], place: str) -> None:
    fault = media_fault(body, ())
    assert fault is not None and fault[0].endswith(place)
    assert media_fault(body, ("pictures.example",)) is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None, "input": "https://a.example"},
        {"messages": [None, 7, {"content": "see https://a.example"}, {"content": [None, "x", {"text": "x"}]}]},
        {"messages": [{"content": [{"image_url": None}, {"image_url": {"url": 7}}, {"image_url": {"url": DATA}}]}]},
        {"input": [[1, 2], "x"]},
    ],
)
def test_bodies_without_a_url_of_media_pass(body: dict[str, Any]) -> None:
    assert media_fault(body, ()) is None


async def test_a_line_and_an_online_request_are_refused_with_the_place(
    make_client: MakeClient, engines: FakeEngines
) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}]
    found = await validated(file_of(line("a"), line("b", body_messages=messages)))
    assert marks(found) == [("media_url_not_allowed", 2, "body.messages[0].content[0].image_url.url")]
    model = {"id": "good", "source": "x"}
    body = {"model": "good", "messages": messages}
    error = error_of(await make_client(models=[model]).post(CHAT, json=body))
    assert (error["code"], error["param"]) == ("media_url_not_allowed", "messages[0].content[0].image_url.url")
    assert not engines.calls
    client = make_client(models=[{**model, "allowed_media_domains": ["pictures.example"]}])
    assert (await client.post(CHAT, json=body)).status_code == 200


# What is connected to. Names stand for addresses of this machine, of which the tests take the first for public.

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"
NAMES = {
    "pictures.example": [PUBLIC],
    "other.example": [PUBLIC],
    "inside.example": [PRIVATE],
    "both.example": [PRIVATE, PUBLIC],
}


class Pictures(ThreadingHTTPServer):
    """Serves a picture at any path, and redirects `/to?URL`; `asked` has what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.addresses: set[str] = set()
        super().__init__(("0.0.0.0", 0), PicturesHandler)


class PicturesHandler(BaseHTTPRequestHandler):
    server: Pictures

    def do_GET(self) -> None:
        self.server.addresses.add(self.connection.getsockname()[0])
        self.server.asked.append(f"{self.headers['host'].partition(':')[0]}{self.path}")
        path, _, target = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("location", target)
            self.end_headers()
            return
        picture = BytesIO()
        Image.new("RGB", (3, 2)).save(picture, "png")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(picture.getvalue())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def media() -> ModuleType:
    """deployments.media; its import is vLLM's, whose warnings are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deployments.media

    return deployments.media


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pictures]:
    real = socket.getaddrinfo

    def known(host: str, *rest: Any, **more: Any) -> Any:
        return [found for each in NAMES.get(host, [host]) for found in real(each, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    with Pictures() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


Fetch = Callable[..., Any]


@pytest.fixture
async def fetch(media: ModuleType, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fetch]:
    """As vLLM's front end fetches an image: fetch(URL, "host", ...) with {} for the server's port."""
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    monkeypatch.setattr(media, "is_public", lambda address: address == PUBLIC)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    port = pictures.server_address[1]

    async def image(url: str, *allowed: str) -> Any:
        connector = MEDIA_CONNECTOR_REGISTRY.load(
            media.NAME, media_io_kwargs=None, allowed_local_media_path="/", allowed_media_domains=list(allowed)
        )
        connections.append(connector.connection)
        return await connector.fetch_image_async(url.replace("{}", str(port)))

    connections: list[Any] = []
    media._connection.cache_clear()
    yield image
    for connection in connections:
        if connection._session is not None:
            await connection._session.close()


async def test_a_picture_is_fetched_from_a_host_that_is_named(fetch: Fetch, pictures: Pictures) -> None:
    image = await fetch("http://pictures.example:{}/cat.png", "pictures.example")
    assert image.size == (3, 2)
    assert (await fetch("http://other.example:{}/cat.png", "*")).size == (3, 2)
    assert pictures.asked == ["pictures.example/cat.png", "other.example/cat.png"]


@pytest.mark.parametrize("allowed", [(), ("other.example",)])
async def test_no_other_host_is_asked(media: ModuleType, fetch: Fetch, pictures: Pictures, allowed: Any) -> None:
    with pytest.raises(media.MediaRefused, match="allowed_media_domains"):
        await fetch("http://pictures.example:{}/cat.png", *allowed)
    assert not pictures.asked


async def test_a_redirect_leads_to_named_hosts_alone(media: ModuleType, fetch: Fetch, pictures: Pictures) -> None:
    start = "http://pictures.example:{}/to?"
    image = await fetch(start + "http://other.example:{}/cat.png", "pictures.example", "other.example")
    assert image.size == (3, 2)
    for target in ("http://other.example:{}/cat.png", "http://127.0.0.1:{}/", "//other.example:{}/"):
        pictures.asked.clear()
        with pytest.raises(media.MediaRefused):
            await fetch(start + target, "pictures.example")
        assert [each.partition("?")[0] for each in pictures.asked] == ["pictures.example/to"]


async def test_an_address_that_is_not_public_is_not_connected_to(
    media: ModuleType, fetch: Fetch, pictures: Pictures
) -> None:
    for url in ("http://inside.example:{}/", "http://pictures.example:{}/to?http://inside.example:{}/"):
        with pytest.raises(media.MediaRefused, match="not on the public internet"):
            await fetch(url, "*")
    with pytest.raises(Exception, match="Invalid URL"):  # 127.0.0.2 in another form
        await fetch("http://2130706434:{}/", "*")
    for _ in range(2):  # of several addresses each is the first in turn
        with contextlib.suppress(media.MediaRefused):
            await fetch("http://both.example:{}/", "*")
    assert pictures.addresses == {PUBLIC}


async def test_what_a_name_stands_for_is_looked_at_when_it_is_connected_to(
    media: ModuleType, fetch: Fetch, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name passed a moment ago, and its address was public then."""
    monkeypatch.setitem(NAMES, "rebound.example", [PUBLIC])
    assert (await fetch("http://rebound.example:{}/1", "rebound.example")).size == (3, 2)
    monkeypatch.setitem(NAMES, "rebound.example", [PRIVATE])
    media._connection(("rebound.example",))._session.connector.clear_dns_cache()
    with pytest.raises(media.MediaRefused):
        await fetch("http://rebound.example:{}/2", "rebound.example")
    assert pictures.asked == ["rebound.example/1"]


async def test_files_are_not_read_and_data_is(media: ModuleType, fetch: Fetch) -> None:
    picture = BytesIO()
    Image.new("RGB", (3, 2)).save(picture, "png")
    assert (await fetch("data:image/png;base64," + base64.b64encode(picture.getvalue()).decode())).size == (3, 2)
    with pytest.raises(RuntimeError, match="Cannot load local files"):
        await fetch("file:///etc/hostname", "*")


async def test_nothing_is_fetched_past_the_event_loop(media: ModuleType, fetch: Fetch, pictures: Pictures) -> None:
    with pytest.raises(media.MediaRefused):
        media.GuardedConnector(None, allowed_media_domains=["*"]).fetch_image("http://pictures.example/cat.png")
    assert not pictures.asked
