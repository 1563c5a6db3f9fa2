"""/livez, /readyz, /health: what probes and people may know. All answer even when the database hangs."""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.errors import unavailable
from app.api.gate import no_replica
from app.api.routing import resource
from app.errors import StoreUnavailable
from app.health import Health, ModelHealth
from app.settings import Settings
from app.store import BATCH_STATES, Store

STORE_SECONDS = 1.0
"""How long a probe waits for the database."""

VERSION = version("batchyard")


class Probes:
    def __init__(self, settings: Settings, store: Store, health: Health) -> None:
        self._queue_limit = settings.limits.queued_lines
        self._store = store
        self._health = health

    def routes(self) -> list[Route]:
        return [
            resource("/livez", {"GET": self.live}),
            resource("/readyz", {"GET": self.ready}),
            resource("/health", {"GET": self.health}),
        ]

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """A batch of at least one model would be accepted now; if not, 503 and why."""
        models = self._health.models()
        if not any(model.healthy for model in models):
            raise unavailable(f"{'; '.join(no_replica(model) for model in models)}. Not ready.", "model_unavailable")
        queued = (await counts_soon(self._store))["queued_lines"]
        if queued >= self._queue_limit:
            raise unavailable(f"The queue is full: {queued} lines wait, at most {self._queue_limit} may.", "queue_full")
        return JSONResponse({"status": "ok"})

    async def health(self, request: Request) -> Response:
        """The full truth; 503 when no batch can run."""
        models = self._health.models()
        status, reason, queue = _overall(models), None, None
        try:
            queue = self._queue(await counts_soon(self._store))
        except StoreUnavailable as error:
            status, reason = "unhealthy", str(error)
        report = {
            "status": status,
            "service": "batch-api",
            "version": VERSION,
            "reason": reason,
            "models": [_model(model) for model in models],
            "queue": queue,
        }
        return JSONResponse(report, 503 if status == "unhealthy" else 200)

    def _queue(self, counts: dict[str, int]) -> dict[str, int]:
        states = {state: counts.get(state, 0) for state in BATCH_STATES}
        return {**states, "lines": counts["queued_lines"], "limit": self._queue_limit}


async def counts_soon(store: Store) -> dict[str, int]:
    """The store's counts within STORE_SECONDS. Raises StoreUnavailable."""
    try:
        async with asyncio.timeout(STORE_SECONDS):
            return await store.counts()
    except TimeoutError as error:
        raise StoreUnavailable(f"The database did not answer within {STORE_SECONDS:g} s.") from error


def _overall(models: Sequence[ModelHealth]) -> str:
    states = {model.state for model in models}
    if states <= {"unhealthy", "starting"}:
        return "unhealthy"
    return "healthy" if states == {"healthy"} else "degraded"


def _model(model: ModelHealth) -> dict[str, Any]:
    seconds = model.last_healthy_seconds_ago
    return {
        "id": model.id,
        "state": model.state,
        "healthy": model.healthy,
        "target": model.target,
        "replicas_reason": model.replicas_reason,
        "last_healthy_seconds_ago": round(seconds, 1) if seconds is not None else None,
        "restarts_last_hour": model.restarts_last_hour,
        "restarts_counted": model.restarts_counted,
        "restart_budget": model.restart_budget,
        "restart_budget_spent": model.restarts_refill_at is not None,
        "restarts_refill_at": model.restarts_refill_at if model.restart_budget else None,  # 0 never refills
        "reason": model.reason,
        "starting": model.starting,
    }
