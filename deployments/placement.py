"""Says in words why replicas are missing: what the cluster lacks, or why they do not start."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
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

NO_ROOM = "to be scheduled"
"""In Serve's message about replicas that Ray has not placed for half a minute."""


@dataclass(frozen=True)
class Finding:
    """Why replicas of a model are missing: what the cluster lacks for them, and what Serve has to say."""

    shortage: str | None = None
    trouble: str | None = None


class PlacementDiagnosis:
    """Looks at the cluster and at Serve's status; `finding` gives the newest one without waiting."""

    def __init__(self, settings: Settings, deployments: Mapping[str, str]) -> None:
        self._settings = settings
        self._deployments = deployments
        self._findings: dict[str, Finding] = {}

    def finding(self, model: str) -> Finding:
        return self._findings.get(model, Finding())

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
            found = Finding(shortage(model, resources), _trouble(statuses.get(self._deployments[model.id])))
            if found not in (Finding(), self.finding(model.id)):
                log.warning("replicas are missing", model=model.id, reason=found.shortage or found.trouble)
            self._findings[model.id] = found


def bundle(model: ModelSettings) -> dict[str, float]:
    """What one device of a replica asks of the cluster."""
    return {"CPU": 1} if model.device == "cpu" else {"CPU": 1, "GPU": 1}


def cpu_replicas(settings: Settings) -> int:
    """Replicas of all models that compute on CPUs, each device of one counted by itself."""
    return sum(model.devices * model.replicas for model in settings.models if model.device == "cpu")


def cpus(settings: Settings) -> int:
    """CPUs that all replicas of all models ask of the cluster."""
    return sum(int(bundle(model)["CPU"]) * model.devices * model.replicas for model in settings.models)


def shortage(model: ModelSettings, resources: Mapping[str, float]) -> str | None:
    """What of the cluster's `resources` (Ray's names and numbers) is too little for all replicas of the model."""
    for kind, each in bundle(model).items():
        wanted = each * model.devices * model.replicas
        there = resources.get(kind, 0)
        if there < wanted:
            return (
                f"it needs {wanted:g} {kind} ({model.replicas} replicas of {each * model.devices:g}) "
                f"and the cluster has {there:g}"
            )
    if model.accelerator_type and not resources.get(f"accelerator_type:{model.accelerator_type}"):
        return f"it needs GPUs of type {model.accelerator_type} and the cluster has none"
    return None


def _trouble(status: Any) -> str | None:
    """The error at the bottom of the traceback in Serve's message, or that Ray has no place for a replica.

    All else that Serve says is no news: that a health check failed, or that a start is slow, which it is while it waits
    for our brakes and while a large model loads.
    """
    if status is None or status.status.value == "HEALTHY":
        return None
    if NO_ROOM in status.message:
        return "Ray has found no place for it for half a minute; `ray status` shows what is free"
    _, _, traceback = status.message.partition("Error:\n")
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    return f"its replicas do not start: {lines[-1]}" if lines else None


def _deployment_statuses() -> Mapping[str, Any]:
    return {name: status for app in serve.status().applications.values() for name, status in app.deployments.items()}
