"""A word to the proxy in front of us, which cannot tell a request that nobody has from one that takes its time.

An extension of ASGI: where the scope offers it, a message of this type may come before the response.
"""

import asyncio

from starlette.types import Message, Receive, Scope, Send

from app.api.asgi import HttpMiddleware

TAKEN = "batchyard.request.taken"

TELL_SECONDS = 5.0
"""Most requests have their answer by then; for those the message would be a tenth of their cost."""


class TellTaken(HttpMiddleware):
    """Says that the request has arrived, if its answer has not started after TELL_SECONDS."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if TAKEN not in scope.get("extensions", {}):
            await self._app(scope, receive, send)
            return
        telling = asyncio.create_task(_tell(send))

        async def forward(message: Message) -> None:
            telling.cancel()
            await send(message)

        try:
            await self._app(scope, receive, forward)
        finally:
            telling.cancel()


async def _tell(send: Send) -> None:
    await asyncio.sleep(TELL_SECONDS)
    await send({"type": TAKEN})
