"""A request whose body comes too slowly: it holds a place, of limits.uploads_at_once if it is an upload."""

from starlette.types import Message, Receive, Scope, Send

from app.api.asgi import HttpMiddleware
from app.api.errors import ApiError
from app.api.pace import STALLED, PacedBody, TooSlow, pace_of


class CutSlowBodies(HttpMiddleware):
    """Whoever reads the body gets an ApiError (408). Waiting for a client to leave has no limit."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = PacedBody(receive, pace_of(scope))

        async def receive_in_time() -> Message:
            try:
                return await body.receive()
            except TooSlow as error:
                raise ApiError(408, str(error), code=STALLED, headers={"connection": "close"}) from error

        await self._app(scope, receive_in_time, send)
