"""Says in words why replicas are missing: what the cluster lacks, or why they do not start."""

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
import structlog
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from app.settings import ModelSettings, Settings

log = structlog.get_logger()

LOOK_SECONDS = 5.0
"""How often Serve's status is read (13 ms a time)."""

SLOW_START = "that have taken more than"


class PlacementDiagnosis:
    """Looks at the cluster and at Serve's status; `reason` gives the newest finding without waiting."""

    def __init__(self, settings: Settings, deployments: Mapping[str, str]) -> None:
        self._settings = settings
        self._deployments = deployments
        self._reasons: dict[str, str | None] = {}

    def reason(self, model: str) -> str | None:
        return self._reasons.get(model)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._look()
            except (RayError, RayServeException) as error:  # the controller is being restarted, say
                log.warning("Serve's status cannot be read", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        resources, statuses = await asyncio.to_thread(lambda: (ray.cluster_resources(), _deployment_statuses()))
        for model in self._settings.models:
            reason = _shortage(model, resources) or _trouble(statuses.get(self._deployments[model.id]))
            if reason is not None and reason != self._reasons.get(model.id):
                log.warning("replicas are missing", model=model.id, reason=reason)
            self._reasons[model.id] = reason


def bundle(model: ModelSettings) -> dict[str, float]:
    """What one device of a replica asks of the cluster."""
    return {"CPU": 1} if model.device == "cpu" else {"CPU": 1, "GPU": 1}


def devices(model: ModelSettings) -> int:
    """Devices of one replica."""
    return int(model.engine.get("tensor_parallel_size", 1)) * int(model.engine.get("pipeline_parallel_size", 1))


def cpu_replicas(settings: Settings) -> int:
    """Replicas of all models that compute on CPUs, each device of one counted by itself."""
    return sum(devices(model) * model.replicas for model in settings.models if model.device == "cpu")


def cpus(settings: Settings) -> int:
    """CPUs that all replicas of all models ask of the cluster."""
    return sum(int(bundle(model)["CPU"]) * devices(model) * model.replicas for model in settings.models)


def _shortage(model: ModelSettings, resources: Mapping[str, float]) -> str | None:
    for kind, each in bundle(model).items():
        wanted = each * devices(model) * model.replicas
        there = resources.get(kind, 0)
        if there < wanted:
            return (
                f"it needs {wanted:g} {kind} ({model.replicas} replicas of {each * devices(model):g}) "
                f"and the cluster has {there:g}"
            )
    if model.accelerator_type and not resources.get(f"accelerator_type:{model.accelerator_type}"):
        return f"it needs GPUs of type {model.accelerator_type} and the cluster has none"
    return None


def _trouble(status: Any) -> str | None:
    if status is None or status.status.value == "HEALTHY" or not status.message:
        return None
    if SLOW_START in status.message:  # no fault: it may wait for our brakes, or its model is large
        return None
    lines = [line.strip() for line in status.message.strip().splitlines() if line.strip()]
    # Serve's first line says what happened, the last is the exception at the bottom of the traceback.
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def _deployment_statuses() -> Mapping[str, Any]:
    return {name: status for app in serve.status().applications.values() for name, status in app.deployments.items()}
