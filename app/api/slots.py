"""How many requests a gateway works on at once. Ray Serve's own limit would keep probes out, too, and tell nobody."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.asgi import HttpMiddleware
from app.api.auth import OPEN_PATHS
from app.api.errors import error_response, unavailable


class RequestSlots(HttpMiddleware):
    """Answers 503 at once while `slots` requests are under way. Probes and scrapers need none."""

    def __init__(self, app: ASGIApp, slots: int) -> None:
        super().__init__(app)
        self._slots = slots
        self._taken = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
        elif self._taken >= self._slots:
            message = f"{self._slots} requests are under way, and no more may be (limits.requests_at_once)."
            await error_response(unavailable(message, "too_many_requests_at_once"))(scope, receive, send)
        else:
            self._taken += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._taken -= 1
