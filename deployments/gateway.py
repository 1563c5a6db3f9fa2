"""The ingress: hands Serve a Starlette app, and passes online requests on to the engine replicas."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.api.app import build_app
from app.api.online import Headers, OnlineAnswer
from app.errors import EngineLost
from app.objects import Objects
from app.settings import Settings
from app.store import Store
from app.telemetry import start_telemetry
from deployments.placement import PlacementDiagnosis
from deployments.replica_port import keep_to_loopback
from deployments.replicas.watch import ReplicaWatch
from deployments.restarts import RestartWatch


@serve.deployment(name="Gateway")
@serve.ingress()
class Gateway:
    """Serve calls `__serve_build_asgi_app__` once the constructor is through, on the replica's event loop."""

    async def __init__(
        self,
        settings: Settings,
        engines: Mapping[str, DeploymentHandle],
        dispatcher: DeploymentHandle,
        deploy: str,
    ) -> None:
        start_telemetry("gateway")
        keep_to_loopback()
        self._dispatcher = dispatcher
        self._hint: asyncio.Future[Any] | None = None
        self._settings = settings
        self._handles = engines
        self._store = await asyncio.to_thread(Store.open_existing, settings.database_url, lambda: int(time.time()))
        diagnosis = PlacementDiagnosis(settings, {model: handle.deployment_name for model, handle in engines.items()})
        restarts = RestartWatch(self._store, list(engines), settings.restarts_per_hour, deploy)
        self._watch = ReplicaWatch(
            settings.models,
            engines,
            restarts=restarts.restarts,
            budget=settings.restarts_per_hour,
            finding=diagnosis.finding,
        )
        self._tasks = [
            asyncio.create_task(self._watch.run(), name="watch"),
            asyncio.create_task(diagnosis.run(), name="diagnosis"),
            asyncio.create_task(restarts.run(), name="restarts"),
        ]
        await self._watch.first_look()  # Serve sends requests from the end of this constructor on

    async def __serve_build_asgi_app__(self) -> Any:
        objects = await Objects.open(self._settings.objects_url, self._store)
        return build_app(
            self._settings,
            self._store,
            objects,
            self._watch,
            RayOnline(self._handles),
            capabilities=self._watch.capabilities,
            batch_created=self._tell_dispatcher,
        )

    def _tell_dispatcher(self) -> None:
        """One hint at a time: they would queue up while the dispatcher is down, whose polls find the batch as well."""
        if self._hint is None or self._hint.done():
            self._hint = asyncio.gather(self._dispatcher.batch_created.remote(), return_exceptions=True)

    def check_health(self) -> None:
        """Serve's health check: a task that ended has ended with an error."""
        for task in self._tasks:
            if task.done():
                task.result()


class RayOnline:
    """Online requests to the replica with the shortest queue."""

    def __init__(self, handles: Mapping[str, DeploymentHandle]) -> None:
        self._handles = handles

    async def call(self, model: str, path: str, body: bytes, headers: Headers) -> OnlineAnswer:
        """Raises EngineLost when the replica dies before it answers."""
        parts = _parts(self._handles[model].options(stream=True).call.remote(path, body, list(headers)))
        start = await anext(parts)
        return OnlineAnswer(start.status, start.headers, parts)


async def _parts(stream: Any) -> AsyncIterator[Any]:
    try:
        async for part in stream:
            yield part
    except (asyncio.CancelledError, GeneratorExit):
        stream.cancel()
        raise
    except Exception as error:
        raise EngineLost(f"{type(error).__name__}: {error}") from error
