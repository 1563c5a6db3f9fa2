"""The sentinel's rules: what is told, when, when again, and what must not be told."""

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.alerts import COLD_START_SECONDS, DOWN_SECONDS, LOOK_SECONDS, STUCK_SECONDS, Sentinel, _budget_words
from app.errors import StoreUnavailable
from app.health import ModelHealth
from app.store import Batch
from tests.unit.fakes import START, FakeHealth

GIB = 2**30
REFILL = START + 1800


@dataclass(frozen=True)
class Usage:
    total: int
    free: int


@dataclass
class Scene:
    """A model `tiny` that is healthy, no batches, a disk with room. `alerts`: what was told, with repetitions."""

    now: float = 5000.0
    health: FakeHealth = field(default_factory=lambda: FakeHealth({}))
    batches: list[Batch] = field(default_factory=list)
    store_fault: StoreUnavailable | None = None
    disk: Usage | OSError = Usage(1000 * GIB, 500 * GIB)
    alerts: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model(healthy=1, last_healthy_seconds_ago=0.0)
        self.sentinel = Sentinel(self, self.health, Path("/data"), lambda: self.now, self._alert, self._disk_usage)

    def model(self, healthy: int, target: int = 1, model: str = "tiny", **known: Any) -> None:
        budget = {"restart_budget": 10, "restarts_refill_at": None}
        self.health.set(model, healthy, target, **{**budget, **known})

    async def open_batches(self) -> list[Batch]:
        if self.store_fault is not None:
            raise self.store_fault
        return self.batches

    async def look(self, after: float = LOOK_SECONDS) -> list[tuple[str, str | None, str | None]]:
        """What one pass tells, `after` so many seconds."""
        self.now += after
        self.alerts.clear()
        await self.sentinel.look()
        return list(self.alerts)

    async def look_for(self, seconds: float) -> list[tuple[str, str | None, str | None]]:
        """What is told in that time, each once."""
        told = []
        for _ in range(int(seconds / LOOK_SECONDS)):
            told += await self.look()
        return list(dict.fromkeys(told))

    def _alert(self, kind: str, message: str, *, model: str | None = None, batch: str | None = None) -> None:
        self.alerts.append((kind, model, batch))
        self.messages.append(message)

    def _disk_usage(self, folder: Path) -> Usage:
        if isinstance(self.disk, OSError):
            raise self.disk
        return self.disk


@pytest.fixture
def scene() -> Scene:
    return Scene()


def batch(number: int = 1, status: str = "in_progress", completed: int = 0, **values: Any) -> Batch:
    return Batch(
        id=f"batch_{number}",
        tenant="default",
        status=status,
        endpoint="/v1/chat/completions",
        input_file_id="file_1",
        completion_window="24h",
        created_at=START,
        expires_at=START + 86400,
        total=100,
        completed=completed,
        **{"model": "tiny", **values},
    )


DOWN = ("model_down", "tiny", None)
SPENT = ("restart_budget_spent", "tiny", None)
STUCK = ("batch_stuck", "tiny", "batch_1")
DISK = ("disk_nearly_full", None, None)


async def test_a_model_that_is_away_for_longer_than_a_restart_takes_is_told_of_until_it_is_back(scene: Scene) -> None:
    scene.model(healthy=0, last_healthy_seconds_ago=DOWN_SECONDS - 0.1)
    assert await scene.look() == []
    scene.model(healthy=0, last_healthy_seconds_ago=DOWN_SECONDS)
    assert await scene.look() == [DOWN]
    assert "no healthy replica for 60 s" in scene.messages[-1]
    scene.model(healthy=0, last_healthy_seconds_ago=121_680.0)  # 33.8 hours
    assert await scene.look() == [DOWN]
    scene.model(healthy=1, last_healthy_seconds_ago=0.0)
    with capture_logs() as logs:
        assert await scene.look() == []
        await scene.look()
    assert [(line["event"], line["kind"], line["model"]) for line in logs] == [("recovered", "model_down", "tiny")]


def test_the_promise_of_90_seconds_leaves_room_for_a_look_and_for_a_slow_machine() -> None:
    assert DOWN_SECONDS + LOOK_SECONDS < 90 - 15


async def test_a_model_may_load_for_ten_minutes(scene: Scene) -> None:
    scene.model(healthy=0, last_healthy_seconds_ago=None)
    assert await scene.look_for(COLD_START_SECONDS - LOOK_SECONDS) == []
    assert await scene.look() == [DOWN]
    assert "not become ready in the 600 s" in scene.messages[-1]


@pytest.mark.parametrize(
    "known",
    [{"reason": "it needs 4 GPU and the cluster has 0"}, {"restarts_last_hour": 10, "restarts_refill_at": REFILL}],
    ids=["a reason is known", "the budget is spent"],
)
async def test_a_model_that_will_not_come_up_by_itself_gets_a_minute(scene: Scene, known: dict[str, Any]) -> None:
    scene.model(healthy=0, last_healthy_seconds_ago=None, **known)
    assert DOWN not in await scene.look_for(DOWN_SECONDS - LOOK_SECONDS)
    assert DOWN in await scene.look()


async def test_a_spent_budget_is_told_at_once_when_a_replica_is_missing(scene: Scene) -> None:
    scene.model(1, target=2, last_healthy_seconds_ago=0.0, restarts_last_hour=10, restarts_refill_at=REFILL)
    assert await scene.look() == [SPENT]
    assert "1 of 2 replicas, and its budget of 10 restarts an hour is spent until 22:43 UTC" in scene.messages[-1]
    scene.model(2, target=2, last_healthy_seconds_ago=0.0, restarts_last_hour=10, restarts_refill_at=REFILL)
    assert await scene.look() == []


async def test_a_budget_of_0_is_spent_once_a_replica_has_died_and_not_while_the_first_ones_load(scene: Scene) -> None:
    zero = {"target": 2, "restart_budget": 0, "restarts_refill_at": REFILL}
    scene.model(0, last_healthy_seconds_ago=None, **zero)
    assert await scene.look_for(COLD_START_SECONDS - LOOK_SECONDS) == []
    for healthy in (1, 2):
        scene.model(healthy, last_healthy_seconds_ago=0.0, **zero)
        assert await scene.look() == []
    scene.model(1, last_healthy_seconds_ago=0.0, **zero)
    assert await scene.look() == [SPENT]


async def test_a_batch_that_stands_still_though_it_could_move_is_told_of(scene: Scene) -> None:
    scene.batches = [batch(completed=10)]
    assert await scene.look_for(STUCK_SECONDS) == []
    assert await scene.look() == [STUCK]
    assert "in_progress with 10 of 100 lines done for 15 min" in scene.messages[-1]
    scene.batches = [batch(completed=10, failed=1)]
    with capture_logs() as logs:
        assert await scene.look_for(STUCK_SECONDS) == []
    assert [(line["event"], line["batch"]) for line in logs] == [("recovered", "batch_1")]


@pytest.mark.parametrize("status", ["finalizing", "cancelling"])
async def test_a_step_of_the_dispatchers_own_is_watched_with_and_without_engines(scene: Scene, status: str) -> None:
    scene.model(healthy=0, last_healthy_seconds_ago=1.0)
    scene.batches = [batch(status=status)]
    assert await scene.look_for(STUCK_SECONDS) == []
    assert await scene.look() == [STUCK]


async def test_a_batch_in_validating_may_wait_for_its_engine_and_is_stuck_when_none_is_missing(scene: Scene) -> None:
    scene.batches = [batch(status="validating", model=None)]
    scene.model(healthy=0, last_healthy_seconds_ago=1.0)
    assert await scene.look_for(2 * STUCK_SECONDS) == []
    scene.model(healthy=1)
    assert await scene.look_for(STUCK_SECONDS - LOOK_SECONDS) == []
    assert await scene.look() == [("batch_stuck", None, "batch_1")]


async def test_a_batch_without_a_healthy_replica_waits_and_is_not_stuck(scene: Scene) -> None:
    scene.batches = [batch()]
    assert await scene.look_for(STUCK_SECONDS) == []
    scene.model(healthy=0, last_healthy_seconds_ago=1.0)
    assert await scene.look_for(2 * STUCK_SECONDS) == []
    scene.model(healthy=1, last_healthy_seconds_ago=0.0)
    assert await scene.look_for(STUCK_SECONDS - LOOK_SECONDS) == [], "the time without an engine counts for nothing"
    assert await scene.look() == [STUCK]


async def test_a_batch_behind_another_waits_for_its_turn_and_is_not_stuck(scene: Scene) -> None:
    for done in range(4):
        scene.batches = [batch(1, completed=done), batch(2), batch(3, model="other")]
        assert await scene.look_for(STUCK_SECONDS) == []
    scene.batches = [batch(2)]
    assert await scene.look_for(STUCK_SECONDS - LOOK_SECONDS) == []
    assert await scene.look_for(2 * LOOK_SECONDS) == [("batch_stuck", "tiny", "batch_2")]


async def test_batches_of_other_models_and_other_states_have_turns_of_their_own(scene: Scene) -> None:
    scene.model(healthy=1, model="other", last_healthy_seconds_ago=0.0)
    scene.batches = [batch(1), batch(2, model="other"), batch(3, status="finalizing")]
    told = await scene.look_for(STUCK_SECONDS + LOOK_SECONDS)
    assert [each[2] for each in told] == ["batch_1", "batch_2", "batch_3"]


async def test_a_paused_batch_is_told_of_and_holds_up_nobody(scene: Scene) -> None:
    scene.batches = [batch(1, paused_at=START), batch(2)]
    told = await scene.look_for(STUCK_SECONDS + LOOK_SECONDS)
    assert told == [("batch_paused", "tiny", "batch_1"), ("batch_stuck", "tiny", "batch_2")]


async def test_a_paused_batch_that_is_cancelled_is_paused_no_longer(scene: Scene) -> None:
    scene.batches = [batch(status="cancelling", paused_at=START)]
    assert await scene.look_for(STUCK_SECONDS) == []
    assert await scene.look() == [STUCK]


async def test_a_ledger_that_is_away_stops_no_other_rule_and_makes_no_batch_stuck(scene: Scene) -> None:
    scene.batches = [batch(1, paused_at=START), batch(2)]
    await scene.look_for(STUCK_SECONDS)
    scene.store_fault = StoreUnavailable("The database did not answer: locked")
    scene.model(healthy=0, last_healthy_seconds_ago=DOWN_SECONDS)
    with capture_logs() as logs:
        assert await scene.look() == [DOWN]
        scene.store_fault = None
        scene.model(healthy=1, last_healthy_seconds_ago=0.0)
        assert await scene.look() == [("batch_paused", "tiny", "batch_1")]
    assert [(line["event"], line.get("kind")) for line in logs] == [
        ("batches cannot be watched", None),
        ("recovered", "model_down"),
    ]


@pytest.mark.parametrize(
    ("total", "free", "full"),
    [(100, 4.9, True), (10, 0.4, True), (1000, 6, False), (50, 4, False), (2, 0.05, True)],
)
async def test_a_disk_is_nearly_full_below_5_percent_and_5_gib(
    scene: Scene, total: float, free: float, full: bool
) -> None:
    scene.disk = Usage(int(total * GIB), int(free * GIB))
    assert await scene.look() == ([DISK] if full else [])
    scene.disk = Usage(int(total * GIB), int(total * GIB))
    assert await scene.look() == []


async def test_a_disk_that_cannot_be_read_stops_no_other_rule(scene: Scene) -> None:
    scene.disk = OSError(errno.EIO, "Input/output error")
    scene.batches = [batch(paused_at=START)]
    with capture_logs() as logs:
        assert await scene.look() == [("batch_paused", "tiny", "batch_1")]
    assert [(line["event"], line["reason"]) for line in logs] == [("free space cannot be read", "Input/output error")]


async def test_it_looks_again_and_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    class Enough(Exception):
        pass

    async def rest(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    monkeypatch.setattr("app.alerts.asyncio.sleep", rest)
    scene.disk = Usage(100 * GIB, GIB)
    with pytest.raises(Enough):
        await scene.sentinel.run()
    assert (pauses, scene.alerts) == ([LOOK_SECONDS] * 3, [DISK] * 3)


def test_a_budget_of_none_has_no_hour_at_which_it_refills() -> None:
    health = ModelHealth("tiny", 0, 1, 3.0, 0, restart_budget=0, restarts_refill_at=1_700_000_000.0)
    assert _budget_words(health) == (
        "Model tiny has 0 of 1 replicas, and with a budget of 0 restarts an hour nothing starts again."
    )
