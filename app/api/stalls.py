"""A request whose body stands still: it holds a place, of limits.uploads_at_once if it is an upload."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import ApiError

STALL_SECONDS = 60.0
"""How long a client may send nothing of a body that has not ended. However slow, as long as it moves, it goes on."""


class CutStalledBodies:
    """Whoever reads the body gets an ApiError (408). Waiting for a client to leave has no limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ended = False

        async def receive_in_time() -> Message:
            nonlocal ended
            if ended:
                return await receive()
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    message = await receive()
            except TimeoutError as error:
                raise _stalled() from error
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)


def _stalled() -> ApiError:
    message = f"The upload sent nothing for {STALL_SECONDS:.0f} seconds."
    return ApiError(408, message, code="upload_stalled", headers={"connection": "close"})
