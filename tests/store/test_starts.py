"""The brakes: who may start now, what counts, and when."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from app.store import StartAnswer, Store
from app.store.starts import HOUR

BUDGET = 3


@pytest.fixture
async def model(store: Store) -> AsyncIterator["Model"]:
    yield Model(store)


class Model:
    """A model of two replicas whose starts lie `age` seconds back once `older` was called."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.number = 0

    async def ask(self, starter: str | None = None, deploy: str = "d1", budget: int = BUDGET) -> StartAnswer:
        self.number += 1
        name = starter or f"replica-{self.number}"
        return await self.store.ask_to_start("tiny", name, deploy=deploy, planned=2, budget=budget)

    def older(self, seconds: float) -> None:
        with self.store.begin(write=True) as connection:
            earlier = "update starts set at = at - :seconds, failed_at = failed_at - :seconds"
            connection.execute(text(earlier), {"seconds": seconds})

    async def deployed(self) -> None:
        for _ in range(2):
            assert (await self.ask()).wait_seconds == 0

    async def spent(self) -> None:
        await self.deployed()
        for _ in range(BUDGET):
            assert (await self.ask()).wait_seconds == 0
            self.older(100)


async def test_the_first_starts_of_a_deploy_are_planned_and_never_count(model: Model) -> None:
    await model.deployed()
    for deploy in ("d2", "d3", "d4"):
        for _ in range(2):
            assert await model.ask(deploy=deploy) == StartAnswer(0)
    assert (await model.store.restarts("tiny", BUDGET)).counted == 0


async def test_the_first_unplanned_start_goes_at_once_and_the_next_wait_twice_as_long_each(model: Model) -> None:
    await model.deployed()
    assert await model.ask(budget=99) == StartAnswer(0)
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        answer = await model.ask("next", budget=99)
        assert pause - 1 < answer.wait_seconds <= pause
        assert answer.refills_at is None
        model.older(pause)
        assert await model.ask(budget=99) == StartAnswer(0)


async def test_who_asks_again_is_counted_once(model: Model) -> None:
    await model.deployed()
    for _ in range(5):
        assert await model.ask("same") == StartAnswer(0)
    assert (await model.store.restarts("tiny", BUDGET)).counted == 1


async def test_a_spent_budget_refills_when_the_oldest_start_is_an_hour_old(model: Model) -> None:
    await model.spent()
    answer = await model.ask("waiting")
    known = await model.store.restarts("tiny", BUDGET)
    assert answer.wait_seconds > 0 and answer.refills_at is not None
    assert known.counted == BUDGET and known.refills_at == pytest.approx(answer.refills_at, abs=1)
    model.older(HOUR - 301)
    assert (await model.ask("waiting")).refills_at is not None
    model.older(2)
    assert await model.ask("waiting") == StartAnswer(0)


async def test_a_deploy_starts_its_replicas_though_the_budget_is_spent(model: Model) -> None:
    await model.spent()
    assert await model.ask(deploy="d2") == StartAnswer(0)
    assert await model.ask(deploy="d2") == StartAnswer(0)
    assert (await model.ask(deploy="d2")).refills_at is not None


async def test_a_reset_lifts_the_budget_and_the_pause_at_once(model: Model) -> None:
    await model.spent()
    await model.store.reset_restarts("another")
    assert (await model.ask("waiting")).refills_at is not None
    await model.store.reset_restarts("tiny")
    assert await model.ask("waiting") == StartAnswer(0)
    assert (await model.store.restarts("tiny", BUDGET)).counted == 1


async def test_a_budget_of_none_lets_nothing_start_again(model: Model) -> None:
    await model.deployed()
    assert (await model.ask(budget=0)).refills_at is not None
    assert (await model.store.restarts("tiny", 0)).refills_at is not None


async def test_the_budget_is_a_models_own_and_outlives_the_process(model: Model, url: str) -> None:
    await model.spent()
    again = Store.open(url, lambda: 0)
    assert (await again.ask_to_start("tiny", "r", deploy="d1", planned=2, budget=BUDGET)).refills_at is not None
    assert (await again.ask_to_start("other", "r", deploy="d1", planned=0, budget=BUDGET)).wait_seconds == 0
    again.close()


async def test_a_clock_that_was_set_back_makes_nobody_wait_longer_than_the_longest_pause(model: Model) -> None:
    await model.deployed()
    await model.ask()
    model.older(-7200)
    assert await model.ask() == StartAnswer(0)


async def test_a_reset_hides_no_restart_of_the_last_hour(model: Model) -> None:
    await model.spent()
    await model.store.reset_restarts("tiny")
    known = await model.store.restarts("tiny", BUDGET)
    assert (known.last_hour, known.counted) == (BUDGET, 0)
    model.older(HOUR)
    assert (await model.store.restarts("tiny", BUDGET)).last_hour == 0


async def test_a_reset_says_whether_there_was_anything_to_lift(model: Model) -> None:
    assert not await model.store.reset_restarts("tiny")
    await model.deployed()
    assert not await model.store.reset_restarts("tiny")
    await model.ask()
    assert await model.store.reset_restarts("tiny")
    assert not await model.store.reset_restarts("tiny")


async def test_the_reason_of_a_failed_start_is_known_while_the_next_one_tries(model: Model) -> None:
    await model.ask("r1")
    await model.store.note_failure("r1", "no such folder")
    model.older(5)
    await model.ask("r2")
    known = await model.store.restarts("tiny", BUDGET, "d1")
    assert known.failure == "no such folder"
    assert (known.failure_age, known.newest_start_age) == (pytest.approx(5, abs=1), pytest.approx(0, abs=1))
    await model.store.note_failure("r2", "no memory")
    assert (await model.store.restarts("tiny", BUDGET, "d1")).failure == "no memory"


async def test_the_end_of_one_that_started_well_is_as_old_as_the_end_and_not_as_the_start(model: Model) -> None:
    await model.ask("r1")
    await model.ask("r2")
    await model.store.note_failure("r2", "no memory")
    model.older(300)
    await model.store.note_failure("r1", "its front end was busy")
    known = await model.store.restarts("tiny", BUDGET, "d1")
    assert known.failure == "its front end was busy"
    assert known.failure_age == pytest.approx(0, abs=1)


async def test_a_failure_belongs_to_the_deploy_that_it_was_of(model: Model) -> None:
    await model.ask("r1", deploy="d1")
    await model.store.note_failure("r1", "Loading lora polite failed")
    for known in (
        await model.store.restarts("tiny", BUDGET, "d2"),
        await model.store.restarts("another", BUDGET, "d1"),
    ):
        assert (known.failure, known.failure_age, known.newest_start_age) == (None, None, None)


async def test_it_is_known_whether_a_deploy_had_none_but_its_first_starts(model: Model) -> None:
    await model.spent()
    assert not (await model.store.restarts("tiny", BUDGET, "d1")).all_planned
    await model.ask(deploy="d2")
    assert (await model.store.restarts("tiny", BUDGET, "d2")).all_planned


async def test_old_starts_are_forgotten_and_a_deploy_does_not_get_its_planned_ones_again(model: Model) -> None:
    await model.spent()
    await model.store.forget_starts(HOUR)
    assert (await model.store.restarts("tiny", BUDGET)).counted == BUDGET
    model.older(HOUR)
    await model.store.forget_starts(HOUR)
    with model.store.begin(write=False) as connection:
        kinds = connection.execute(text("select distinct kind from starts")).scalars().all()
    assert kinds == ["planned"]
    await model.ask("after a day")
    assert (await model.store.restarts("tiny", BUDGET)).counted == 1
