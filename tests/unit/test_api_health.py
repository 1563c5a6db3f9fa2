"""/livez, /readyz, /health."""

import asyncio
import time
from typing import Any

import httpx2
import pytest

from app.api import health as probes
from app.errors import StoreUnavailable
from app.store import Batch, ShardPlan, Store
from tests.unit.fakes import START, FakeHealth, MakeClient, error_of


@pytest.fixture(params=["away", "hangs"])
def lost_store(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that fails, or that never answers."""

    async def counts() -> dict[str, int]:
        if request.param == "hangs":
            await asyncio.Event().wait()
        raise StoreUnavailable("The database did not answer: disk I/O error")

    monkeypatch.setattr(store, "counts", counts)
    monkeypatch.setattr(probes, "STORE_SECONDS", 0.05)
    return store


async def add_running_batch(store: Store, lines: int) -> None:
    await store.create_batch(
        Batch("batch_1", "default", "validating", "/v1/completions", "file-1", "24h", START, START + 86400),
        queued_lines_limit=1,
    )
    claim = await store.claim_new_batch("owner", 60)
    assert claim is not None
    await store.start_batch(claim, "good", [ShardPlan(0, 1, 1, lines)])


async def test_the_process_lives_whatever_else_is_dead(
    client: httpx2.AsyncClient, health: FakeHealth, lost_store: Store
) -> None:
    health.set("good", 0)
    health.set("other/model", 0)
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_health_tells_all(client: httpx2.AsyncClient, store: Store, health: FakeHealth) -> None:
    health.set("good", 2, target=2, last_healthy_seconds_ago=0.0, restarts_last_hour=2, restarts_counted=1)
    await add_running_batch(store, lines=70)
    answer = await client.get("/health")
    assert answer.status_code == 200
    models = answer.json().pop("models")
    assert answer.json() == {
        "status": "healthy",
        "service": "batch-api",
        "version": "0.1.0",
        "reason": None,
        "models": models,
        "queue": {
            "validating": 0,
            "in_progress": 1,
            "finalizing": 0,
            "cancelling": 0,
            "completed": 0,
            "failed": 0,
            "expired": 0,
            "cancelled": 0,
            "lines": 70,
            "limit": 2_000_000,
        },
    }
    assert models[0] == {
        "id": "good",
        "state": "healthy",
        "healthy": 2,
        "target": 2,
        "last_healthy_seconds_ago": 0.0,
        "replicas_reason": None,
        "restarts_last_hour": 2,
        "restarts_counted": 1,
        "restart_budget": 10,
        "restart_budget_spent": False,
        "restarts_refill_at": None,
        "reason": None,
        "starting": None,
    }


async def test_a_model_that_loads_for_the_first_time_is_starting_and_no_batch_can_run(
    client: httpx2.AsyncClient, health: FakeHealth
) -> None:
    health.set("good", 0, starting="loading the model for 12 s")
    health.set("other/model", 0, reason="no GPU")
    answer = await client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert [(model["state"], model["starting"]) for model in answer.json()["models"]] == [
        ("starting", "loading the model for 12 s"),
        ("unhealthy", None),
    ]
    assert "not ready since this server started, loading the model for 12 s" in (await client.get("/readyz")).text
    health.set("other/model", 1)
    assert (await client.get("/health")).json()["status"] == "degraded"


@pytest.mark.parametrize(("budget", "refills_at"), [(3, 1_800_000_000.0), (0, None)])
async def test_a_spent_budget_says_when_it_refills_unless_it_never_does(
    client: httpx2.AsyncClient, health: FakeHealth, budget: int, refills_at: float | None
) -> None:
    health.set("good", 0, restart_budget=budget, restarts_refill_at=1_800_000_000.0)
    model = (await client.get("/health")).json()["models"][0]
    assert model["restart_budget_spent"]
    assert model["restarts_refill_at"] == refills_at


@pytest.mark.parametrize(
    ("good", "other", "status", "code"),
    [
        (2, 2, "healthy", 200),
        (1, 2, "degraded", 200),
        (0, 2, "degraded", 200),
        (0, 1, "degraded", 200),
        (1, 1, "degraded", 200),
        (0, 0, "unhealthy", 503),
    ],
)
async def test_health_is_that_of_all_models(
    client: httpx2.AsyncClient, health: FakeHealth, good: int, other: int, status: str, code: int
) -> None:
    health.set("good", good, target=2)
    health.set("other/model", other, target=2)
    answer = await client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (code, status)
    assert (await client.get("/readyz")).status_code == code


async def test_without_a_database_nothing_is_healthy_and_the_answer_comes_soon(
    client: httpx2.AsyncClient, lost_store: Store
) -> None:
    started = time.perf_counter()
    answer = await client.get("/health")
    assert time.perf_counter() - started < 1
    assert (answer.status_code, answer.json()["status"], answer.json()["queue"]) == (503, "unhealthy", None)
    assert answer.json()["reason"].startswith("The database did not answer")
    ready = await client.get("/readyz")
    assert (ready.status_code, error_of(ready)["code"]) == (503, "store_unavailable")


async def test_readyz_says_why_it_is_not(client: httpx2.AsyncClient, health: FakeHealth) -> None:
    assert (await client.get("/readyz")).json() == {"status": "ok"}
    health.set("good", 0, last_healthy_seconds_ago=4)
    health.set("other/model", 0, reason="no GPU")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert error_of(answer)["message"] == (
        "No healthy replica for model good (last healthy 4 s ago, restarting); "
        "No healthy replica for model other/model (not ready since this server started, no GPU). Not ready."
    )


async def test_a_full_queue_is_not_ready(make_client: MakeClient, store: Store) -> None:
    client: Any = make_client(limits={"queued_lines": 5})
    await add_running_batch(store, lines=4)
    assert (await client.get("/readyz")).status_code == 200
    client = make_client(limits={"queued_lines": 4})
    answer = await client.get("/readyz")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "queue_full")
    assert (await client.get("/health")).status_code == 200
