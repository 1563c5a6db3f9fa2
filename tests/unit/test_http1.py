"""How Serve's proxy speaks HTTP/1: a real uvicorn with our protocol, and clients that write their own bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from deployments import http1
from tests.unit.waiting import until

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n"
"""What JDK's HttpClient sends with its first request to an address."""

PART = b"x" * 65536

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Connect]:
    config = uvicorn.Config(app, port=0, http=http1.Http1Protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    server.capture_signals = suppress  # type: ignore[assignment, method-assign]
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    writers = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # larger ones tell late that they have room again
        own.connect(("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=own)
        writers.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in writers:
            writer.transport.abort()
        server.force_exit = server.should_exit = True
        await task


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with method, path and body in two parts, without a length."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send(
        {"type": "http.response.body", "body": f"{scope['method']} {scope['path']} ".encode(), "more_body": True}
    )
    await send({"type": "http.response.body", "body": body})


async def answer_to(*packets: bytes) -> bytes:
    """All that comes until the server closes the connection."""
    async with serving(echo) as connect:
        reader, writer = await connect()
        for packet in packets:
            writer.write(packet)
            await writer.drain()
        async with asyncio.timeout(5):
            return await reader.read()


def post(path: bytes, body: bytes, headers: bytes = b"", version: bytes = b"1.1") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST %b HTTP/%b\r\nHost: x\r\n%b%b\r\n%b" % (path, version, headers, length, body)


LAST = post(b"/last", b"", b"Connection: close\r\n")


@pytest.mark.parametrize(
    "offer",
    [
        H2C,
        b"Connection: Upgrade\r\nConnection: HTTP2-Settings\r\nUpgrade: h2c\r\n",
        b"connection: upgrade\r\nupgrade: TLS/1.3, h2c\r\n",
        b"Connection: Upgrade\r\nUpgrade: h2c\r\nExpect: x\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n",
    ],
)
async def test_a_request_that_offers_another_protocol_is_served_with_its_body(offer: bytes) -> None:
    answer = await answer_to(post(b"/v1/files", b"the body", offer) + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b"POST /v1/files \r\n8\r\nthe body\r\n" in answer
    assert b"POST /last " in answer


async def test_a_body_behind_an_offer_may_come_in_any_packets_and_in_chunks() -> None:
    chunked = (
        b"POST /c HTTP/1.1\r\nHost: x\r\n" + H2C + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    packets = [bytes([byte]) for byte in post(b"/a", b"abcde", H2C) + chunked]
    answer = await answer_to(*packets, LAST)
    assert answer.count(b"abcde") == 2
    assert b"POST /last " in answer


async def test_many_offers_in_one_packet_are_all_declined() -> None:
    answer = await answer_to(post(b"/a", b"abc", H2C) * 500 + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 501


async def test_connect_ends_as_it_did() -> None:
    answer = await answer_to(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 ")


async def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    head, _, body = (await answer_to(post(b"/a", b"abc", version=b"1.0"))).partition(b"\r\n\r\n")
    assert body == b"POST /a abc"
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()


async def test_a_client_of_http_1_0_gets_the_length_where_it_is_known() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"abc"})

    async with serving(app) as connect:
        for method, body in ((b"GET", b"abc"), (b"HEAD", b"")):
            reader, writer = await connect()
            writer.write(method + b" / HTTP/1.0\r\n\r\n")
            head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
            assert b"content-length: 3" in head
            assert rest == body


class Endless:
    """A download without an end; `left` once the server has told it that its client is gone."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        watching = asyncio.create_task(self._watch(receive))
        while not self.left.is_set():
            await send({"type": "http.response.body", "body": PART, "more_body": True})
            await asyncio.sleep(0)
        await watching

    async def _watch(self, receive: Receive) -> None:
        message: Message = await receive()
        assert message["type"] == "http.disconnect"
        self.left.set()


async def test_a_client_that_takes_no_byte_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "STALL_SECONDS", 0.05)
    app = Endless()
    async with serving(app) as connect:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await app.left.wait()
            assert not (await reader.read()).endswith(b"0\r\n\r\n"), "it looks whole"


async def test_a_client_that_takes_some_bytes_between_two_looks_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "STALL_SECONDS", 0.2)
    looks: asyncio.Queue[None] = asyncio.Queue()
    cut_if_stalled = http1.Http1Protocol._cut_if_stalled

    def look(protocol: http1.Http1Protocol, before: int) -> None:
        looks.put_nowait(None)
        cut_if_stalled(protocol, before)

    monkeypatch.setattr(http1.Http1Protocol, "_cut_if_stalled", look)
    app = Endless()
    async with serving(app) as connect:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            for _ in range(5):
                await reader.readexactly(1 << 18)
                await looks.get()
        assert not app.left.is_set()
        writer.close()
        await app.left.wait()
