import pytest

from app.store import Store
from tests.store.scene import (
    LAPSED,
    LEASE,
    MODEL,
    TENANT,
    Clock,
    a_claim,
    a_file,
    all_segments,
    batch_in,
    claims,
    draft,
    ended_claim,
    new_batch,
    new_claim,
    plans,
    running_batch,
    the_batch,
)


async def nothing_has_ended(store: Store) -> bool:
    return await store.claim_ended_batch("finaliser", LEASE) is None


# Which batches have ended


async def test_a_batch_has_ended_once_its_last_shard_is_done(store: Store, clock: Clock) -> None:
    await running_batch(store, shards=2, lines=2)
    assert await nothing_has_ended(store)
    first, second = await claims(store, limit=2)
    await store.record([draft(first, [0, 1], finishes=True)])
    assert await nothing_has_ended(store)
    await store.record([draft(second, [0]), draft(second, [1], failed=[1], finishes=True)])
    clock.now += 7
    claim = await ended_claim(store)
    assert claim.batch == await the_batch(store)
    assert (claim.batch.status, claim.batch.finalizing_at) == ("finalizing", clock.now)
    assert (claim.batch.ending, claim.batch.completed, claim.batch.failed) == (None, 3, 1)


async def test_a_batch_whose_shard_only_lost_its_owner_has_not_ended(store: Store) -> None:
    await running_batch(store)
    await a_claim(store, lease=LAPSED)
    assert await nothing_has_ended(store)


async def test_a_cancelled_batch_has_ended_once_no_owner_holds_a_shard(store: Store) -> None:
    await running_batch(store, shards=3)
    released, lapsing = await claims(store, limit=2)
    await store.cancel_batch(TENANT, "batch_1")
    await store.release(released)
    assert await nothing_has_ended(store)
    await store.renew_shards([lapsing.key], LAPSED)
    assert (await ended_claim(store)).batch.status == "cancelling"


async def test_a_batch_cancelled_before_validation_has_ended(store: Store) -> None:
    await new_batch(store)
    assert await nothing_has_ended(store)
    await store.cancel_batch(TENANT, "batch_1")
    assert (await ended_claim(store)).batch.total == 0


@pytest.mark.parametrize("status", ["validating", "in_progress", "completed", "failed", "expired", "cancelled"])
async def test_a_batch_that_runs_or_is_finished_is_not_finalised(store: Store, status: str) -> None:
    await batch_in(store, status)
    assert await nothing_has_ended(store)


async def test_the_batch_that_ended_first_in_line_is_finalised_first(store: Store) -> None:
    for name in ("batch_b", "batch_a"):
        await new_batch(store, name)
    for name in ("batch_a", "batch_b"):
        await store.cancel_batch(TENANT, name)
    assert [(await ended_claim(store)).batch.id for _ in range(2)] == ["batch_b", "batch_a"]


# The claim


async def test_a_batch_is_finalised_by_one_until_its_lease_runs_out(store: Store) -> None:
    await batch_in(store, "finalizing")
    first = await ended_claim(store, "first", LEASE)
    assert await nothing_has_ended(store)
    await store.renew_batches([(first.batch.id, first.epoch)], LAPSED)
    second = await ended_claim(store, "second", LAPSED)
    assert (second.batch, second.epoch) == (first.batch, first.epoch + 1)
    await store.renew_batches([(second.batch.id, second.epoch)], LEASE)
    assert await nothing_has_ended(store)


async def test_a_validator_that_still_renews_does_not_hold_up_the_finalising(store: Store) -> None:
    await new_batch(store)
    validation = await new_claim(store)
    await store.start_batch(validation, MODEL, plans(1, 1))
    await store.renew_batches([(validation.batch.id, validation.epoch)], LEASE)
    await store.record([draft(await a_claim(store), [0], finishes=True)])
    assert (await ended_claim(store)).batch.id == validation.batch.id


async def test_a_finaliser_that_lost_its_lease_finishes_nothing(store: Store) -> None:
    await batch_in(store, "finalizing")
    late = await ended_claim(store, "late", LAPSED)
    holder = await ended_claim(store, "holder", LEASE)
    segments = await all_segments(store)
    assert not await store.finish_batch(late, a_file("file-late"), a_file("file-late-errors"))
    assert (await the_batch(store)).status == "finalizing"
    assert await store.file(TENANT, "file-late") is None
    assert await all_segments(store) == segments
    assert await store.finish_batch(holder, a_file("file-out"), None)


async def test_a_batch_is_finished_once(store: Store) -> None:
    await batch_in(store, "finalizing")
    claim = await ended_claim(store)
    assert await store.finish_batch(claim, a_file("file-out"), None)
    batch = await the_batch(store)
    assert not await store.finish_batch(claim, a_file("file-again"), a_file("file-errors"))
    await store.renew_batches([(claim.batch.id, claim.epoch)], LEASE)
    assert await the_batch(store) == batch
    assert await store.file(TENANT, "file-again") is None
    assert await nothing_has_ended(store)


async def test_a_second_finaliser_finds_the_same_shards_and_segments(store: Store) -> None:
    await running_batch(store, shards=2, lines=2)
    await store.record([draft(await a_claim(store), [0, 1], finishes=True)])
    await store.cancel_batch(TENANT, "batch_1")
    await ended_claim(store, lease=LAPSED)
    first = await store.shard_plans("batch_1"), await all_segments(store)
    await ended_claim(store, lease=LEASE)
    assert [len(rows) for rows in first] == [2, 1]
    assert (await store.shard_plans("batch_1"), await all_segments(store)) == first


# The end


async def test_a_finished_batch_names_its_result_files_and_drops_its_shards(store: Store, clock: Clock) -> None:
    await running_batch(store, shards=2, lines=2)
    first, second = await claims(store, limit=2)
    await store.record([draft(first, [0, 1], finishes=True), draft(second, [0, 1], failed=[1], finishes=True)])
    claim = await ended_claim(store)
    clock.now += 7
    output, errors = a_file("file-out", purpose="batch_output"), a_file("file-err", purpose="batch_output")
    assert await store.finish_batch(claim, output, errors)
    batch = await the_batch(store)
    assert (batch.status, batch.completed_at) == ("completed", clock.now)
    assert (batch.total, batch.completed, batch.failed) == (4, 3, 1)
    assert (batch.output_file_id, batch.error_file_id) == ("file-out", "file-err")
    assert await store.file(TENANT, "file-out") == output
    assert await store.file(TENANT, "file-err") == errors
    assert (await store.shard_plans("batch_1"), await all_segments(store)) == ([], [])


async def test_other_batches_keep_their_shards_and_segments(store: Store) -> None:
    await running_batch(store, "batch_1", shards=1, lines=2)
    await running_batch(store, "batch_2", shards=1, lines=2)
    first, second = await claims(store, limit=2)
    await store.record([draft(first, [0, 1], finishes=True), draft(second, [0])])
    await store.finish_batch(await ended_claim(store), None, None)
    assert len(await store.shard_plans("batch_2")) == 1
    assert len(await all_segments(store, "batch_2")) == 1
    assert await store.record([draft(second, [1], finishes=True)]) == {second.key}


@pytest.mark.parametrize("end", ["cancelled", "expired", "failed"])
async def test_lines_that_did_not_run_count_as_failed_however_the_batch_ends(store: Store, end: str) -> None:
    await running_batch(store, shards=2, lines=4, expires_at=0)
    claim = await a_claim(store, lease=LAPSED)
    await store.record([draft(claim, [0, 1, 2], failed=[1])])
    if end == "cancelled":
        await store.cancel_batch(TENANT, "batch_1")
    elif end == "expired":
        await store.expire_batches()
    else:
        await store.stop_batch("batch_1", {"code": "input_gone"})
    assert await store.finish_batch(await ended_claim(store), a_file("file-out"), a_file("file-err"))
    batch = await the_batch(store)
    assert (batch.status, batch.total, batch.completed, batch.failed) == (end, 8, 2, 6)
    assert batch.completed_at is None
    assert vars(batch)[f"{end}_at"] is not None


async def test_a_batch_cancelled_while_it_is_finalised_ends_as_cancelled_with_all_its_results(store: Store) -> None:
    await batch_in(store, "finalizing")
    claim = await ended_claim(store)
    await store.cancel_batch(TENANT, "batch_1")
    assert await store.finish_batch(claim, a_file("file-out"), None)
    batch = await the_batch(store)
    assert (batch.status, batch.completed, batch.failed, batch.output_file_id) == ("cancelled", 4, 0, "file-out")
    assert batch.completed_at is None
