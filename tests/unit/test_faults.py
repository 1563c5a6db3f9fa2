"""Storage that goes away, engines that lose everything, a dispatcher that ends: nothing piles up or runs twice."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from app.batch import lifecycle
from app.batch.dispatch import Dispatcher
from app.batch.loops import run_loops
from app.batch.recorder import Recorder, Result
from app.batch.suspects import Beside
from app.capabilities import Capabilities
from app.errors import EngineLost, ObjectsUnavailable, ReplicaGone, StoreUnavailable
from app.store import ShardClaim
from tests.acceptance.ledger import Ledger
from tests.unit.waiting import until
from tests.unit.yard import ENDPOINT, Yard, requests


async def claimed(yard: Yard, lines: int = 4, owner: str = "me", lease: float = 60) -> tuple[str, ShardClaim]:
    """A batch whose first shard the caller holds."""
    batch_id = await yard.create(requests(lines))
    await yard.lifecycle(owner).validate_next()
    [claim] = await yard.store.claim_shards(owner, lease, "tiny", 1)
    return batch_id, claim


def segments_of(yard: Yard) -> list[Path]:
    return [path for path in (yard.settings.data / "objects").rglob("segments/*/*") if path.is_file()]


async def test_while_results_cannot_be_written_no_more_lines_start(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(key: str, data: bytes) -> None:
        raise ObjectsUnavailable("full")

    batch_id = await yard.create(requests(200))
    await yard.lifecycle("me").validate_next()
    dispatcher = Dispatcher(yard.store, yard.objects, yard.engines, yard.settings, "me")
    assert await dispatcher.start_shards() > 0
    await until(lambda: yard.engines.seen and not yard.engines.in_flight)
    with monkeypatch.context() as patched:
        patched.setattr(yard.objects, "put", full)
        with pytest.raises(ObjectsUnavailable):
            await dispatcher.flush()
        assert await dispatcher.start_shards() == 0
    assert await dispatcher.flush() > 0
    assert await dispatcher.start_shards() > 0
    await dispatcher.close()
    batch = await yard.batch(batch_id)
    assert batch.completed == len(yard.engines.seen)


async def test_a_ledger_that_refuses_rows_does_not_make_the_object_be_written_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, failures = yard.store.record, iter([True] * 5)

    async def failing_record(drafts: Any) -> Any:
        if next(failures, False):
            raise StoreUnavailable("away")
        return await record(drafts)

    monkeypatch.setattr(yard.store, "record", failing_record)
    batch_id, claim = await claimed(yard)
    recorder = Recorder(yard.store, yard.objects)
    recorder.add(claim, [Result(0, b"{}\n", failed=False)])
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await recorder.flush()
    assert recorder.claims() == {claim.key}
    assert await recorder.flush() == 1
    assert len(segments_of(yard)) == 1
    assert recorder.claims() == set()
    assert (await yard.batch(batch_id)).completed == 1


async def test_results_that_come_during_a_flush_are_in_the_next(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    put = yard.objects.put
    batch_id, claim = await claimed(yard)
    recorder = Recorder(yard.store, yard.objects)

    async def late_results(key: str, data: bytes) -> None:
        await put(key, data)
        recorder.add(claim, [Result(position, b"{}\n", failed=False) for position in (1, 2, 3)])
        recorder.complete(claim)
        monkeypatch.setattr(yard.objects, "put", put)

    monkeypatch.setattr(yard.objects, "put", late_results)
    recorder.add(claim, [Result(0, b"{}\n", failed=False)])
    assert (await recorder.flush(), recorder.claims()) == (1, {claim.key})
    assert (await recorder.flush(), recorder.claims()) == (3, set())
    assert (await yard.batch(batch_id)).completed == 4
    assert await yard.store.claim_ended_batch("me", 60) is not None, "the shard is done"


async def test_results_of_a_claim_that_another_has_leave_nothing_behind(yard: Yard) -> None:
    _, claim = await claimed(yard)
    recorder = Recorder(yard.store, yard.objects)
    recorder.add(claim, [Result(0, b"{}\n", failed=False)])
    await yard.store.release(claim)
    assert await recorder.flush() == 0
    await yard.lifecycle("me").sweep()
    assert segments_of(yard) == []


@pytest.mark.parametrize(("error", "blamed"), [(EngineLost, True), (ReplicaGone, False)])
async def test_a_replica_that_loses_all_lines_is_not_tried_in_a_hot_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[EngineLost], blamed: bool
) -> None:
    yard = Yard(tmp_path, poll_seconds=0.2, lease_seconds=1)
    calls = []

    async def lose(model: str, replica: str, endpoint: str, bodies: Any, *, beside: Beside) -> Any:
        calls.append(replica)
        raise error("gone")
        yield

    monkeypatch.setattr(yard.engines, "answers", lose)
    async with yard.dispatcher():
        began = time.monotonic()
        batch_id = await yard.create(requests(4))
        await yard.until(batch_id, lambda _: len(calls) >= 5)
        assert time.monotonic() - began > 4 * 0.2 - 0.1, "a poll between two tries"
    await until(lambda: yard.store.claim_shards("other", 60, "tiny", 1, suspect=blamed))


async def test_after_an_outage_longer_than_the_lease_a_dispatcher_does_not_take_its_own_shards_again(
    tmp_path: Path,
) -> None:
    yard = Yard(tmp_path, lease_seconds=1)
    yard.engines.hold()
    batch_id = await yard.create(requests(4))
    await yard.lifecycle("me").validate_next()
    dispatcher = Dispatcher(yard.store, yard.objects, yard.engines, yard.settings, "me")
    assert await dispatcher.start_shards() == 1
    await yard.engines.arrived.wait()
    await until(lambda: Ledger(tmp_path).run_out())
    assert await dispatcher.start_shards() == 0
    yard.engines.open.set()

    async def all_are_durable() -> bool:
        await dispatcher.flush()
        return (await yard.batch(batch_id)).completed == 4

    await until(all_are_durable)
    assert len(yard.engines.seen) == 4


async def test_a_fault_that_nobody_foresaw_ends_the_loops_so_that_the_process_is_replaced(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(yard.store, "claim_shards", broken)
    dispatcher = Dispatcher(yard.store, yard.objects, yard.engines, yard.settings, "me")
    lifecycle = yard.lifecycle("me")
    async with asyncio.timeout(10):
        with pytest.raises(ExceptionGroup) as raised:
            await run_loops(dispatcher, lifecycle, yard.settings.dispatch)
    assert raised.group_contains(ZeroDivisionError)


async def test_a_dispatcher_that_is_closed_makes_durable_what_it_has_and_frees_the_rest(yard: Yard) -> None:
    answered = iter(range(10**6))
    yard.engines.reply = lambda body: (200, {"n": yard.engines.hold() if next(answered) == 5 else None})
    batch_id = await yard.create(requests(12))
    await yard.lifecycle("me").validate_next()
    dispatcher = Dispatcher(yard.store, yard.objects, yard.engines, yard.settings, "me")
    await dispatcher.start_shards()
    await until(lambda: dispatcher._recorder.claims() and not yard.engines.open.is_set())
    await dispatcher.close()
    batch = await yard.batch(batch_id)
    assert batch.completed == len(yard.engines.seen) >= 6
    left = await yard.store.claim_shards("other", 60, "tiny", 10)
    assert sum(claim.count - len(claim.done) for claim in left) == 12 - batch.completed


async def test_a_batch_stays_in_validating_until_it_is_known_what_its_engine_ignores(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.capabilities = None
    waits = await yard.create(requests(1))
    mine = yard.lifecycle("me")
    assert await mine.validate_next()
    assert not await mine.validate_next(), "nobody looks at it again at once"

    monkeypatch.setattr(lifecycle, "UNHEARD_SECONDS", 0.0)
    await until(mine.validate_next)
    claim = await until(lambda: yard.store.claim_new_batch("another", 0.0))
    assert (claim.batch.id, claim.faults) == (waits, 0)

    yard.capabilities = Capabilities({ENDPOINT: frozenset({"model"})})
    async with yard.dispatcher():
        batch = await yard.finished(waits)
    assert batch.status == "completed"
    assert [each["param"] for each in batch.warnings or []] == ["body.messages"]
