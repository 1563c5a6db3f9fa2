"""Back-pressure through something that has none: a real uvicorn at one end, an application at the other."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.windows import PIECE, WINDOW, GatewayWindows, ProxyWindows
from tests.unit.serve import WithWindows
from tests.unit.test_http1 import serving
from tests.unit.waiting import until

CHUNK = 384 * 1024
"""More than uvicorn hands on at a time: what it holds before it stops to read, and one read."""

LONG = 8 * WINDOW


class Application:
    """Reads the body part by part, each when it is told to, and answers with as many bytes as `answer` says."""

    def __init__(self, answer: int = 0, reads: bool = True) -> None:
        self.go_on = asyncio.Event()
        self.started = asyncio.Event()
        self.read = self.sent = 0
        self._answer = answer
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started.set()
        more = self._reads
        while more:
            await self.go_on.wait()
            message = await receive()
            assert message["type"] == "http.request"
            self.read += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while self.sent < self._answer:
            await send({"type": "http.response.body", "body": b"x" * PIECE, "more_body": True})
            self.sent += PIECE
        await send({"type": "http.response.body", "body": b"end"})


def head(length: int, extra: bytes = b"") -> bytes:
    return b"POST /v1/files HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (extra, length)


async def test_a_body_that_nobody_reads_stays_with_the_client() -> None:
    app = Application()
    serve = WithWindows(app)
    async with serving(ProxyWindows(serve)) as connect, asyncio.timeout(20):
        reader, writer = await connect()
        writer.write(head(LONG) + b"x" * LONG)
        await app.started.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert serve.up.most == 0
        app.go_on.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert app.read == LONG
    assert serve.up.most <= WINDOW + CHUNK


async def test_continue_is_said_once_the_application_wants_the_body() -> None:
    app = Application()
    async with serving(ProxyWindows(WithWindows(app))) as connect, asyncio.timeout(20):
        reader, writer = await connect()
        writer.write(head(3, b"Expect: 100-continue\r\n"))
        await app.started.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        app.go_on.set()
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_who_is_refused_is_told_so_before_the_body_is_read() -> None:
    serve = WithWindows(Application(reads=False))
    async with serving(ProxyWindows(serve)) as connect, asyncio.timeout(20):
        reader, writer = await connect()
        writer.write(head(LONG, b"Expect: 100-continue\r\n"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert serve.up.most == 0


async def test_an_answer_that_nobody_takes_stays_with_the_application() -> None:
    app = Application(answer=64 * 1024 * 1024, reads=False)  # far more than the kernel takes
    serve = WithWindows(app)
    async with serving(ProxyWindows(serve)) as connect, asyncio.timeout(60):
        reader, writer = await connect()
        writer.write(head(0))
        before = -1
        while before != app.sent:  # until nothing moves any more
            before = app.sent
            await asyncio.sleep(0.2)
        assert app.sent < 64 * 1024 * 1024
        total = 0
        while not (part := await reader.read(1 << 20)).endswith(b"end\r\n0\r\n\r\n"):
            total += len(part)
        assert total > app.sent == 64 * 1024 * 1024
    assert serve.down.most <= WINDOW + PIECE


async def test_a_client_that_leaves_ends_what_waits_for_it() -> None:
    app = Application(answer=1 << 40, reads=False)
    ended = asyncio.Event()

    async def until_left(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        sending = asyncio.create_task(app(scope, receive, send))
        assert [(await receive())["type"] for _ in range(2)] == ["http.disconnect"] * 2  # it stays true
        sending.cancel()
        ended.set()

    async with serving(ProxyWindows(WithWindows(until_left))) as connect, asyncio.timeout(20):
        _, writer = await connect()
        writer.write(head(0))
        await until(lambda: app.sent > WINDOW)
        writer.transport.abort()
        await ended.wait()


async def test_the_application_is_told_when_the_proxy_is_lost() -> None:
    async def lost() -> Message:
        raise ConnectionError("the proxy has died")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def send(message: Message) -> None: ...

    with pytest.raises(ConnectionError, match="the proxy has died"):
        await GatewayWindows(app)({"type": "http", "extensions": {"batchyard.windows": {}}}, lost, send)


async def test_without_such_a_proxy_nothing_is_said() -> None:
    said: list[str] = []
    app: Callable[..., object] = Application(answer=4 * WINDOW, reads=False)

    async def send(message: Message) -> None:
        said.append(message["type"])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await GatewayWindows(app)({"type": "http"}, receive, send)  # type: ignore[arg-type]
    assert set(said) == {"http.response.start", "http.response.body"}
