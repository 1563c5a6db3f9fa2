"""A line that kills engines fails alone; who merely was in one when it died does not."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batch.suspects import after_death, groups, in_flight_at_a_death
from tests.unit.yard import Yard, requests


def deaths_until_condemned(shard_lines: int, guilty: int) -> tuple[int, list[int]]:
    """Runs the groups as a dispatcher does. Returns deaths and who was condemned."""
    suspects = in_flight_at_a_death(range(shard_lines))
    deaths, condemned = 1, []
    while suspects:
        for group in groups(suspects, shard_lines):
            if guilty in group:
                deaths += 1
                innocent = [position for position in suspects if position not in group]
                suspects, found = after_death(suspects, group, shard_lines)
                assert set(innocent) <= set(suspects), "who was not in the group is not blamed"
                condemned += found
                break
            suspects = {position: number for position, number in suspects.items() if position not in group}
    return deaths, condemned


@given(st.integers(1, 4096).flatmap(lambda lines: st.tuples(st.just(lines), st.integers(0, lines - 1))))
def test_the_line_that_kills_is_condemned_alone_after_at_most_six_deaths(shard: tuple[int, int]) -> None:
    shard_lines, guilty = shard
    deaths, condemned = deaths_until_condemned(shard_lines, guilty)
    assert condemned == [guilty]
    assert 3 <= deaths <= 6


@given(
    st.integers(1, 4096),
    st.integers(1, 6),
    st.integers(1, 300),
)
def test_groups_hold_each_suspect_once(shard_lines: int, most_deaths: int, number: int) -> None:
    suspects = {position: 1 + position % most_deaths for position in range(min(number, shard_lines))}
    found = groups(suspects, shard_lines)
    assert sorted(position for group in found for position in group) == sorted(suspects)
    assert all(len({suspects[position] for position in group}) == 1 for group in found)


def test_a_line_is_condemned_only_at_the_second_death_at_which_it_was_by_itself() -> None:
    suspects, alone = in_flight_at_a_death(range(128)), []
    while 5 in suspects:
        [group] = [group for group in groups(suspects, 128) if 5 in group]
        alone.append(len(group) == 1)
        suspects, condemned = after_death(suspects, group, 128)
    assert condemned == [5]
    assert alone == [False, False, True, True]


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
    yard = Yard(tmp_path, shard_lines=8, engine_losses=2)
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


async def test_one_replica_has_the_suspects_and_the_others_work_on(yard: Yard) -> None:
    yard.engines.alive = {"r1", "r2"}
    yard.engines.hold()
    async with yard.dispatcher():
        batch_id = await yard.create(requests(80))
        await strike(yard)
        yard.engines.open.set()
        batch = await yard.finished(batch_id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 80, 0)
    assert len(set(yard.engines.seen)) == 80
