"""Runs app.batch in a loop. Several may run: the ledger's leases keep them apart."""

import asyncio
import time
from collections.abc import Mapping
from uuid import uuid4

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from app.alerts import Sentinel
from app.batch.dispatch import Dispatcher
from app.batch.lifecycle import Lifecycle
from app.batch.loops import run_loops
from app.objects import Objects
from app.settings import Settings
from app.store import Store
from app.telemetry import alert, start_telemetry
from deployments.replica_port import keep_to_loopback
from deployments.replicas.engines import RayEngines
from deployments.replicas.losses import Losses, node_lives
from deployments.replicas.watch import ReplicaWatch
from deployments.restarts import RestartWatch


@serve.deployment(name="Dispatcher")
class BatchDispatcher:
    """The loops run from the constructor on: work that a request started would end with its client."""

    async def __init__(self, settings: Settings, engines: Mapping[str, DeploymentHandle], deploy: str) -> None:
        start_telemetry("dispatcher")
        keep_to_loopback()
        store = await asyncio.to_thread(Store.open_existing, settings.database_url, lambda: int(time.time()))
        objects = await Objects.open(settings.objects_url, store)
        restarts = RestartWatch(store, list(engines), settings.restarts_per_hour, deploy)
        watch = ReplicaWatch(
            settings.models, engines, restarts=restarts.restarts, budget=settings.restarts_per_hour, lost=_alert_of_loss
        )
        owner = f"dispatcher-{uuid4().hex}"
        losses = Losses(watch, node_lives, ray.get_runtime_context().get_node_id())
        self._dispatcher = Dispatcher(store, objects, RayEngines(watch, engines, losses), settings, owner)
        self._lifecycle = Lifecycle(store, objects, settings, owner, capabilities=watch.capabilities)
        self._drain_seconds = settings.dispatch.drain_seconds
        self._tasks = [
            asyncio.create_task(watch.run(), name="watch"),
            asyncio.create_task(restarts.run(), name="restarts"),
            asyncio.create_task(Sentinel(store, watch, settings.data).run(), name="sentinel"),
            asyncio.create_task(run_loops(self._dispatcher, self._lifecycle, settings.dispatch), name="loops"),
        ]

    def batch_created(self) -> None:
        """A hint from a gateway: the new batch need not wait for the next look into the ledger."""
        self._lifecycle.batch_created.set()

    def check_health(self) -> None:
        """Serve's health check: a loop that ended has ended with an error, and Serve replaces the replica."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def __del__(self) -> None:
        """Serve's graceful end, as in a redeploy: lines in flight may finish, the rest is free for others at once."""
        await self._dispatcher.drain(self._drain_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._dispatcher.close()


def _alert_of_loss(model: str, replica: str, reason: str) -> None:
    alert("replica_lost", f"A replica of model {model} is lost.", model=model, replica=replica, reason=reason)
