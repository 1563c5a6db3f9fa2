"""Small requests go to a gateway whole: a client that is slow, or says nothing, waits here, where that costs little."""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.asgi import HttpMiddleware
from app.api.pace import OTHERS, STALLED, PacedBody, TooSlow, is_upload
from app.api.windows import BODY_IS_HERE
from deployments.proxy_answers import answer

SMALL_BYTES = 64 * 1024
"""What is read here of a body. uvicorn holds as much of any connection before it stops to read."""

LARGE_AT_ONCE = 32
"""Larger bodies (long prompts, pictures) that gateways are reading at one time. Others wait for a place."""

PLACE_SECONDS = 30.0
"""How long they wait."""


class SmallBodiesFirst(HttpMiddleware):
    """Reads a body, or the beginning of a large one, before the request goes on. Uploads go on at once: the gateway
    says whether there is a place for them before a byte is read."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self._places = asyncio.Semaphore(LARGE_AT_ONCE)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_upload(scope):
            await self._app(scope, receive, send)
            return
        try:
            beginning = await _beginning(receive)
        except TooSlow as error:
            for part in answer(408, str(error), code=STALLED, headers={"connection": "close"}):
                await send(part)
            return
        if beginning is None:
            return
        if not beginning["more_body"]:
            extensions = {**scope.get("extensions", {}), BODY_IS_HERE: {}}
            await self._app({**scope, "extensions": extensions}, _Body(beginning, receive).receive, send)
            return
        await self._large(scope, _Body(beginning, receive), send)

    async def _large(self, scope: Scope, body: "_Body", send: Send) -> None:
        """The place is free again once the whole body was read, or the request has its answer."""
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            words = f"{LARGE_AT_ONCE} requests with large bodies are under way. Please try again."
            for part in answer(503, words, code="too_many_large_bodies"):
                await send(part)
            return
        body.when_read = self._places.release
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.done()


async def _beginning(receive: Receive) -> Message | None:
    """As one message; None: the client has left. Raises TooSlow."""
    paced, body, more = PacedBody(receive, OTHERS), bytearray(), True
    while more and len(body) < SMALL_BYTES:
        message = await paced.receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return {"type": "http.request", "body": bytes(body), "more_body": more}


class _Body:
    """A body whose beginning was read already. `when_read` is called once."""

    def __init__(self, beginning: Message, rest: Receive) -> None:
        self.when_read: Callable[[], None] = _nothing
        self._beginning: Message | None = beginning
        self._rest = rest

    async def receive(self) -> Message:
        message, self._beginning = self._beginning, None
        if message is None:
            message = await self._rest()
        if not message.get("more_body", False):
            self.done()
        return message

    def done(self) -> None:
        when_read, self.when_read = self.when_read, _nothing
        when_read()


def _nothing() -> None: ...
