"""What is said of missing replicas, and that it survives a Serve that does not answer."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from app.settings import Settings
from deployments import placement
from deployments.placement import Finding, PlacementDiagnosis
from tests.unit.waiting import until


def diagnosis(**model: Any) -> PlacementDiagnosis:
    settings = Settings.load({"models": [{"id": "m", "source": "x", **model}]}, environ={})
    return PlacementDiagnosis(settings, {"m": "Engine:m"})


async def found(diagnosis: PlacementDiagnosis) -> Finding:
    task = asyncio.create_task(diagnosis.run())
    try:
        await until(lambda: diagnosis.finding("m") != Finding() or task.done())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return diagnosis.finding("m")


@pytest.fixture(autouse=True)
def serve(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The cluster's resources; Serve has no deployment yet."""
    resources = {"CPU": 8.0}
    monkeypatch.setattr(placement, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(placement, "_deployment_statuses", dict)
    return resources


async def test_it_names_what_the_cluster_lacks() -> None:
    engine = {"tensor_parallel_size": 4}
    assert (await found(diagnosis(replicas=2, engine=engine))).shortage == (
        "it needs 8 GPU (2 replicas of 4) and the cluster has 0"
    )


async def test_it_names_a_type_of_gpu_that_is_not_there(serve: dict[str, float]) -> None:
    serve["GPU"] = 1
    lacking = await found(diagnosis(accelerator_type="H100"))
    assert lacking == Finding(shortage="it needs GPUs of type H100 and the cluster has none")


async def test_it_looks_again_when_serve_did_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([True, True])

    def away() -> dict[str, float]:
        if next(failures, False):
            raise RayError("the controller is being restarted")
        return {}

    monkeypatch.setattr(placement.ray, "cluster_resources", away)
    assert "the cluster has 0" in str(await found(diagnosis(device="cpu")))


def says(message: str, status: str = "UNHEALTHY") -> str | None:
    return placement._trouble(SimpleNamespace(status=SimpleNamespace(value=status), message=message))


@pytest.mark.parametrize(
    "message",
    [
        "",
        "A replica's health check failed. This deployment will be UNHEALTHY until the replica recovers or a new "
        "deploy happens.",
        "Deployment 'Engine:m' in application 'batchyard' has 1 replicas that have taken more than 30s to initialize.\n"
        "This may be caused by a slow __init__ or reconfigure method.",
    ],
)
def test_what_serve_says_without_an_error_is_no_reason(message: str) -> None:
    assert says(message) is None


def test_of_serves_tracebacks_the_error_is_told() -> None:
    message = (
        "The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or initial "
        "health check failing. See controller logs for details. Error:\nray::ServeReplica()\n  File x\nKeyError: 'y'\n"
    )
    assert says(message) == "its replicas do not start: KeyError: 'y'"
    assert says(message, "HEALTHY") is None


def test_a_replica_that_ray_cannot_place_is_told() -> None:
    message = "Deployment 'Engine:m' has 1 replicas that have taken more than 30s to be scheduled. This may be due to"
    assert "Ray has found no place for it" in str(says(message, "UPDATING"))
