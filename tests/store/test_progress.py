"""Where a batch stands in its model's queue."""

from app.store import Progress, Store
from tests.store.scene import MODEL, TENANT, a_claim, draft, new_batch, running_batch


async def test_lines_that_replicas_have_are_in_the_engine_until_their_results_are_recorded(store: Store) -> None:
    await running_batch(store, shards=2, lines=4)
    assert await store.progress("batch_1") == Progress(in_engine=0, queued_before=0)
    claim = await a_claim(store)
    assert await store.progress("batch_1") == Progress(in_engine=4, queued_before=0)
    await store.record([draft(claim, [0, 2])])
    assert await store.progress("batch_1") == Progress(in_engine=2, queued_before=0)
    await store.record([draft(claim, [1, 3], finishes=True)])
    assert await store.progress("batch_1") == Progress(in_engine=0, queued_before=0)


async def test_the_lines_of_earlier_batches_of_the_same_model_come_first(store: Store) -> None:
    await running_batch(store, "batch_1", shards=2, lines=4)
    await running_batch(store, "batch_2", model="other", lines=9)
    await running_batch(store, "batch_3", lines=3)
    assert await store.progress("batch_3") == Progress(in_engine=0, queued_before=8)
    claims = await store.claim_shards("dispatcher", 60, MODEL, 1)
    await store.record([draft(claims[0], [0, 1, 2, 3], finishes=True)])
    assert await store.progress("batch_3") == Progress(in_engine=0, queued_before=4)
    await store.cancel_batch(TENANT, "batch_1")
    assert await store.progress("batch_3") == Progress(in_engine=0, queued_before=0)
    assert await store.progress("batch_1") is None


async def test_a_batch_that_does_not_run_yet_has_no_progress(store: Store) -> None:
    await new_batch(store)
    assert await store.progress("batch_1") is None
