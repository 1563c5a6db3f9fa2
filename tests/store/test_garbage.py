"""What is deleted: only what no row names, whatever became of an answer to a commit."""

from dataclasses import replace

import pytest

from app.errors import UploadTooLate
from app.store import Store
from tests.store.scene import (
    LAPSED,
    Clock,
    a_claim,
    a_file,
    all_segments,
    batch_in,
    claims,
    draft,
    ended_claim,
    running_batch,
    the_batch,
)


async def garbage(store: Store) -> list[str]:
    return sorted(await store.due_garbage(100))


async def test_an_object_that_committed_rows_name_is_kept_when_its_writer_tries_again_too_late(store: Store) -> None:
    """The commit succeeded and its answer was lost."""
    await running_batch(store)
    late = await a_claim(store, lease=LAPSED)
    await store.record([draft(late, [0, 1])])
    await a_claim(store, "another")
    assert await store.record([draft(late, [0, 1])]) == set()
    assert await garbage(store) == []
    assert len(await all_segments(store)) == 1


async def test_an_object_of_which_one_claim_still_holds_is_kept(store: Store) -> None:
    await running_batch(store, shards=2)
    late, holding = await claims(store, limit=2)
    await store.release(late)
    shared = [replace(draft(claim, [0]), object_key="segments/batch_1/shared") for claim in (holding, late)]
    assert await store.record(shared) == {holding.key}
    assert await garbage(store) == []


async def test_an_object_of_results_that_count_for_nothing_goes_however_often_it_is_asked(store: Store) -> None:
    await running_batch(store)
    late = await a_claim(store)
    await store.release(late)
    for _ in range(2):
        assert await store.record([draft(late, [0])]) == set()
        assert await garbage(store) == ["segments/batch_1/0-1-0"]
    await store.forget_garbage(["segments/batch_1/0-1-0"])
    assert await garbage(store) == []


async def test_the_files_of_a_finaliser_that_asks_again_after_its_commit_are_kept(store: Store) -> None:
    await batch_in(store, "finalizing")
    claim = await ended_claim(store)
    output, errors = a_file("file-out"), a_file("file-err")
    assert await store.finish_batch(claim, output, errors, ["segments/batch_1/"])
    assert not await store.finish_batch(claim, output, errors, ["segments/batch_1/"])
    assert await garbage(store) == ["segments/batch_1/"]


async def test_the_files_of_a_finaliser_that_comes_too_late_go(store: Store) -> None:
    await batch_in(store, "finalizing")
    late, _ = await ended_claim(store, lease=LAPSED), await ended_claim(store)
    assert not await store.finish_batch(late, a_file("file-out"), None)
    assert await garbage(store) == ["files/file-out"]
    assert (await the_batch(store)).status == "finalizing"


async def test_an_upload_goes_in_time_unless_it_becomes_true(store: Store, clock: Clock) -> None:
    for name in ("file-lost", "file-kept"):
        await store.reserve_object(f"files/{name}", clock.now + 60)
    await store.add_file(a_file("file-kept"))
    assert await garbage(store) == []
    clock.now += 60
    assert await garbage(store) == ["files/file-lost"]


async def test_of_a_request_that_was_sent_twice_the_later_object_goes_at_once(store: Store, clock: Clock) -> None:
    for name in ("file-1", "file-2"):
        await store.reserve_object(f"files/{name}", clock.now + 60)
        assert (await store.add_file(a_file(name), "key", "digest")).id == "file-1"
    assert await garbage(store) == ["files/file-2"]


async def test_an_upload_whose_answer_was_lost_is_kept_when_it_is_sent_again(store: Store, clock: Clock) -> None:
    for _ in range(2):
        assert (await store.add_file(a_file("file-1"), "key", "digest")).id == "file-1"
    clock.now += 10**6
    assert await garbage(store) == []


async def test_nothing_goes_that_a_file_names(store: Store, clock: Clock) -> None:
    await store.add_file(a_file("file-1"))
    await store.reserve_object("files/file-1", clock.now)
    assert await garbage(store) == []


async def test_an_upload_that_a_sweep_has_taken_becomes_no_file_before_and_after_its_object_is_gone(
    store: Store, clock: Clock
) -> None:
    """As when the clock steps by a day while it is under way: the sweep deletes what it was told."""
    file = a_file("file-1")
    await store.reserve_object(file.object_key, clock.now)
    assert await garbage(store) == [file.object_key]
    with pytest.raises(UploadTooLate):
        await store.add_file(file, reserved=True)
    await store.forget_garbage([file.object_key])
    with pytest.raises(UploadTooLate):
        await store.add_file(file, "key", "digest", reserved=True)
    assert await store.idempotent_object(file.tenant, "files", "key", "digest") is None
    assert await store.file(file.tenant, file.id) is None


async def test_an_upload_that_no_sweep_has_taken_becomes_a_file_however_late(store: Store, clock: Clock) -> None:
    file = a_file("file-1")
    await store.reserve_object(file.object_key, clock.now)
    await store.add_file(file, reserved=True)
    assert await garbage(store) == []
