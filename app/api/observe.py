"""Around every request: its id, its time, its metrics, and an answer to what nobody foresaw."""

import re
import time
from secrets import token_hex

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import INTERNAL, error_response
from app.api.metrics import Metrics

log = structlog.get_logger()

CLIENT_LEFT = 499
"""The status under which a request counts whose client left before an answer; the number is nginx's."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Observe:
    """Plain ASGI, so that a stream passes through part by part."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            log.info("client left", request_id=exchange.request_id, path=scope["path"])
        except Exception:
            log.exception("request failed", request_id=exchange.request_id, method=scope["method"], path=scope["path"])
            if exchange.status is not None:
                raise  # half an answer is out: the server must cut the connection, so that it does not look whole
            await error_response(INTERNAL)(scope, receive, exchange.send)
        finally:
            self._metrics.observe(scope, exchange.status or CLIENT_LEFT, exchange.seconds())


class _Exchange:
    """One request and its answer. `status` is None until the answer starts."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status: int | None = None
        self.request_id = _request_id(scope)
        self._send = send
        self._started = time.perf_counter()
        scope.setdefault("state", {})["request_id"] = self.request_id

    def seconds(self) -> float:
        return time.perf_counter() - self._started

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-processing-ms"] = str(round(self.seconds() * 1000))
        await self._send(message)


def _request_id(scope: Scope) -> str:
    """The client's own id where it is harmless in logs and headers."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else f"req_{token_hex(16)}"
