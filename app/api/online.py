"""One request, one answer: what a batch may ask for, answered at once by the same engines."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from json import dumps
from typing import Any, Protocol

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.api import gate
from app.api.bodies import json_object, read_body
from app.api.errors import ANSWERS, ApiError, bad_request, invalid_type, missing_parameter, request_id
from app.api.models import no_model
from app.api.routing import resource
from app.api.streams import PartsResponse, closing
from app.capabilities import Capabilities, CapabilitiesOf, lacking
from app.errors import EngineLost
from app.health import Health
from app.limits import check_request, check_text
from app.media import media_fault
from app.members import misnamed
from app.settings import ENDPOINTS, Settings

log = structlog.get_logger()

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers between two neighbours, which are not passed on (RFC 9110, section 7.6.1)."""

OURS = frozenset({"authorization", "content-length", "cookie", "host", "x-request-id"})
"""Headers of a request that are for us, not for the engine; it gets our x-request-id."""

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class OnlineAnswer:
    """An engine's answer. A part of `body` is a whole number of events when it is an event stream.

    `body` may raise EngineLost; when it is closed early, the engine is to stop.
    """

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


class OnlineEngines(Protocol):
    async def call(self, model: str, path: str, body: bytes, headers: Headers) -> OnlineAnswer:
        """Sends one request, its JSON as it came, to a healthy replica of the model. Raises EngineLost."""
        ...


class Online:
    def __init__(
        self, settings: Settings, health: Health, engines: OnlineEngines, capabilities: CapabilitiesOf
    ) -> None:
        self._limits = settings.limits
        self._requests = settings.requests
        self._served = settings.served
        self._media = {model.id: model.allowed_media_domains for model in settings.models}
        self._health = health
        self._engines = engines
        self._capabilities = capabilities

    def routes(self) -> list[Route]:
        return [resource(path, {"POST": partial(self.call, path)}) for path in ENDPOINTS]

    async def call(self, path: str, request: Request) -> Response:
        body = await read_body(request, self._limits.line_bytes, "limits.line_bytes")
        model = self._checked(path, body)
        answer = await self._engines.call(model, path, body, _for_engine(request))
        parts = answer.body
        if _is_event_stream(answer.headers):
            parts = _ending_with_error(parts, request_id(request))
        headers = {name: value for name, value in answer.headers if _for_client(name.lower())}
        return await PartsResponse.start(parts, status=answer.status, headers=headers)

    def _checked(self, path: str, body: bytes) -> str:
        """The model that is to answer. Raises ApiError, RequestRefused. The parsed body does not outlive this."""
        check_text(body, self._requests)
        wanted = json_object(body)
        model = self._model_of(wanted)
        _check_asked(path, wanted, self._capabilities(model))
        check_request(path, wanted, self._requests)
        _check_media(wanted, self._media[model])
        return model

    def _model_of(self, body: dict[str, Any]) -> str:
        """The model that answers for the name in the body, and can do so now. Raises ApiError."""
        model = body.get("model")
        if model is None:
            raise missing_parameter("model")
        if not isinstance(model, str):
            raise invalid_type("model", "a string", model)
        if not model:
            raise bad_request("Invalid 'model': it is empty.", "model", "invalid_value")
        health = gate.model_named(model, self._served, self._health)
        if health is None:
            raise no_model(model)
        gate.require_replica(health, "requests")
        return health.id


def _check_asked(path: str, body: dict[str, Any], capabilities: Capabilities | None) -> None:
    """Raises ApiError for what the engine lacks, and for what it would ignore though its meaning is known."""
    if capabilities is not None and path not in capabilities.members:
        message = lacking(body["model"], path, capabilities)
        raise ApiError(404, message, param="model", code="endpoint_not_supported")
    known = None if capabilities is None else capabilities.members[path]
    if (wrong := misnamed(path, body, known)) is not None:
        name, message = wrong
        raise bad_request(message, name, "unsupported_parameter")


def _check_media(body: dict[str, Any], allowed: Sequence[str]) -> None:
    if (fault := media_fault(body, allowed)) is not None:
        place, message = fault
        raise bad_request(message, place, "media_url_not_allowed")


def _for_engine(request: Request) -> Headers:
    passed = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP | OURS]
    return [*passed, ("x-request-id", request_id(request))]


def _for_client(name: str) -> bool:
    """Whose pages may read our answers is ours to say; vLLM allows every origin."""
    return name not in HOP_BY_HOP and not name.startswith("access-control-")


def _is_event_stream(headers: Headers) -> bool:
    return any(name.lower() == "content-type" and value.startswith("text/event-stream") for name, value in headers)


async def _ending_with_error(events: AsyncIterator[bytes], request: str) -> AsyncIterator[bytes]:
    """The events; when the engine is lost among them, a last one says so. Before the first it is an error answer."""
    begun = False
    async with closing(events):
        try:
            async for event in events:
                yield event
                begun = True
        except EngineLost as error:
            if not begun:
                raise
            log.warning("engine lost in a stream", request_id=request, reason=str(error))
            yield b"data: " + dumps(ANSWERS[EngineLost](error).envelope()).encode() + b"\n\n"
