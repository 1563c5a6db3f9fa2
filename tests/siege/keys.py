"""Who comes in, and whom the server itself can be made to call."""

import asyncio
import base64
import json
from collections import Counter

from tests.siege.attack import (
    BATCHES,
    BOUNDARY,
    CHAT,
    FILES,
    FORM,
    MODEL,
    Attack,
    Fire,
    Loot,
    Prepare,
    Target,
    chat_body,
    requests,
)

WRONG_KEYS = 10_000


def _wrong_keys(target: Target) -> list[bytes]:
    return [Target(target.port, f"sk-wrong-{each:05}").request("GET", "/v1/models") for each in range(WRONG_KEYS)]


def _almost_keys(target: Target) -> list[bytes]:
    """The right key in wrong clothes: padded, doubled, with a NUL, by other schemes, of a megabyte."""
    key = str(target.key)
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    values = (
        f"Bearer \xa0{key}",
        f"Bearer {key}\xa0",
        f"Bearer {key}\x85",
        f"Bearer {key},{key}",
        f"Bearer {key}{key}",
        f"Bearer {key[:-1]}",
        f"Basic {basic}",
        key,
        f"Bearer {'k' * 60_000}",
    )
    start = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nConnection: close\r\nAuthorization: "
    return [f"{start}{value}\r\n\r\n".encode("latin-1") for value in values]


def _large_without_key(target: Target) -> list[bytes]:
    """What is not let in is not read either."""
    stranger = Target(target.port)
    bodies = [stranger.post(path, b" " * 15_000_000) for path in (CHAT, BATCHES)]
    return [*bodies, stranger.upload(b"x" * 50_000_000)] * 8


def media() -> Prepare:
    """Lines and requests that make the server fetch something: a listener of the attacker's, and other places."""

    async def prepare(target: Target) -> Fire:
        calls: Counter[str] = Counter()

        async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            calls["fetched"] += 1
            writer.close()

        listener = await asyncio.start_server(called, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        urls = [
            f"http://127.0.0.1:{port}/a.png",
            f"http://localhost:{port}/a.png",
            f"http://2130706433:{port}/a.png",
            f"http://[::ffff:127.0.0.1]:{port}/a.png",
            f"http://127.1:{port}/a.png",
            f"http://example.com@127.0.0.1:{port}/a.png",
            "http://169.254.169.254/latest/meta-data/",
            "file:///etc/passwd",
        ]
        made = [target.post(CHAT, _with_part({"type": "image_url", "image_url": {"url": url}})) for url in urls]
        made += [target.post(CHAT, _with_part({"type": "audio_url", "audio_url": {"url": url}})) for url in urls]

        async def fire() -> Loot:
            loot = await target.volley(made)
            await asyncio.sleep(1)
            loot.outcomes += calls
            listener.close()
            return loot

        return fire

    return prepare


def _with_part(part: dict[str, object]) -> dict[str, object]:
    return chat_body(messages=[{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}])


def _from_a_page(target: Target) -> list[bytes]:
    """What a page in a browser can make it send to this machine: a form, a foreign name that leads here."""
    body = json.dumps(chat_body()).encode()
    form = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{BOUNDARY}--\r\n'.encode()
    page = {"origin": "https://page.example"}
    return [
        target.request("GET", "/v1/files", host="page.example"),
        target.post(CHAT, body, host=f"page.example:{target.port}"),
        target.post(CHAT, body, **page),
        target.request("POST", CHAT, body, content_type="text/plain"),
        target.request("POST", CHAT, body, content_type="application/x-www-form-urlencoded"),
        target.request("POST", FILES, form, content_type=FORM, **page),
        target.request("POST", FILES, form, content_type=FORM, origin="null"),
        target.request("DELETE", f"{FILES}/file-1", b"", **page),
    ]


def _models(target: Target) -> list[bytes]:
    names = ["../" * 1000, "tiny\x00", "a" * 100_000, MODEL.upper(), "Engine:tiny", ""]
    return [target.post(CHAT, chat_body(model=name)) for name in names] * 8


ATTACKS = (
    Attack("wrong-keys", f"{WRONG_KEYS:,} wrong keys", requests(_wrong_keys), ("401",), seconds=180),
    Attack(
        "almost-keys", "the key padded with `\\xa0`, doubled, by other schemes", requests(_almost_keys), ("400", "401")
    ),
    Attack(
        "large-without-key",
        "8 × 80 MB of bodies without a key",
        requests(_large_without_key, at_once=24),
        ("401", "413"),
    ),
    Attack("media-urls", "media URLs of this machine, of metadata, of files", media(), ("400",)),
    Attack("model-names", "names of models: of paths, NUL, 100 kB", requests(_models), ("400", "404")),
    Attack(
        "from-a-page",
        "what a page in a browser can send, without keys: forms, DNS rebinding",
        requests(_from_a_page),
        ("400", "403", "415", "421"),
        keyless=True,
    ),
)
