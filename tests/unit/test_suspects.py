"""A line that kills engines fails alone; who merely was in one when it died does not."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batch.suspects import Beside, after_death, groups
from tests.unit.waiting import until
from tests.unit.yard import Yard, requests


def deaths_until_condemned(shard_lines: int, guilty: int) -> tuple[int, list[int]]:
    """Runs the groups as a dispatcher does. Returns deaths and who was condemned."""
    suspects, condemned = after_death({}, range(shard_lines), shard_lines)
    deaths = 1
    while suspects and not condemned:
        for group in groups(suspects, (), shard_lines):
            if guilty in group.positions:
                deaths += 1
                innocent = [position for position in suspects if position not in group.positions]
                suspects, condemned = after_death(suspects, group.positions, shard_lines)
                assert set(innocent) <= set(suspects), "who was not in the group is not blamed"
                break
            suspects = {position: number for position, number in suspects.items() if position not in group.positions}
    return deaths, condemned


@given(st.integers(1, 4096).flatmap(lambda lines: st.tuples(st.just(lines), st.integers(0, lines - 1))))
def test_the_line_that_kills_is_condemned_alone_after_at_most_six_deaths(shard: tuple[int, int]) -> None:
    shard_lines, guilty = shard
    deaths, condemned = deaths_until_condemned(shard_lines, guilty)
    assert condemned == [guilty]
    assert 4 <= deaths <= 6


def test_the_line_that_kills_is_condemned_after_five_deaths_in_a_shard_of_the_default_size() -> None:
    assert deaths_until_condemned(128, 77) == (5, [77])


@given(st.integers(1, 4096), st.integers(1, 6), st.integers(1, 300), st.sets(st.integers(0, 300)))
def test_groups_hold_each_line_once(shard_lines: int, most_deaths: int, number: int, slow: set[int]) -> None:
    deaths = {position: position % most_deaths for position in range(min(number, shard_lines))}
    found = groups(deaths, slow, shard_lines)
    assert sorted(position for group in found for position in group.positions) == sorted(deaths)
    for group in found:
        assert group.alone is (max(deaths[position] for position in group.positions) >= 2)
        assert group.apart is (group.alone or bool(slow & {*group.positions}))
        assert not slow & {*group.positions} or len(group.positions) == 1


def test_a_slow_line_runs_without_other_lines_and_lets_online_requests_go_on() -> None:
    [others, slow] = groups({0: 0, 1: 0, 2: 1}, {1}, 128)
    assert (others.positions, others.beside) == ([0, 2], Beside.ANYTHING)
    assert (slow.positions, slow.beside) == ([1], Beside.ONLINE)


def test_a_slow_line_that_may_have_killed_engines_as_well_has_the_engine_to_itself() -> None:
    assert [group.beside for group in groups({0: 2}, {0}, 128)] == [Beside.NOTHING]


def test_a_line_is_condemned_only_at_the_second_death_at_which_it_was_by_itself() -> None:
    suspects, condemned = after_death({}, range(128), 128)
    by_itself = []
    while 5 in suspects:
        [group] = [group for group in groups(suspects, (), 128) if 5 in group.positions]
        by_itself.append(group.alone and len(group.positions) == 1)
        suspects, condemned = after_death(suspects, group.positions, 128)
    assert condemned == [5]
    assert by_itself == [False, False, True, True]


SHARD_SECONDS = 0.4


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path, shard_lines=8)
    made.engines.slots = 16
    yield made
    made.store.close()


def poisoned(*numbers: int) -> Any:
    marks = [f'"line-{number}"'.encode() for number in numbers]
    return lambda body: any(mark in body for mark in marks)


@pytest.mark.parametrize("guilty", [(7,), (3, 20, 39), (0, 1, 2)])
async def test_lines_that_kill_engines_stand_in_the_error_file_and_the_rest_completes(
    yard: Yard, guilty: tuple[int, ...]
) -> None:
    yard.engines.poison = poisoned(*guilty)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(40)))
    errors = await yard.lines(batch.error_file_id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 40 - len(guilty), len(guilty))
    assert [line["custom_id"] for line in errors] == [f"line-{number}" for number in guilty]
    assert {line["error"]["code"] for line in errors} == {"engine_lost"}
    assert yard.engines.deaths <= 6 * len(guilty)
    assert batch.engine_losses <= yard.engines.deaths
    # None was answered twice: what was answered before a death is durable.
    assert len(yard.engines.seen) == len(set(yard.engines.seen)) == 40 - len(guilty)


async def strike(yard: Yard) -> None:
    """Kills r1 from outside once lines are in it; it starts again."""
    async with asyncio.timeout(10):
        await yard.engines.arrived.wait()
    yard.engines.kill("r1")
    yard.engines.restart("r1")


async def test_kills_from_outside_blame_no_line(yard: Yard) -> None:
    yard.engines.hold()
    async with yard.dispatcher():
        batch_id = await yard.create(requests(40))
        for _ in range(3):
            yard.engines.arrived.clear()
            await strike(yard)
        yard.engines.open.set()
        batch = await yard.finished(batch_id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 40, 0)


async def test_a_batch_that_has_spent_its_allowance_waits_for_a_person_and_others_go_on(tmp_path: Path) -> None:
    yard = Yard(tmp_path, shard_lines=8, engine_losses=1)
    yard.engines.poison = poisoned(3)
    async with yard.dispatcher():
        batch_id = await yard.create(requests(8))
        paused = await yard.until(batch_id, lambda batch: batch.paused_at is not None)
        assert paused.status == "in_progress"
        yard.engines.poison = poisoned()
        other = await yard.finished(await yard.create(requests(3)))
        assert other.completed == 3
        assert (await yard.batch(batch_id)).completed == paused.completed
        await yard.store.resume_batch("default", batch_id)
        batch = await yard.finished(batch_id)
    assert (batch.completed, batch.failed) == (8, 0)
    yard.store.close()


async def test_suspects_run_one_shard_in_a_replica_at_a_time_beside_the_others(yard: Yard) -> None:
    yard.engines.alive = {"r1", "r2"}
    yard.engines.slots = 32
    yard.engines.hold()
    async with yard.dispatcher() as dispatcher:
        batch_id = await yard.create(requests(160))
        await until(lambda: yard.engines.in_flight == 128)
        for replica in ("r1", "r2"):
            yard.engines.kill(replica)
            yard.engines.restart(replica)
        yard.engines.sent.clear()
        await until(lambda: yard.engines.in_flight == 8 * (2 + 4))
        await until(lambda: given_back(yard, 14))  # of 16
        await dispatcher.start_shards()
        await until(lambda: given_back(yard, 14))
        assert {replica for replica, _, _ in yard.engines.sent} == {"r1", "r2"}
        yard.engines.open.set()
        batch = await yard.finished(batch_id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 160, 0)
    assert len(set(yard.engines.seen)) == 160
    assert {beside for _, _, beside in yard.engines.sent} == {Beside.ANYTHING}


async def given_back(yard: Yard, shards: int) -> bool:
    """Whether so many with suspects wait in the ledger."""
    claims = await yard.store.claim_shards("probe", 60, "tiny", 99, suspect=True)
    for claim in claims:
        await yard.store.release(claim)
    return len(claims) == shards


async def seconds_of_a_batch(folder: Path, *, all_die: bool) -> float:
    """Eight replicas, three rounds of shards for each, a shard is done after SHARD_SECONDS however many run beside."""
    yard = Yard(folder, shard_lines=4, poll_seconds=0.1)
    yard.engines.alive, yard.engines.slots = {f"r{number}" for number in range(8)}, 8
    yard.engines.seconds = SHARD_SECONDS
    async with yard.dispatcher():
        began = time.monotonic()
        batch_id = await yard.create(requests(8 * 4 * 4 * 3))
        if all_die:
            await until(lambda: yard.engines.in_flight == 8 * 16)
            for replica in sorted(yard.engines.alive):
                yard.engines.kill(replica)
                yard.engines.restart(replica)
        batch = await yard.finished(batch_id)
    assert (batch.completed, batch.failed) == (8 * 4 * 4 * 3, 0)
    yard.store.close()
    return time.monotonic() - began


async def test_a_batch_whose_engines_all_die_once_takes_at_most_twice_as_long(tmp_path: Path) -> None:
    undisturbed = await seconds_of_a_batch(tmp_path / "undisturbed", all_die=False)
    assert undisturbed > 3 * SHARD_SECONDS
    assert await seconds_of_a_batch(tmp_path / "struck", all_die=True) < 2 * undisturbed


async def test_suspects_that_run_alone_let_others_have_a_turn(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.batch.dispatch.APART_SECONDS", 0.0)
    yard.engines.slots = 4
    batch_id = await yard.create(requests(48))
    await yard.lifecycle("me").validate_next()
    [claim] = await yard.store.claim_shards("me", 60, "tiny", 1)
    await yard.store.release(claim, dict.fromkeys(range(8), 2))
    async with yard.dispatcher():
        batch = await yard.finished(batch_id)
    assert (batch.completed, batch.failed) == (48, 0)
    alone = [index for index, (_, _, beside) in enumerate(yard.engines.sent) if beside is Beside.NOTHING]
    assert len(alone) == 8
    assert alone[-1] > 7, "others in between"
