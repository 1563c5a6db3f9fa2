import pytest

from app.store import Batch, QueueFull, Store
from tests.store.scene import (
    FINAL,
    LAPSED,
    LEASE,
    MODEL,
    TENANT,
    UNFINISHED,
    Clock,
    a_batch,
    a_claim,
    a_file,
    all_segments,
    batch_in,
    draft,
    ended_claim,
    new_batch,
    new_claim,
    plans,
    running_batch,
    the_batch,
)

# Create, read, list


async def test_a_batch_comes_back_as_it_was_created(store: Store) -> None:
    batch = a_batch(metadata={"käse": "\u2028 \U0001f600", "": ""}, output_expires_after=3600)
    assert await store.create_batch(batch, queued_lines_limit=1) == batch
    assert await store.batch(TENANT, batch.id) == batch


async def test_a_batch_is_nobody_elses(store: Store) -> None:
    await new_batch(store)
    assert await store.batch("other", "batch_1") is None
    assert await store.cancel_batch("other", "batch_1") is None
    assert await store.list_batches("other", limit=9, after=None) == ([], False)
    assert (await the_batch(store)).status == "validating"


async def test_the_pages_hold_every_batch_once_newest_first(store: Store) -> None:
    for name in ("b", "a", "c"):
        await new_batch(store, f"batch_{name}")
    first, more = await store.list_batches(TENANT, limit=2, after=None)
    assert ([batch.id for batch in first], more) == (["batch_c", "batch_a"], True)
    last, more = await store.list_batches(TENANT, limit=2, after="batch_a")
    assert ([batch.id for batch in last], more) == (["batch_b"], False)


async def test_after_an_unknown_batch_comes_an_empty_page(store: Store) -> None:
    await new_batch(store, "batch_1")
    await store.create_batch(a_batch("batch_2", tenant="other"), queued_lines_limit=1)
    for unknown in ("batch_9", "batch_2"):
        assert await store.list_batches(TENANT, limit=9, after=unknown) == ([], False)


async def test_a_full_queue_refuses_a_batch_and_says_how_full_it_is(store: Store) -> None:
    await running_batch(store, "batch_1", shards=2, lines=5)
    with pytest.raises(QueueFull) as refused:
        await store.create_batch(a_batch("batch_2"), queued_lines_limit=10)
    assert (refused.value.queued, refused.value.limit) == (10, 10)
    assert await store.batch(TENANT, "batch_2") is None
    await store.create_batch(a_batch("batch_2"), queued_lines_limit=11)


async def test_a_batch_that_is_not_validated_yet_counts_with_the_lines_of_its_file(store: Store) -> None:
    await store.add_file(a_file("file-in", lines=10))
    await store.create_batch(a_batch("batch_1"), queued_lines_limit=10)
    with pytest.raises(QueueFull) as refused:
        await store.create_batch(a_batch("batch_2"), queued_lines_limit=10)
    assert refused.value.queued == 10


async def test_only_lines_without_a_result_are_queued(store: Store) -> None:
    await batch_in(store, "completed", "batch_1")
    await running_batch(store, "batch_2", shards=2, lines=5)
    await store.record([draft(await a_claim(store), [0, 1, 2], failed=[2])])
    assert await store.counts() == {"completed": 1, "in_progress": 1, "queued_lines": 7}


async def test_an_empty_ledger_counts_nothing(store: Store) -> None:
    assert await store.counts() == {"queued_lines": 0}


# Validation


async def test_the_oldest_batch_is_validated_first(store: Store) -> None:
    await new_batch(store, "batch_b")
    await new_batch(store, "batch_a")
    assert [(await new_claim(store)).batch.id for _ in range(2)] == ["batch_b", "batch_a"]
    assert await store.claim_new_batch("validator", LEASE) is None


async def test_a_batch_is_validated_by_one_until_its_lease_runs_out(store: Store) -> None:
    await new_batch(store)
    first = await new_claim(store, "first", LEASE)
    assert await store.claim_new_batch("second", LEASE) is None
    await store.renew_batches([(first.batch.id, first.epoch)], LAPSED)
    second = await new_claim(store, "second", LEASE)
    assert (second.batch, second.epoch) == (first.batch, first.epoch + 1)


async def test_a_renewed_validation_is_left_to_its_owner(store: Store) -> None:
    await new_batch(store)
    claim = await new_claim(store, "first", LAPSED)
    await store.renew_batches([(claim.batch.id, claim.epoch)], LEASE)
    assert await store.claim_new_batch("second", LEASE) is None


async def test_a_validator_that_lost_its_lease_starts_and_fails_nothing(store: Store) -> None:
    await new_batch(store)
    late = await new_claim(store, "late", LAPSED)
    holder = await new_claim(store, "holder", LEASE)
    before = await the_batch(store)
    assert not await store.start_batch(late, MODEL, plans(1, 1))
    assert not await store.fail_batch(late, [{"code": "x"}])
    await store.renew_batches([(late.batch.id, late.epoch)], LAPSED)
    assert await the_batch(store) == before
    assert await store.shard_plans("batch_1") == []
    assert await store.claim_new_batch("third", LEASE) is None
    assert await store.start_batch(holder, MODEL, plans(2, 1))


async def test_a_validator_whose_lease_ran_out_may_end_while_nobody_else_has_begun(store: Store) -> None:
    await new_batch(store)
    assert await store.start_batch(await new_claim(store, lease=LAPSED), MODEL, plans(1, 1))


async def test_a_started_batch_has_its_model_its_lines_and_its_shards(store: Store, clock: Clock) -> None:
    await new_batch(store)
    claim = await new_claim(store)
    clock.now += 7
    cut = plans(3, 5)
    assert await store.start_batch(claim, MODEL, cut)
    batch = await the_batch(store)
    assert (batch.status, batch.in_progress_at, batch.model, batch.total) == ("in_progress", clock.now, MODEL, 15)
    assert await store.shard_plans(batch.id) == cut
    assert not await store.start_batch(claim, MODEL, cut)
    assert not await store.fail_batch(claim, [])


async def test_a_failed_batch_lists_its_faults_and_has_ended(store: Store, clock: Clock) -> None:
    await new_batch(store)
    claim = await new_claim(store)
    clock.now += 7
    faults = [{"code": "invalid_json_line", "message": "‚nein‘", "param": None, "line": 3}]
    assert await store.fail_batch(claim, faults)
    batch = await the_batch(store)
    assert (batch.status, batch.failed_at, batch.errors) == ("failed", clock.now, faults)
    assert await store.claim_ended_batch("finaliser", LEASE) is None
    assert not await store.start_batch(claim, MODEL, plans(1, 1))


# Cancel


async def cancelled(store: Store, batch_id: str = "batch_1") -> Batch:
    batch = await store.cancel_batch(TENANT, batch_id)
    assert batch is not None
    return batch


async def test_an_unknown_batch_is_not_cancelled(store: Store) -> None:
    assert await store.cancel_batch(TENANT, "batch_9") is None


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing"])
async def test_a_batch_that_has_not_ended_is_cancelled(store: Store, clock: Clock, status: str) -> None:
    await batch_in(store, status)
    clock.now += 7
    batch = await cancelled(store)
    assert (batch.status, batch.ending, batch.cancelling_at) == ("cancelling", "cancelled", clock.now)
    claim = await ended_claim(store)
    clock.now += 7
    assert await store.finish_batch(claim, None, None)
    batch = await the_batch(store)
    assert (batch.status, batch.cancelled_at, batch.failed) == ("cancelled", clock.now, batch.total - batch.completed)


async def test_cancelling_again_changes_nothing(store: Store, clock: Clock) -> None:
    batch = await batch_in(store, "cancelling")
    clock.now += 7
    assert await cancelled(store) == batch


@pytest.mark.parametrize("status", FINAL)
async def test_a_batch_that_has_ended_is_not_cancelled(store: Store, clock: Clock, status: str) -> None:
    batch = await batch_in(store, status)
    clock.now += 7
    assert await cancelled(store) == batch


async def test_a_batch_that_ends_as_expired_is_not_cancelled(store: Store) -> None:
    await running_batch(store, expires_at=0)
    await store.expire_batches()
    assert (await cancelled(store)).status == "finalizing"


async def test_cancelling_takes_a_batch_from_its_validator(store: Store) -> None:
    await new_batch(store)
    claim = await new_claim(store)
    batch = await cancelled(store)
    assert not await store.start_batch(claim, MODEL, plans(1, 1))
    assert not await store.fail_batch(claim, [{"code": "x"}])
    assert not await store.finish_batch(claim, None, None)
    assert await the_batch(store) == batch
    assert await store.claim_new_batch("validator", LEASE) is None


async def test_no_line_of_a_cancelled_batch_is_claimed(store: Store) -> None:
    await running_batch(store)
    await cancelled(store)
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9) == []


async def test_cancelling_leaves_a_finalisation_to_its_owner(store: Store) -> None:
    await batch_in(store, "finalizing")
    claim = await ended_claim(store)
    await cancelled(store)
    assert await store.claim_ended_batch("second", LEASE) is None
    assert await store.finish_batch(claim, None, None)
    assert (await the_batch(store)).status == "cancelled"


# Expiry


@pytest.mark.parametrize("status", ["validating", "in_progress"])
async def test_a_batch_expires_at_the_second_its_window_is_over(store: Store, clock: Clock, status: str) -> None:
    due = clock.now + 10
    if status == "validating":
        await new_batch(store, expires_at=due)
    else:
        await running_batch(store, expires_at=due)
    clock.now += 9
    assert await store.expire_batches() == 0
    clock.now += 1
    assert await store.expire_batches() == 1
    assert await store.expire_batches() == 0
    batch = await the_batch(store)
    assert (batch.status, batch.ending, batch.finalizing_at) == ("finalizing", "expired", clock.now)
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9) == []
    assert await store.finish_batch(await ended_claim(store), None, None)
    batch = await the_batch(store)
    assert (batch.status, batch.expired_at, batch.failed) == ("expired", clock.now, batch.total)


@pytest.mark.parametrize("status", sorted({*UNFINISHED, *FINAL} - {"validating", "in_progress"}))
async def test_a_batch_that_already_ends_does_not_expire(store: Store, clock: Clock, status: str) -> None:
    batch = await batch_in(store, status)
    clock.now = batch.expires_at + 2**41
    assert await store.expire_batches() == 0
    assert await the_batch(store) == batch


async def test_expiry_takes_a_batch_from_its_validator(store: Store) -> None:
    await new_batch(store, expires_at=0)
    claim = await new_claim(store)
    await store.expire_batches()
    assert not await store.start_batch(claim, MODEL, plans(1, 1))
    assert not await store.fail_batch(claim, [])
    assert not await store.finish_batch(claim, None, None)
    assert (await the_batch(store)).ending == "expired"


# Stop


async def test_a_batch_whose_input_is_gone_ends_as_failed_with_its_reason_and_keeps_its_results(
    store: Store, clock: Clock
) -> None:
    await running_batch(store, shards=2, lines=2)
    await store.record([draft(await a_claim(store), [0, 1], finishes=True)])
    error = {"code": "input_gone", "message": "…", "param": None, "line": None}
    assert await store.stop_batch("batch_1", error)
    assert await store.claim_shards("dispatcher", LEASE, MODEL, 9) == []
    assert len(await all_segments(store)) == 1
    assert await store.finish_batch(await ended_claim(store), a_file("file-out"), None)
    batch = await the_batch(store)
    assert (batch.status, batch.failed_at, batch.errors) == ("failed", clock.now, [error])
    assert (batch.completed, batch.failed, batch.output_file_id) == (2, 2, "file-out")


@pytest.mark.parametrize("status", sorted({*UNFINISHED, *FINAL} - {"in_progress"}))
async def test_only_a_running_batch_is_stopped(store: Store, status: str) -> None:
    batch = await batch_in(store, status)
    assert not await store.stop_batch(batch.id, {"code": "x"})
    assert await the_batch(store) == batch
