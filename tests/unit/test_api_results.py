"""/v1/batches/{id}/results: of a batch that runs, and of one that has ended."""

from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from app.batch.results import _of_at_most
from app.objects import Objects
from app.store import Batch, File, Segment, SegmentDraft, ShardPlan, Store, Usage
from tests.unit.batches import CHAT, LINE, create, started
from tests.unit.fakes import START, AddResultFile, Upload


async def test_results_so_far_come_while_the_batch_runs(
    client: httpx2.AsyncClient, upload: Upload, store: Store, objects: Objects
) -> None:
    batch = await create(client, (await upload(LINE))["id"])
    path = f"/v1/batches/{batch['id']}/results"
    assert (await client.get(path)).content == b""
    await started(store)
    assert (await client.get(path)).content == b""
    (claim,) = await store.claim_shards("owner", 60, "good", 1)
    await objects.put("segment", b'{"n":2}\n{"n":1}\n')
    await store.record([SegmentDraft(claim, "segment", 0, 16, (1, 0), frozenset({1}), Usage())])
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl")
    assert answer.content == b'{"n":1}\n{"n":2}\n'
    head = await client.head(path)
    assert (head.status_code, head.content) == (200, b"")


async def test_results_of_a_batch_that_ends_meanwhile_break_off_instead_of_looking_whole(
    client: httpx2.AsyncClient, upload: Upload, store: Store, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await create(client, (await upload(LINE))["id"])
    await started(store)
    (claim,) = await store.claim_shards("owner", 60, "good", 1)
    await objects.put("segment", b'{"n":1}\n{"n":2}\n')
    await store.record([SegmentDraft(claim, "segment", 0, 16, (0, 1), frozenset(), Usage(), finishes=True)])
    read = objects.read

    async def read_while_it_ends(key: str, start: int = 0, end: int | None = None) -> bytes:
        ended = await store.claim_ended_batch("owner", 60)
        assert ended is not None and await store.finish_batch(ended, None, None)
        return await read(key, start, end)

    monkeypatch.setattr(objects, "read", read_while_it_ends)
    with pytest.raises(RuntimeError, match="response already started"), capture_logs() as logs:
        await client.get(f"/v1/batches/{batch['id']}/results")
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("answer cut off", "warning")]


@pytest.mark.parametrize(
    ("output", "error", "content"),
    [(b"o1\no2\n", b"e1\n", b"o1\no2\ne1\n"), (b"o1\n", None, b"o1\n"), (None, b"e1\n", b"e1\n"), (None, None, b"")],
)
async def test_results_of_a_finished_batch_are_output_then_error_file(
    client: httpx2.AsyncClient,
    store: Store,
    add_result_file: AddResultFile,
    output: bytes | None,
    error: bytes | None,
    content: bytes,
) -> None:
    ids: dict[str, Any] = {}
    for name, lines in (("output_file_id", output), ("error_file_id", error)):
        if lines is not None:
            ids[name] = f"file-{name}"
            await add_result_file(ids[name], lines)
    batch = Batch("batch_1", "default", "completed", CHAT, "file-1", "24h", START, START + 86400, **ids)
    await store.create_batch(batch, queued_lines_limit=1)
    assert (await client.get("/v1/batches/batch_1/results")).content == content


async def test_a_batch_that_ends_between_the_two_looks_gives_its_files(
    client: httpx2.AsyncClient, upload: Upload, store: Store, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await create(client, (await upload(LINE))["id"])
    await started(store)
    await store.cancel_batch("default", batch["id"])
    shard_plans = store.shard_plans

    async def ends_meanwhile(batch_id: str) -> list[ShardPlan]:
        await objects.put("files/file-out", b"o1\n")
        claim = await store.claim_ended_batch("owner", 60)
        assert claim is not None
        output = File("file-out", "default", "batch_output", "o", 3, "files/file-out", START)
        await store.finish_batch(claim, output, None)
        return await shard_plans(batch_id)

    monkeypatch.setattr(store, "shard_plans", ends_meanwhile)
    assert (await client.get(f"/v1/batches/{batch['id']}/results")).content == b"o1\n"


@pytest.mark.parametrize(
    ("at_once", "groups"), [(1, [[0], [1], [2], [3]]), (30, [[0, 1], [2], [3]]), (1000, [[0, 1, 2, 3]])]
)
def test_no_more_results_are_fetched_than_a_reader_is_given_soon(at_once: int, groups: list[list[int]]) -> None:
    sizes = [(10, 10), (10,), (500,), ()]
    shards: list[Any] = [
        (index, [Segment(0, index, "key", 7, 7 + size, (0,), frozenset(), None) for size in found])
        for index, found in enumerate(sizes)
    ]
    assert [[shard for shard, _ in group] for group in _of_at_most(at_once, shards)] == groups
