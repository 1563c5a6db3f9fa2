"""What is said of missing replicas, and that it survives a Serve that does not answer."""

import asyncio
from typing import Any

import pytest
from ray.exceptions import RayError

from app.settings import Settings
from deployments import placement
from deployments.placement import PlacementDiagnosis
from tests.unit.waiting import until


def diagnosis(**model: Any) -> PlacementDiagnosis:
    settings = Settings.load({"models": [{"id": "m", "source": "x", **model}]}, environ={})
    return PlacementDiagnosis(settings, {"m": "Engine:m"})


async def found(diagnosis: PlacementDiagnosis) -> str:
    task = asyncio.create_task(diagnosis.run())
    try:
        await until(lambda: diagnosis.reason("m") is not None or task.done())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    reason = diagnosis.reason("m")
    assert reason is not None
    return reason


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
    assert await found(diagnosis(replicas=2, engine=engine)) == (
        "it needs 8 GPU (2 replicas of 4) and the cluster has 0"
    )


async def test_it_names_a_type_of_gpu_that_is_not_there(serve: dict[str, float]) -> None:
    serve["GPU"] = 1
    assert await found(diagnosis(accelerator_type="H100")) == "it needs GPUs of type H100 and the cluster has none"


async def test_it_looks_again_when_serve_did_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([True, True])

    def away() -> dict[str, float]:
        if next(failures, False):
            raise RayError("the controller is being restarted")
        return {}

    monkeypatch.setattr(placement.ray, "cluster_resources", away)
    assert "the cluster has 0" in await found(diagnosis(device="cpu"))
