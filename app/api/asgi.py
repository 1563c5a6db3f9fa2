"""What our middlewares have in common."""

from starlette.types import ASGIApp, Receive, Scope, Send


class HttpMiddleware:
    """Middleware in plain ASGI, so that bodies pass part by part. Lifespan and WebSockets pass it untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.handle if scope["type"] == "http" else self._app)(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        raise NotImplementedError
