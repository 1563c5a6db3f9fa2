"""How Serve's proxy speaks HTTP/1: uvicorn's protocol, with three things that it lacks.

An offer to speak HTTP/2 or WebSocket is declined and the request served; HTTP/1.0 gets no chunks; a client that takes
no more bytes is cut off. All three reach below uvicorn's public surface; tests/unit/test_upgrade.py says when an
upgrade broke them.
"""

import array
import asyncio
import fcntl
import termios
from typing import Any

import uvicorn.config
from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

STALL_SECONDS = 120.0
"""A client that takes no byte for this long, and at most twice as long, is cut off. A slow one is not."""


def install() -> None:
    """From now on uvicorn's servers in this process speak like this. Serve's proxy has no option for it."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Http1Protocol.__name__}"


class Http1Protocol(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _DecliningParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._look: asyncio.TimerHandle | None = None

    def _should_upgrade(self) -> bool:
        """uvicorn's callbacks leave a request alone that offers an upgrade; it starts when that is declined.

        CONNECT, which the parser takes for one too, stays a request.
        """
        return bool(self.parser.get_method() != b"CONNECT")

    def declined(self) -> bytes | None:
        """The head of the current request without its offer. None: there was none."""
        if not self._should_upgrade():
            return None
        version = self.scope["http_version"].encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        super()._start_asgi_task(cycle, _close_delimited(cycle, app) if cycle.scope["http_version"] == "1.0" else app)

    def pause_writing(self) -> None:
        """Called by the transport when the client takes bytes slower than they come."""
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look_no_more()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        self._look = self.loop.call_later(STALL_SECONDS, self._cut_if_stalled, self._untaken())

    def _look_no_more(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _cut_if_stalled(self, before: int) -> None:
        if self._untaken() == before:  # nothing is written meanwhile, so it changes only by what the client takes
            self.transport.abort()
        else:
            self._look_again()

    def _untaken(self) -> int:
        """Bytes that the client's machine has not acknowledged: ours, and the kernel's, who may hold megabytes."""
        in_kernel = array.array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_kernel)
        return self.transport.get_write_buffer_size() + in_kernel[0]


class _DecliningParser(HttpRequestParser):
    """After an offer to upgrade httptools takes what follows for another protocol. If declined, it is the body.

    Java's HttpClient offers h2c in each first request, also in one with a body.
    """

    def __init__(self, protocol: Http1Protocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        while True:
            try:
                super().feed_data(data)
            except HttpParserUpgrade as offer:
                head = self._protocol.declined()
                if head is None:
                    raise
                data = head + data[offer.args[0] :]
            else:
                return


def _close_delimited(cycle: Any, app: Any) -> Any:
    """For a client of HTTP/1.0, which knows no chunks: the end of a body without a length is that of the connection."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        bare = False

        async def without_chunks(message: Any) -> None:
            nonlocal bare
            if message["type"] == "http.response.start":
                bare = all(name.lower() != b"content-length" for name, _ in message["headers"])
                if bare:
                    cycle.chunked_encoding = False
            elif bare and scope["method"] != "HEAD":
                cycle.expected_content_length = len(message.get("body", b""))  # as if this part were the rest
            await send(message)

        await app(scope, receive, without_chunks)

    return run
