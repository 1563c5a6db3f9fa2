import pytest

from app.store import ShardClaim, Store, Usage
from tests.store.scene import (
    LAPSED,
    LEASE,
    MODEL,
    TENANT,
    a_claim,
    all_segments,
    batch_in,
    claims,
    draft,
    ended_claim,
    running_batch,
    the_batch,
    truth,
)

# Claim


async def test_shards_are_claimed_oldest_batch_first_and_in_order(store: Store) -> None:
    await running_batch(store, "batch_b", shards=2)
    await running_batch(store, "batch_a", shards=2)
    found = await claims(store, limit=3) + await claims(store, limit=1)
    assert [(claim.batch_id, claim.index) for claim in found] == [
        ("batch_b", 0),
        ("batch_b", 1),
        ("batch_a", 0),
        ("batch_a", 1),
    ]
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9) == []


async def test_a_claim_says_all_that_is_needed_to_run_its_lines(store: Store) -> None:
    await running_batch(store, shards=2, lines=3, endpoint="/v1/embeddings")
    _, claim = await claims(store, limit=2)
    assert claim == ShardClaim(
        batch_id="batch_1",
        index=1,
        epoch=1,
        offset=30,
        length=30,
        first_line=4,
        count=3,
        endpoint="/v1/embeddings",
        model=MODEL,
        input_key="files/file-in",
        done=frozenset(),
    )


async def test_only_shards_of_the_model_are_claimed(store: Store) -> None:
    await running_batch(store, model="another")
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9) == []
    assert len(await store.claim_shards("dispatcher", LEASE, "another", 9)) == 1


@pytest.mark.parametrize("status", ["validating", "finalizing", "cancelling", "completed", "failed", "cancelled"])
async def test_no_shard_is_claimed_of_a_batch_that_does_not_run(store: Store, status: str) -> None:
    await batch_in(store, status)
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9) == []


async def test_a_shard_changes_hands_when_its_lease_has_run_out(store: Store) -> None:
    await running_batch(store)
    first = await a_claim(store, "first", LAPSED)
    second = await a_claim(store, "second", LEASE)
    assert (second.key, second.epoch) == (("batch_1", 0, 2), first.epoch + 1)
    assert await store.claim_shards("third", LEASE, MODEL, 9) == []


async def test_the_next_owner_is_told_which_lines_are_done(store: Store) -> None:
    await running_batch(store, shards=2, lines=5)
    first, other = await claims(store, "first", LAPSED, limit=2)
    await store.record([draft(first, [4, 0], failed=[0]), draft(other, [1])])
    await store.record([draft(first, [2])])
    second, other = await claims(store, "second", LAPSED, limit=2)
    assert (second.done, other.done) == (frozenset({0, 2, 4}), frozenset({1}))
    await store.record([draft(second, [1])])
    assert (await a_claim(store, "third")).done == {0, 1, 2, 4}


# Record


async def test_results_are_counted_summed_and_kept(store: Store) -> None:
    await running_batch(store, shards=2, lines=4)
    first, second = await claims(store, limit=2)
    held = await store.record(
        [
            draft(first, [3, 1, 0], failed=[1], usage=Usage(100, 10, 20, 2)),
            draft(second, [2], usage=Usage(1, 0, 2**40, 0)),
        ]
    )
    assert held == {first.key, second.key}
    batch, segments = await truth(store)
    assert (batch.total, batch.completed, batch.failed) == (8, 3, 1)
    assert Usage(batch.input_tokens, batch.cached_tokens, batch.output_tokens, batch.reasoning_tokens) == Usage(
        101, 10, 2**40 + 20, 2
    )
    assert [(each.shard, each.start, each.end, each.lines, each.failed) for each in segments] == [
        (0, 0, 30, (3, 1, 0), {1}),
        (1, 0, 10, (2,), frozenset()),
    ]
    assert await store.segments("batch_1", 1, 1) == segments[1:]


async def test_a_shard_is_done_with_the_segment_that_finishes_it(store: Store) -> None:
    await running_batch(store, lines=4)
    claim = await a_claim(store, lease=LAPSED)
    assert await store.record([draft(claim, [0, 1]), draft(claim, [2, 3], finishes=True)]) == {claim.key}
    assert await store.claim_shards("second", LEASE, MODEL, 9) == []
    assert not await store.record([draft(claim, [0])])
    assert (await ended_claim(store)).batch.completed == 4


async def test_a_shard_may_finish_without_a_further_line(store: Store) -> None:
    await running_batch(store, lines=2)
    first = await a_claim(store, "first", LAPSED)
    await store.record([draft(first, [0, 1])])
    second = await a_claim(store, "second")
    assert second.done == {0, 1}
    assert await store.record([draft(second, [], finishes=True)]) == {second.key}
    assert len(await all_segments(store)) == 1
    assert (await ended_claim(store)).batch.completed == 2


async def test_an_owner_whose_lease_ran_out_may_record_while_nobody_has_taken_over(store: Store) -> None:
    await running_batch(store)
    claim = await a_claim(store, lease=LAPSED)
    assert await store.record([draft(claim, [0])]) == {claim.key}


async def test_results_that_came_in_time_count_though_the_batch_is_cancelled(store: Store) -> None:
    await running_batch(store)
    claim = await a_claim(store)
    await store.cancel_batch(TENANT, "batch_1")
    assert await store.record([draft(claim, [0])]) == {claim.key}
    assert (await the_batch(store)).completed == 1


async def test_recording_nothing_is_nothing(store: Store) -> None:
    assert await store.record([]) == set()


# A late owner


async def assert_too_late(store: Store, claim: ShardClaim) -> None:
    """None of the owner's writes acts, and none changes what anybody can see."""
    before = await truth(store)
    assert await store.record([draft(claim, [0, 1], failed=[1], finishes=True)]) == set()
    assert await store.renew_shards([claim.key], LEASE) == set()
    assert not await store.release(claim, {0: 1})
    assert not await store.note_slow(claim, {0})
    assert not await store.blame(claim, {0: 2}, excused=1, allowance=1)
    assert await truth(store) == before


async def test_a_late_owner_writes_nothing_after_another_has_the_shard(store: Store) -> None:
    await running_batch(store)
    late = await a_claim(store, "late", LAPSED)
    holder = await a_claim(store, "holder", LAPSED)
    await store.record([draft(holder, [2])])
    await assert_too_late(store, late)


async def test_a_late_owner_writes_nothing_after_it_has_itself_claimed_the_shard_anew(store: Store) -> None:
    await running_batch(store)
    late = await a_claim(store, "same", LAPSED)
    again = await a_claim(store, "same", LEASE)
    await assert_too_late(store, late)
    assert await store.record([draft(again, [0])]) == {again.key}


async def test_a_late_owner_writes_nothing_after_it_gave_the_shard_back(store: Store) -> None:
    await running_batch(store)
    late = await a_claim(store)
    assert await store.release(late)
    await assert_too_late(store, late)


async def test_a_record_whose_answer_got_lost_is_tried_again_and_changes_nothing(store: Store) -> None:
    await running_batch(store, lines=2)
    claim = await a_claim(store)
    last = draft(claim, [0, 1], finishes=True)
    assert await store.record([last]) == {claim.key}
    before = await truth(store)
    assert await store.record([last]) == {claim.key}, "or its writer would delete the object that holds the results"
    assert await store.renew_shards([claim.key], LEASE) == set()
    assert not await store.release(claim, {0: 1})
    assert not await store.note_slow(claim, {0})
    assert not await store.blame(claim, {0: 2}, excused=1, allowance=1)
    assert await truth(store) == before


async def test_a_late_owner_writes_nothing_after_the_batch_was_closed_for_finalising(store: Store) -> None:
    await running_batch(store)
    late = await a_claim(store, lease=LAPSED)
    await store.record([draft(late, [3])])
    await store.cancel_batch(TENANT, "batch_1")
    await ended_claim(store)
    await assert_too_late(store, late)


async def test_a_late_owner_writes_nothing_after_the_batch_has_ended(store: Store) -> None:
    await running_batch(store)
    late = await a_claim(store, lease=LAPSED)
    await store.record([draft(late, [3])])
    await store.cancel_batch(TENANT, "batch_1")
    assert await store.finish_batch(await ended_claim(store), None, None)
    await assert_too_late(store, late)
    batch = await the_batch(store)
    assert (batch.completed, batch.failed) == (1, 3)


async def test_a_late_shard_does_not_spoil_the_others_of_the_same_record(store: Store) -> None:
    await running_batch(store, shards=3, lines=2)
    late, *_ = await claims(store, "first", LAPSED, limit=1)
    taken, mine, also_mine = await claims(store, "second", LEASE, limit=3)
    held = await store.record([draft(mine, [0]), draft(late, [0, 1], failed=[0]), draft(also_mine, [1], failed=[1])])
    assert held == {mine.key, also_mine.key}
    batch, segments = await truth(store)
    assert (batch.completed, batch.failed, batch.input_tokens) == (1, 1, 10)
    assert [each.shard for each in segments] == [1, 2]
    assert await store.record([draft(taken, [0])]) == {taken.key}


# Renew and release


async def test_a_renewed_lease_keeps_the_shard(store: Store) -> None:
    await running_batch(store, shards=2)
    kept, lost = await claims(store, lease=LAPSED, limit=2)
    assert await store.renew_shards([kept.key], LEASE) == {kept.key}
    assert (await a_claim(store, "second")).index == lost.index
    assert await store.claim_shards("third", LEASE, MODEL, 9) == []


async def test_renewing_names_only_the_claims_that_still_hold(store: Store) -> None:
    await running_batch(store, shards=4)
    late, released, done, kept = await claims(store, lease=LEASE, limit=4)
    await store.renew_shards([late.key], LAPSED)
    await a_claim(store, "second")
    await store.release(released)
    await store.record([draft(done, [0], finishes=True)])
    keys = [claim.key for claim in (late, released, done, kept)]
    assert await store.renew_shards([*keys, ("batch_9", 0, 1)], LEASE) == {kept.key}


@pytest.mark.parametrize("end", ["cancelled", "expired", "stopped"])
async def test_renewing_leaves_out_the_shards_of_a_batch_that_ends_but_keeps_them_for_their_owner(
    store: Store, end: str
) -> None:
    await running_batch(store, "batch_1", expires_at=0)
    await running_batch(store, "batch_2")
    ending, going_on = await claims(store, lease=LAPSED, limit=2)
    if end == "cancelled":
        await store.cancel_batch(TENANT, "batch_1")
    elif end == "expired":
        await store.expire_batches()
    else:
        await store.stop_batch("batch_1", {"code": "input_gone"})
    assert await store.renew_shards([ending.key, going_on.key], LEASE) == {going_on.key}
    assert await store.claim_ended_batch("finaliser", LEASE) is None
    assert await store.record([draft(ending, [0])]) == {ending.key}


async def test_renewing_nothing_is_nothing(store: Store) -> None:
    await running_batch(store)
    await a_claim(store, lease=LAPSED)
    assert await store.renew_shards([], LEASE) == set()
    await store.renew_batches([], LEASE)
    assert len(await claims(store, "second")) == 1


async def test_a_shard_given_back_is_free_at_once_and_keeps_its_results(store: Store) -> None:
    await running_batch(store)
    first = await a_claim(store, lease=LEASE)
    await store.record([draft(first, [1])])
    assert await store.release(first)
    second = await a_claim(store, "second")
    assert second.done == frozenset({1})
