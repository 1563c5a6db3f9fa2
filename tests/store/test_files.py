import pytest

from app.errors import StoreUnavailable
from app.store import Store
from tests.store.scene import MODEL, TENANT, UNFINISHED, Clock, a_batch, a_file, batch_in, running_batch


async def pages(store: Store, *, ascending: bool, limit: int, purpose: str | None = None) -> list[list[str]]:
    found: list[list[str]] = []
    after, more = None, True
    while more:
        page, more = await store.list_files(TENANT, purpose=purpose, ascending=ascending, limit=limit, after=after)
        found.append([file.id for file in page])
        after = page[-1].id
    return found


async def listed(store: Store, after: str | None = None) -> list[str]:
    page, more = await store.list_files(TENANT, purpose=None, ascending=True, limit=100, after=after)
    assert not more
    return [file.id for file in page]


async def gone(store: Store) -> list[str]:
    return [file.id for file in await store.deleted_files(100)]


async def test_a_file_comes_back_as_it_was_added(store: Store) -> None:
    file = a_file("file-1", filename="Übung 1\u2028.jsonl", bytes=2**40, expires_at=2**35)
    assert await store.add_file(file) == file
    assert await store.file(TENANT, "file-1") == file


async def test_a_file_is_nobody_elses(store: Store) -> None:
    await store.add_file(a_file("file-1"))
    assert await store.file("other", "file-1") is None
    assert await store.list_files("other", purpose=None, ascending=True, limit=9, after=None) == ([], False)
    assert await store.delete_file("other", "file-1") == "missing"
    assert await store.file(TENANT, "file-1") is not None


@pytest.mark.parametrize("ascending", [True, False])
async def test_the_pages_hold_every_file_once_in_the_order_of_their_making(store: Store, ascending: bool) -> None:
    ids = ["file-c", "file-a", "file-e", "file-b", "file-d"]
    for file_id in ids:
        await store.add_file(a_file(file_id))
    first, second, third = (
        [ids[:2], ids[2:4], ids[4:]] if ascending else [["file-d", "file-b"], ["file-e", "file-a"], ["file-c"]]
    )
    assert await pages(store, ascending=ascending, limit=2) == [first, second, third]


async def test_a_page_that_ends_with_the_last_file_says_that_no_more_follow(store: Store) -> None:
    await store.add_file(a_file("file-1"))
    await store.add_file(a_file("file-2"))
    assert await pages(store, ascending=True, limit=2) == [["file-1", "file-2"]]


async def test_after_an_unknown_file_comes_an_empty_page(store: Store) -> None:
    await store.add_file(a_file("file-1"))
    await store.add_file(a_file("file-2", tenant="other"))
    await store.add_file(a_file("file-3"))
    for unknown in ("file-9", "file-2"):
        for ascending in (True, False):
            page = await store.list_files(TENANT, purpose=None, ascending=ascending, limit=9, after=unknown)
            assert page == ([], False)


async def test_paging_goes_on_after_a_file_that_was_deleted_meanwhile(store: Store) -> None:
    for file_id in ("file-1", "file-2", "file-3"):
        await store.add_file(a_file(file_id))
    await store.delete_file(TENANT, "file-2")
    assert await listed(store, after="file-2") == ["file-3"]


async def test_a_list_may_be_of_one_purpose(store: Store) -> None:
    for file_id, purpose in (("file-1", "batch"), ("file-2", "batch_output"), ("file-3", "batch")):
        await store.add_file(a_file(file_id, purpose=purpose))
    assert await pages(store, ascending=True, limit=1, purpose="batch") == [["file-1"], ["file-3"]]


async def test_a_file_is_gone_at_the_second_of_its_expiry(store: Store, clock: Clock) -> None:
    await store.add_file(a_file("file-1", expires_at=clock.now + 10))
    clock.now += 9
    assert await listed(store) == ["file-1"]
    clock.now += 1
    assert await store.file(TENANT, "file-1") is None
    assert await listed(store) == []
    assert await store.delete_file(TENANT, "file-1") == "missing"


async def test_the_sweep_takes_expired_files_once_and_leaves_the_others(store: Store, clock: Clock) -> None:
    for file_id, expires_at in (("file-1", clock.now), ("file-2", clock.now + 1), ("file-3", None)):
        await store.add_file(a_file(file_id, expires_at=expires_at))
    assert await store.expire_files() == 1
    assert await store.expire_files() == 0
    assert await gone(store) == ["file-1"]


@pytest.mark.parametrize("status", UNFINISHED)
async def test_the_sweep_spares_an_expired_file_until_the_batch_that_reads_it_has_ended(
    store: Store, clock: Clock, status: str
) -> None:
    await store.add_file(a_file("file-in", expires_at=clock.now + 10))
    batch = await batch_in(store, status)
    clock.now += 10
    assert await store.expire_files() == 0
    await store.cancel_batch(TENANT, batch.id)
    claim = await store.claim_ended_batch("finaliser", 60)
    assert claim is not None
    await store.finish_batch(claim, None, None)
    assert await store.expire_files() == 1


async def test_the_lines_of_an_expired_file_run_on(store: Store, clock: Clock) -> None:
    await store.add_file(a_file("file-in", expires_at=clock.now + 10))
    await running_batch(store, shards=1)
    clock.now += 10
    await store.expire_files()
    assert [claim.input_key for claim in await store.claim_shards("d", 60, MODEL, 9)] == ["files/file-in"]


async def test_a_deleted_file_is_missing_from_then_on(store: Store) -> None:
    await store.add_file(a_file("file-1"))
    assert await store.delete_file(TENANT, "file-1") == "deleted"
    assert await store.file(TENANT, "file-1") is None
    assert await listed(store) == []
    assert await store.delete_file(TENANT, "file-1") == "missing"


@pytest.mark.parametrize("status", UNFINISHED)
async def test_a_file_that_an_unfinished_batch_reads_cannot_be_deleted(store: Store, status: str) -> None:
    await batch_in(store, status, "batch_7")
    assert await store.delete_file(TENANT, "file-in") == "batch_7"
    assert await store.file(TENANT, "file-in") is not None


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired"])
async def test_the_input_of_a_finished_batch_can_be_deleted(store: Store, status: str) -> None:
    await batch_in(store, status)
    assert await store.delete_file(TENANT, "file-in") == "deleted"


async def test_a_deleted_file_is_remembered_until_its_object_is_gone(store: Store, clock: Clock) -> None:
    first, second, third = a_file("file-1"), a_file("file-2"), a_file("file-3")
    for file in (first, second, third):
        await store.add_file(file)
    for file_id in ("file-3", "file-1"):
        await store.delete_file(TENANT, file_id)
        clock.now += 1
    assert await store.deleted_files(1) == [third]
    await store.forget_files(["file-3"])
    assert await store.deleted_files(9) == [first]


async def test_only_deleted_files_are_forgotten(store: Store) -> None:
    await store.add_file(a_file("file-1"))
    await store.forget_files(["file-1", "file-2"])
    assert await listed(store) == ["file-1"]


async def test_the_object_of_a_deleted_file_stays_while_a_batch_that_came_in_between_reads_it(store: Store) -> None:
    """The API looks the file up before it creates the batch; a delete may come between the two."""
    await store.add_file(a_file("file-in"))
    await store.delete_file(TENANT, "file-in")
    await store.create_batch(a_batch(), queued_lines_limit=100)
    assert await gone(store) == []
    await store.forget_files(["file-in"])
    await store.cancel_batch(TENANT, "batch_1")
    claim = await store.claim_ended_batch("finaliser", 60)
    assert claim is not None
    await store.finish_batch(claim, None, None)
    assert await gone(store) == ["file-in"]


async def test_a_name_is_taken_once(store: Store) -> None:
    await store.add_file(a_file("file-1", filename="first"))
    with pytest.raises(StoreUnavailable):
        await store.add_file(a_file("file-1", filename="second"))
    assert await store.file(TENANT, "file-1") == a_file("file-1", filename="first")


async def test_the_first_mark_of_the_object_store_stands(store: Store) -> None:
    assert await store.objects_mark() is None
    assert await store.set_objects_mark("marks/1") == "marks/1"
    assert await store.set_objects_mark("marks/2") == "marks/1"
    assert await store.objects_mark() == "marks/1"
