"""What a batch leaves in database and object store, and what it does while these are away: without Ray."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from app.batch.recorder import Recorder, Result
from app.errors import ObjectMissing, ObjectsUnavailable, StoreUnavailable
from app.objects import Objects
from app.store import File
from tests.unit.waiting import until
from tests.unit.yard import Yard, requests


@pytest.mark.parametrize("broken", ["objects", "store"])
async def test_results_wait_while_storage_is_away_and_none_is_lost(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    failures = iter([True] * 2)
    put, record = yard.objects.put, yard.store.record

    async def failing_put(key: str, data: bytes) -> None:
        if next(failures, False):
            raise ObjectsUnavailable("away")
        await put(key, data)

    async def failing_record(drafts: Any) -> Any:
        if next(failures, False):
            raise StoreUnavailable("away")
        return await record(drafts)

    batch_id = await yard.create(requests(12))
    if broken == "objects":
        monkeypatch.setattr(yard.objects, "put", failing_put)
    else:
        monkeypatch.setattr(yard.store, "record", failing_record)
    async with yard.dispatcher():
        batch = await yard.finished(batch_id)
    assert next(failures, None) is None
    assert (batch.completed, batch.failed) == (12, 0)
    assert len(yard.engines.seen) == 12


@pytest.mark.parametrize("refusals", [0, 2])
async def test_a_batch_whose_input_is_gone_fails_instead_of_being_picked_for_ever(
    yard: Yard, refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, stop_batch = iter(range(refusals)), yard.store.stop_batch

    async def reluctant(*arguments: Any) -> Any:
        if next(left, None) is not None:
            raise StoreUnavailable("locked")
        return await stop_batch(*arguments)

    monkeypatch.setattr(yard.store, "stop_batch", reluctant)
    yard.engines.alive.clear()
    async with yard.dispatcher():
        batch_id = await yard.create(requests(8))
        batch = await yard.until(batch_id, lambda batch: batch.status == "in_progress")
        file = await yard.store.file("default", batch.input_file_id)
        assert file is not None
        await yard.objects.delete(file.object_key)
        yard.engines.alive.add("r1")
        batch = await yard.finished(batch_id)
    assert batch.status == "failed"
    assert [error["code"] for error in batch.errors or []] == ["input_file_gone"]
    errors = await yard.lines(batch.error_file_id)
    assert [(error["custom_id"], error["error"]["code"]) for error in errors] == 8 * [("", "input_file_gone")]
    assert (batch.total, batch.completed, batch.failed) == (8, 0, 8)


async def test_a_cancelled_batch_whose_input_is_gone_ends_with_an_error_for_each_line(yard: Yard) -> None:
    answered = iter(range(10**6))
    yard.engines.reply = lambda body: (200, {"n": yard.engines.hold() if next(answered) == 3 else None})
    async with yard.dispatcher():
        batch_id = await yard.create(requests(20))
        batch = await yard.until(batch_id, lambda batch: batch.completed >= 4)
        await until(lambda: yard.engines.in_flight + len(yard.engines.seen) == 20)  # none is still to be read
        file = await yard.store.file("default", batch.input_file_id)
        assert file is not None
        await yard.objects.delete(file.object_key)
        await yard.store.cancel_batch("default", batch_id)
        batch = await yard.finished(batch_id)
    errors = await yard.lines(batch.error_file_id)
    assert batch.status == "cancelled"
    assert [error["error"]["code"] for error in errors] == (20 - batch.completed) * ["batch_cancelled"]
    assert len(await yard.lines(batch.output_file_id)) == batch.completed


async def test_a_flush_whose_caller_is_cancelled_is_not_written_twice(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, recording = yard.store.record, asyncio.Event()

    async def slow_record(drafts: Any) -> Any:
        recording.set()
        await asyncio.sleep(0)
        return await record(drafts)

    monkeypatch.setattr(yard.store, "record", slow_record)
    lifecycle = yard.lifecycle("me")
    batch_id = await yard.create(requests(1))
    await lifecycle.validate_next()
    [claim] = await yard.store.claim_shards("me", 60, "tiny", 1)
    recorder = Recorder(yard.store, yard.objects)
    recorder.add(claim, [Result(0, b"{}\n", failed=False)])
    flush = asyncio.create_task(recorder.flush())
    await recording.wait()
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    await recorder.flush()
    batch = await yard.batch(batch_id)
    assert (batch.completed, len(await yard.store.segments(batch_id, 0, 0))) == (1, 1)


async def test_segments_go_once_the_output_file_is_there(yard: Yard) -> None:
    async with yard.dispatcher():
        await yard.finished(await yard.create(requests(10)))
        folder = yard.settings.data / "objects" / "segments"
        await until(lambda: not folder.exists())


async def test_files_past_their_time_go_with_their_objects(yard: Yard) -> None:
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(4), output_expires_after=3600))
        output = await yard.store.file("default", batch.output_file_id or "")
        assert output is not None and output.expires_at == yard.clock() + 3600
        path = yard.settings.data / "objects" / output.object_key
        assert path.exists()
        yard.clock.now += 3601
        await yard.until(batch.id, lambda _: not path.exists())
    assert await yard.store.file("default", output.id) is None


async def test_an_upload_whose_gateway_died_before_its_row_is_swept(yard: Yard) -> None:
    file = File("file-lost", "default", "batch", "in.jsonl", 3, "files/file-lost", yard.clock())
    await yard.store.reserve_object(file.object_key, yard.clock() + 60)
    await yard.objects.put(file.object_key, b"{}\n")
    kept = await yard.upload(b"{}\n")
    lifecycle = yard.lifecycle("me")
    await lifecycle.sweep()
    assert await yard.objects.read(file.object_key) == b"{}\n", "it may still become true"
    assert await yard.store.file("default", file.id) is None
    yard.clock.now += 61
    await lifecycle.sweep()
    with pytest.raises(ObjectMissing):
        await yard.objects.read(file.object_key)
    assert await yard.objects.read(kept.object_key) == b"{}\n"


async def test_one_object_that_cannot_be_deleted_does_not_hold_up_the_others(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, files = yard.objects.delete, [await yard.upload(b"{}\n") for _ in range(3)]
    for file in files:
        await yard.store.delete_file("default", file.id)

    async def stubborn(key: str) -> None:
        if key == files[0].object_key:
            raise ObjectsUnavailable("not allowed")
        await delete(key)

    monkeypatch.setattr(yard.objects, "delete", stubborn)
    await yard.lifecycle("me").sweep()
    assert [file.id for file in await yard.store.deleted_files(9)] == [files[0].id]


async def test_a_folder_of_objects_that_is_not_mounted_keeps_batches_waiting_and_fails_none(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder in its place would look like one whose input files were deleted."""
    yard.objects = await Objects.open(yard.settings.objects_url, yard.store)
    read, refused = yard.objects.read, asyncio.Event()

    async def noticed(key: str, start: int = 0, end: int | None = None) -> bytes:
        try:
            return await read(key, start, end)
        except ObjectsUnavailable:
            refused.set()
            raise

    monkeypatch.setattr(yard.objects, "read", noticed)
    yard.engines.alive.clear()
    async with yard.dispatcher():
        batch = await yard.until(await yard.create(requests(8)), lambda batch: batch.status == "in_progress")
        objects, elsewhere = yard.settings.data / "objects", tmp_path / "elsewhere"
        os.rename(objects, elsewhere)
        yard.engines.alive.add("r1")
        async with asyncio.timeout(20):
            await refused.wait()
        assert (await yard.batch(batch.id)).status == "in_progress"
        os.rename(elsewhere, objects)
        batch = await yard.finished(batch.id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 8, 0)
