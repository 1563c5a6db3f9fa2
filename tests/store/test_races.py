import asyncio
import contextlib
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

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
    plans,
    running_batch,
    the_batch,
)

CHILDREN = Path(__file__).with_name("children.py")


@contextlib.asynccontextmanager
async def children(task: str, url: str, count: int) -> AsyncIterator[list[Process]]:
    """Processes that stand ready for the task's first step; none outlives the block."""
    started = [
        await asyncio.create_subprocess_exec(sys.executable, str(CHILDREN), task, url, stdin=PIPE, stdout=PIPE)
        for _ in range(count)
    ]
    try:
        for child in started:
            assert await _line_of(child) == "ready"
        yield started
    finally:
        for child in started:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.communicate()


async def _line_of(child: Process) -> str:
    assert child.stdout is not None
    return (await child.stdout.readline()).decode().strip()


def go(*started: Process) -> None:
    for child in started:
        assert child.stdin is not None
        child.stdin.write(b"\n")


async def all_step(started: list[Process]) -> list[str]:
    """The children's answers to one step that all began at once."""
    go(*started)
    return [await _line_of(child) for child in started]


# Processes


async def test_processes_that_claim_at_once_never_get_the_same_shard(store: Store, url: str) -> None:
    await running_batch(store, shards=60, lines=1)
    claimed: list[int] = []
    async with children("claim", url, 3) as started:
        for _ in range(10):
            for indices in await all_step(started):
                claimed += map(int, indices.split())
            assert [await _line_of(child) for child in started] == ["ready"] * 3
        assert await all_step(started) == [""] * 3
    assert sorted(claimed) == list(range(60))


async def test_processes_that_open_a_new_database_at_once_all_succeed(url: str) -> None:
    async with children("open_new", url, 4) as started:
        assert await all_step(started) == ["{'queued_lines': 0}"] * 4


async def test_a_kill_amid_records_leaves_counts_that_equal_the_segments(store: Store, url: str) -> None:
    await running_batch(store, shards=2, lines=1_000_000)
    async with children("record_until_killed", url, 1) as (child,):
        go(child)
        for _ in range(20):
            assert await _line_of(child) == "recorded"
        child.kill()
        await child.wait()
        said = 20 + (await child.communicate())[0].decode().count("recorded")

    batch, segments = await the_batch(store), await all_segments(store)
    rows = {(segment.shard, segment.lines): segment for segment in segments}
    assert len(rows) == len(segments), "a line stands twice"
    assert (batch.completed + batch.failed, batch.failed) == (len(segments), sum(len(each.failed) for each in segments))
    assert (batch.input_tokens, batch.output_tokens) == (2 * len(segments), len(segments))
    assert sum(each.shard == 0 for each in segments) * 2 == len(segments), "half a record is true"
    assert len(segments) // 2 in (said, said + 1), "what was said to be recorded is not there"

    keys = [("batch_1", index, 1) for index in range(2)]
    assert await store.renew_shards(keys, LAPSED) == set(keys)
    first, second = await claims(store, limit=2)
    assert first.done == second.done == frozenset(range(len(segments) // 2))


# Connections of one process


@contextlib.contextmanager
def held_open(store: Store, write: bool) -> Iterator[None]:
    """A transaction of another connection, under way in a thread until the block ends."""
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with store.begin(write):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        end.set()
        thread.join()


async def test_a_reader_does_not_wait_for_a_writer(store: Store, url: str, clock: Clock) -> None:
    await running_batch(store, shards=2)
    other = Store.open(url, clock)
    with held_open(other, write=True):
        assert (await the_batch(store)).status == "in_progress"
        assert len(await store.shard_plans("batch_1")) == 2
        assert await store.file(TENANT, "file-in") is not None
    other.close()


async def test_a_writer_does_not_wait_for_a_reader(store: Store, url: str, clock: Clock) -> None:
    other = Store.open(url, clock)
    with held_open(other, write=False):
        await new_batch(store)
    other.close()
    assert (await the_batch(store)).status == "validating"


async def test_writers_wait_for_each_other(store: Store, url: str, clock: Clock) -> None:
    other = Store.open(url, clock)
    await asyncio.gather(*((store, other)[number % 2].add_file(a_file(f"file-{number}")) for number in range(40)))
    other.close()
    page, _ = await store.list_files(TENANT, purpose=None, ascending=True, limit=100, after=None)
    assert len(page) == 40


async def test_a_batch_is_claimed_for_validation_by_one_of_many(store: Store) -> None:
    await new_batch(store)
    found = await asyncio.gather(*(store.claim_new_batch(f"owner-{number}", LEASE) for number in range(8)))
    assert sum(claim is not None for claim in found) == 1


async def test_a_batch_is_claimed_for_finalising_by_one_of_many(store: Store) -> None:
    await batch_in(store, "finalizing")
    found = await asyncio.gather(*(store.claim_ended_batch(f"owner-{number}", LEASE) for number in range(8)))
    assert sum(claim is not None for claim in found) == 1


async def test_a_cancel_and_the_end_of_a_validation_at_once_leave_one_truth(store: Store) -> None:
    for number in range(10):
        await new_batch(store, f"batch_{number}")
        claim = await store.claim_new_batch("validator", LEASE)
        assert claim is not None
        started, _ = await asyncio.gather(
            store.start_batch(claim, MODEL, plans(1, 1)), store.cancel_batch(TENANT, claim.batch.id)
        )
        batch = await the_batch(store, claim.batch.id)
        assert (batch.status, batch.total) == ("cancelling", 1 if started else 0)


async def test_results_and_the_close_of_their_batch_at_once_agree(store: Store) -> None:
    """Either the result is in before the batch is closed and its finaliser sees it, or it counts for nothing."""
    for number in range(10):
        await running_batch(store, f"batch_{number}", shards=1, lines=4)
        claim = await a_claim(store, lease=LAPSED)
        await store.cancel_batch(TENANT, claim.batch_id)
        held, finaliser = await asyncio.gather(store.record([draft(claim, [0, 1])]), ended_claim(store))
        batch, segments = await the_batch(store, claim.batch_id), await all_segments(store, claim.batch_id)
        assert len(segments) == len(held)
        assert batch.completed == finaliser.batch.completed == 2 * len(held)


async def test_a_verb_ends_though_its_caller_was_cancelled(store: Store, url: str, clock: Clock) -> None:
    with held_open(store, write=True):
        begun = threading.Event()
        event.listen(store._engine, "checkout", lambda *_: begun.set())
        task = asyncio.create_task(store.add_file(a_file("file-1")))
        assert await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    store.close()  # waits for the transaction
    reopened = Store.open(url, clock)
    assert await reopened.file(TENANT, "file-1") is not None
    reopened.close()
