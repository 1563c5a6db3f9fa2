"""Batches in which something is broken: results that cannot be read, steps that fail."""

import pytest

from app.store import Store, Usage
from tests.store.scene import (
    LAPSED,
    LEASE,
    MODEL,
    TENANT,
    a_claim,
    all_segments,
    claims,
    draft,
    ended_claim,
    new_batch,
    new_claim,
    plans,
    running_batch,
    the_batch,
    truth,
)


async def all_done(store: Store) -> None:
    await running_batch(store, shards=3, lines=2)
    first, second, third = await claims(store, limit=3)
    await store.record([draft(first, [0], failed=[0]), draft(second, [0, 1], finishes=True)])
    await store.record([draft(first, [1], finishes=True), draft(third, [1, 0], failed=[1], finishes=True)])


async def test_lines_whose_results_cannot_be_read_run_again_and_no_others(store: Store) -> None:
    await all_done(store)
    claim = await ended_claim(store)
    damaged = [each for each in await all_segments(store) if (each.shard, 0 in each.lines) in ((0, True), (2, True))]
    assert len(damaged) == 2
    assert await store.run_again(claim, damaged)
    batch = await the_batch(store)
    assert (batch.status, batch.finalizing_at) == ("in_progress", None)
    assert (batch.total, batch.completed, batch.failed) == (6, 3, 0)
    first, third = await claims(store, limit=2)
    assert [(each.index, each.done) for each in (first, third)] == [(0, {1}), (2, frozenset())]
    await store.record([draft(first, [0], finishes=True), draft(third, [0, 1], finishes=True)])
    claim = await ended_claim(store)
    assert (claim.batch.completed, claim.faults) == (6, 1)
    assert await store.finish_batch(claim, None, None)


async def test_a_line_that_a_second_segment_holds_stays_counted(store: Store) -> None:
    await running_batch(store, lines=2)
    claim = await a_claim(store)
    await store.record([draft(claim, [0])])
    await store.record([draft(claim, [1, 0], finishes=True)])
    damaged = (await all_segments(store))[:1]
    assert await store.run_again(await ended_claim(store), damaged)
    assert (await the_batch(store)).completed == 2
    assert (await a_claim(store)).done == {0, 1}


@pytest.mark.parametrize("why", ["late", "cancelled"])
async def test_nothing_runs_again_for_a_late_finaliser_or_a_batch_that_is_ending(store: Store, why: str) -> None:
    await all_done(store)
    claim = await ended_claim(store, lease=LAPSED)
    if why == "late":
        await ended_claim(store)
    else:
        await store.cancel_batch(TENANT, "batch_1")
    before = await truth(store)
    assert not await store.run_again(claim, before[1])
    assert await truth(store) == before


async def test_a_late_result_of_a_shard_that_runs_again_counts_for_nothing(store: Store) -> None:
    await running_batch(store, lines=2)
    claim = await a_claim(store)
    done = draft(claim, [0, 1], finishes=True, usage=Usage())
    await store.record([done])
    assert await store.run_again(await ended_claim(store), await all_segments(store))
    assert await store.record([done]) == set()
    assert (await the_batch(store)).completed == 0


async def test_results_that_are_lost_for_good_count_as_failed(store: Store) -> None:
    await all_done(store)
    assert await store.finish_batch(await ended_claim(store), None, None, lost=3, fault={"code": "internal_error"})
    batch = await the_batch(store)
    assert (batch.status, batch.completed, batch.failed) == ("failed", 1, 5)
    assert batch.errors == [{"code": "internal_error"}]


async def test_a_batch_that_is_put_off_is_counted_and_does_not_hold_up_the_next(store: Store) -> None:
    await new_batch(store, "batch_1")
    await new_batch(store, "batch_2")
    assert await store.put_off_batch(await new_claim(store), LEASE, fault=True)
    other = await new_claim(store)
    assert (other.batch.id, other.faults) == ("batch_2", 0)
    assert await store.claim_new_batch("validator", LEASE) is None
    assert await store.put_off_batch(other, LAPSED, fault=True)
    again = await new_claim(store)
    assert (again.batch.id, again.faults) == ("batch_2", 1)
    assert not await store.put_off_batch(other, LEASE, fault=True)
    assert await store.put_off_batch(again, LAPSED, fault=False)
    again = await new_claim(store)
    assert (again.batch.id, again.faults) == ("batch_2", 1)
    assert await store.start_batch(again, MODEL, plans(1, 1))
    await store.record([draft(await a_claim(store), [0], finishes=True)])
    assert (await ended_claim(store)).faults == 0, "another step, from nought"


async def test_shards_that_fail_together_are_one_fault_and_the_batch_waits_while_others_run(store: Store) -> None:
    await running_batch(store, "batch_1", shards=2)
    await running_batch(store, "batch_2")
    first, second = await claims(store, limit=2)
    asked = []

    def pause(faults: int) -> float:
        asked.append(faults)
        return LEASE

    assert await store.put_off_shards("batch_1", pause) == 1
    assert await store.put_off_shards("batch_1", pause) == 0
    assert asked == [1]
    for claim in (first, second):
        assert await store.release(claim)
    left = await store.claim_shards("dispatcher", LEASE, MODEL, 9)
    assert [claim.batch_id for claim in left] == ["batch_2"]


async def test_a_batch_whose_pause_is_over_runs_again_and_counts_on(store: Store) -> None:
    await running_batch(store)
    assert await store.put_off_shards("batch_1", lambda _: LAPSED) == 1
    assert await store.release(await a_claim(store))
    assert await store.put_off_shards("batch_1", lambda _: LAPSED) == 2
    await store.stop_batch("batch_1", {"code": "internal_error"})
    assert await store.put_off_shards("batch_1", lambda _: LAPSED) == 0
