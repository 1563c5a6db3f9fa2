import asyncio

import pytest

from app.store import IdempotencyConflict, QueueFull, Store
from tests.store.scene import TENANT, a_batch, a_file, new_batch, running_batch, the_batch

KEY, DIGEST, OTHER_DIGEST = "order-66", "d" * 64, "e" * 64


async def test_the_same_key_and_body_give_the_first_file(store: Store) -> None:
    first = await store.add_file(a_file("file-1"), KEY, DIGEST)
    assert await store.add_file(a_file("file-2"), KEY, DIGEST) == first
    assert await store.file(TENANT, "file-2") is None


async def test_the_same_key_and_body_give_the_first_batch_as_it_is_now(store: Store) -> None:
    await store.create_batch(a_batch("batch_1"), queued_lines_limit=1, idempotency_key=KEY, digest=DIGEST)
    await store.cancel_batch(TENANT, "batch_1")
    again = await store.create_batch(a_batch("batch_2"), queued_lines_limit=1, idempotency_key=KEY, digest=DIGEST)
    assert again == await the_batch(store, "batch_1")
    assert await store.batch(TENANT, "batch_2") is None


async def test_the_same_key_with_another_body_is_a_conflict(store: Store) -> None:
    await store.add_file(a_file("file-1"), KEY, DIGEST)
    await store.create_batch(a_batch("batch_1"), queued_lines_limit=1, idempotency_key=KEY, digest=DIGEST)
    with pytest.raises(IdempotencyConflict, match=KEY):
        await store.add_file(a_file("file-2"), KEY, OTHER_DIGEST)
    with pytest.raises(IdempotencyConflict, match=KEY):
        await store.create_batch(a_batch("batch_2"), queued_lines_limit=1, idempotency_key=KEY, digest=OTHER_DIGEST)
    assert await store.file(TENANT, "file-2") is None
    assert await store.batch(TENANT, "batch_2") is None


async def test_a_key_belongs_to_one_tenant_and_one_route(store: Store) -> None:
    await store.add_file(a_file("file-1"), KEY, DIGEST)
    other = a_file("file-2", tenant="other")
    assert await store.add_file(other, KEY, OTHER_DIGEST) == other
    batch = a_batch("batch_1")
    assert await store.create_batch(batch, queued_lines_limit=1, idempotency_key=KEY, digest=OTHER_DIGEST) == batch


async def test_without_a_key_the_same_body_makes_another_object(store: Store) -> None:
    await store.add_file(a_file("file-1"))
    await store.add_file(a_file("file-2"))
    assert await store.file(TENANT, "file-2") is not None


async def test_what_a_key_made_can_be_asked_for(store: Store) -> None:
    await store.add_file(a_file("file-1"), KEY, DIGEST)
    assert await store.idempotent_object(TENANT, "files", KEY, DIGEST) == "file-1"
    assert await store.idempotent_object(TENANT, "batches", KEY, DIGEST) is None
    assert await store.idempotent_object("other", "files", KEY, DIGEST) is None
    with pytest.raises(IdempotencyConflict):
        await store.idempotent_object(TENANT, "files", KEY, OTHER_DIGEST)


async def test_a_batch_that_was_refused_leaves_its_key_free(store: Store) -> None:
    await running_batch(store, "batch_0", shards=1, lines=4)
    with pytest.raises(QueueFull):
        await store.create_batch(a_batch("batch_1"), queued_lines_limit=4, idempotency_key=KEY, digest=DIGEST)
    assert await store.idempotent_object(TENANT, "batches", KEY, DIGEST) is None
    batch = a_batch("batch_2")
    assert await store.create_batch(batch, queued_lines_limit=5, idempotency_key=KEY, digest=OTHER_DIGEST) == batch


async def test_a_known_key_is_answered_though_the_queue_is_full(store: Store) -> None:
    await store.create_batch(a_batch("batch_1"), queued_lines_limit=1, idempotency_key=KEY, digest=DIGEST)
    await new_batch(store, "batch_2")
    again = await store.create_batch(a_batch("batch_3"), queued_lines_limit=0, idempotency_key=KEY, digest=DIGEST)
    assert again.id == "batch_1"


async def test_the_key_of_a_deleted_file_makes_one_new_file(store: Store) -> None:
    await store.add_file(a_file("file-1"), KEY, DIGEST)
    await store.delete_file(TENANT, "file-1")
    second = await store.add_file(a_file("file-2"), KEY, DIGEST)
    assert second.id == "file-2"
    assert await store.add_file(a_file("file-3"), KEY, DIGEST) == second


async def test_retries_that_arrive_together_make_one_file(store: Store) -> None:
    made = await asyncio.gather(*(store.add_file(a_file(f"file-{number}"), KEY, DIGEST) for number in range(8)))
    assert len({file.id for file in made}) == 1
    page, _ = await store.list_files(TENANT, purpose=None, ascending=True, limit=9, after=None)
    assert page == made[:1]
