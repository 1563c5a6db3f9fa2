"""/metrics in Prometheus' text format: the requests of this process, and queue and health as they are at the scrape."""

import os
import socket

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from app.api.health import counts_soon
from app.api.routing import resource
from app.errors import StoreUnavailable
from app.health import Health
from app.store import BATCH_STATES, Store

GATEWAY = f"{socket.gethostname()}:{os.getpid()}"
"""Each scrape reaches one of several gateways: without their names, their counts would look like one that jumps."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """A registry of its own: two apps in one process do not count each other's requests."""

    def __init__(self, store: Store, health: Health) -> None:
        self._store = store
        self._health = health
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "batchyard_http_requests",
            "HTTP requests answered; status 499: the client left before",
            ("gateway", "route", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "batchyard_http_request_seconds",
            "Seconds from a request to the end of its answer",
            ("gateway", "route", "method"),
            buckets=SECONDS,
            registry=self._registry,
        )

    def routes(self) -> list[Route]:
        return [resource("/metrics", {"GET": self.scrape})]

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts a request. Labels take few values, whatever clients send."""
        route = scope.get("route")
        path = route.path_format if isinstance(route, Route) else "none"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(GATEWAY, path, method, status).inc()
        self._seconds.labels(GATEWAY, path, method).observe(seconds)

    async def scrape(self, request: Request) -> Response:
        text = generate_latest(self._registry) + generate_latest(await self._gauges())
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def _gauges(self) -> CollectorRegistry:
        """Made anew for each scrape, so that nothing in it is older than the scrape."""
        now = CollectorRegistry()
        healthy = Gauge("batchyard_replicas_healthy", "Replicas that can work", ("model",), registry=now)
        target = Gauge("batchyard_replicas_target", "Replicas that should be there", ("model",), registry=now)
        restarts = Gauge(
            "batchyard_model_restarts_last_hour", "Unplanned starts within the last hour", ("model",), registry=now
        )
        counted = Gauge(
            "batchyard_model_restarts_counted", "Those that draw on restarts_per_hour", ("model",), registry=now
        )
        for model in self._health.models():
            healthy.labels(model.id).set(model.healthy)
            target.labels(model.id).set(model.target)
            restarts.labels(model.id).set(model.restarts_last_hour)
            counted.labels(model.id).set(model.restarts_counted)
        await self._add_queue(now)
        return now

    async def _add_queue(self, now: CollectorRegistry) -> None:
        up = Gauge("batchyard_store_up", "Whether the database answers", registry=now)
        try:
            counts = await counts_soon(self._store)
        except StoreUnavailable:
            return  # batchyard_store_up is 0 then
        up.set(1)
        lines = Gauge("batchyard_queued_lines", "Lines of unfinished batches without a result", registry=now)
        lines.set(counts["queued_lines"])
        batches = Gauge("batchyard_batches", "Batches by status", ("status",), registry=now)
        for status in BATCH_STATES:
            batches.labels(status).set(counts.get(status, 0))
