"""Around every request: its id, its time, its metrics, and an answer to what nobody foresaw."""

import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.asgi import HttpMiddleware
from app.api.errors import INTERNAL, error_response
from app.api.metrics import Metrics
from app.api.request_ids import NAME, request_id_of
from app.errors import BatchyardError

log = structlog.get_logger()

CLIENT_LEFT = 499
"""The status under which a request counts whose client left before an answer; the number is nginx's."""


class Observe(HttpMiddleware):
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        super().__init__(app)
        self._metrics = metrics

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, send)
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            log.info("client left", request_id=exchange.request_id, path=scope["path"])
        except Exception as error:
            request = {"request_id": exchange.request_id, "method": scope["method"], "path": scope["path"]}
            if isinstance(error.__cause__, BatchyardError):  # Starlette's own, round one that came too late to be told
                log.warning("answer cut off", **request, reason=str(error.__cause__))
            else:
                log.exception("request failed", **request)
            if exchange.status is not None:
                raise  # half an answer is out: the server must cut the connection, so that it does not look whole
            await error_response(INTERNAL)(scope, receive, exchange.send)
        finally:
            self._metrics.observe(scope, exchange.status or CLIENT_LEFT, exchange.seconds())


class _Exchange:
    """One request and its answer. `status` is None until the answer starts."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status: int | None = None
        self.request_id = request_id_of(Headers(scope=scope))
        self._send = send
        self._started = time.perf_counter()
        scope.setdefault("state", {})["request_id"] = self.request_id

    def seconds(self) -> float:
        return time.perf_counter() - self._started

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[NAME] = self.request_id
            headers["openai-processing-ms"] = str(round(self.seconds() * 1000))
        await self._send(message)
