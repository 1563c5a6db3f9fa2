"""Back-pressure between Serve's proxy and a gateway, through Ray Serve, which passes bodies on without a bound.

Each end sends at most WINDOW bytes that the other has not dealt with. For a request's body the gateway asks, by
messages that go the way of the answer; of the answer's body the proxy tells what it has sent to the client, by messages
that go the way of the request. Both are extensions of ASGI: the proxy offers them in the scope, and an application that
no such proxy stands before sees nothing of it.
"""

import asyncio

from starlette.types import Message, Receive, Scope, Send

from app.api.asgi import HttpMiddleware

WINDOW = 512 * 1024
"""Bytes on their way. A round trip takes some milliseconds, so that one transfer may still have 50 MB a second."""

PIECE = WINDOW // 4
"""Parts of an answer are cut to this size; the last that fits may reach beyond the window by as much."""

WINDOWS = "batchyard.windows"
"""The extension's name."""

BODY_IS_HERE = "batchyard.body_is_here"
"""An extension, too: the request's body is short and comes without being asked for."""

BODY_WANTED = "batchyard.body.wanted"
ANSWER_SENT = "batchyard.answer.sent"


class ProxyWindows(HttpMiddleware):
    """The proxy's end, next to Serve's: reads no more of a body than the gateway has asked for."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions", {})
        end = _ProxyEnd(receive, send, WINDOW if BODY_IS_HERE in extensions else 0)
        reading = asyncio.create_task(end.read())
        try:
            await self._app({**scope, "extensions": {**extensions, WINDOWS: {}}}, end.inbox.get, end.send)
        finally:
            reading.cancel()


class _ProxyEnd:
    """`inbox` is what the gateway will receive: parts of the body, and news of its answer."""

    def __init__(self, receive: Receive, send: Send, wanted: int) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._receive = receive
        self._send = send
        self._wanted = wanted
        self._asked = asyncio.Event()
        self._sent = 0

    async def read(self) -> None:
        """Until the client has left; behind the body's end that is all that there is to read."""
        more = True
        while True:
            while more and self._wanted <= 0:
                self._asked.clear()
                await self._asked.wait()
            message = await self._receive()
            self.inbox.put_nowait(message)
            if message["type"] == "http.disconnect":
                return
            self._wanted -= len(message.get("body", b""))
            more = message.get("more_body", False)

    async def send(self, message: Message) -> None:
        if message["type"] == BODY_WANTED:
            self._wanted += message["bytes"]
            self._asked.set()
            return
        await self._send(message)  # returns once the client takes bytes
        self._sent += len(message.get("body", b""))
        if self._sent >= WINDOW // 2:
            self.inbox.put_nowait({"type": ANSWER_SENT, "bytes": self._sent})
            self._sent = 0


class GatewayWindows(HttpMiddleware):
    """The gateway's end, outside of all else: asks for a body as it is read, sends no more than the client takes."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions", {})
        if WINDOWS not in extensions:
            await self._app(scope, receive, send)
            return
        end = _GatewayEnd(receive, send, asks=BODY_IS_HERE not in extensions)
        reading = asyncio.create_task(end.read())
        try:
            await self._app(scope, end.receive, end.send)
        finally:
            reading.cancel()


class _GatewayEnd:
    def __init__(self, receive: Receive, send: Send, asks: bool) -> None:
        self._receive = receive
        self._send = send
        self._body: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self._asks = asks
        self._room = WINDOW
        """Of the window, what was not asked for."""
        self._untaken = 0
        self._moved = asyncio.Event()
        self._client_left = False

    async def read(self) -> None:
        """Tells parts of the body from news of the answer, until the client has left."""
        try:
            while not self._client_left:
                message = await self._receive()
                if message["type"] == ANSWER_SENT:
                    self._untaken -= message["bytes"]
                    self._moved.set()
                else:
                    self._body.put_nowait(message)
                    self._client_left = message["type"] == "http.disconnect"
        except Exception as error:  # noqa: BLE001 - whoever reads the body is told, as without us
            self._client_left = True
            self._body.put_nowait(error)
        self._moved.set()

    async def receive(self) -> Message:
        if self._asks and self._room >= WINDOW // 2:
            wanted, self._room = self._room, 0
            await self._send({"type": BODY_WANTED, "bytes": wanted})
        message = await self._body.get()
        if isinstance(message, Exception):
            raise message
        if message["type"] == "http.disconnect":
            self._body.put_nowait(message)  # it stays true
        self._room += len(message.get("body", b""))
        self._asks = self._asks and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        for start in range(0, len(body) or 1, PIECE):
            await self._until_taken()
            if self._client_left:
                return
            piece, end = body[start : start + PIECE], start + PIECE
            self._untaken += len(piece)
            await self._send({**message, "body": piece, "more_body": more or end < len(body)})

    async def _until_taken(self) -> None:
        while self._untaken >= WINDOW and not self._client_left:
            self._moved.clear()
            await self._moved.wait()
