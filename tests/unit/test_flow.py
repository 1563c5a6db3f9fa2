"""A batch from validating to its result files, and what happens to it when things die: without Ray."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.batch.dispatch import Dispatcher
from app.batch.loops import run_loops
from app.batch.results import stream_results
from app.batch.suspects import Beside
from app.errors import StoreUnavailable
from tests.unit.waiting import until
from tests.unit.yard import Yard, request, requests


def custom_ids(lines: list[dict[str, Any]]) -> list[str]:
    return [line["custom_id"] for line in lines]


async def test_each_line_is_answered_once_and_in_input_order(yard: Yard) -> None:
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(30)))
    output = await yard.lines(batch.output_file_id)
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("completed", 30, 30, 0)
    assert custom_ids(output) == [f"line-{number}" for number in range(30)]
    assert len({line["id"] for line in output}) == 30
    assert all(line["error"] is None and line["response"]["status_code"] == 200 for line in output)
    assert batch.error_file_id is None
    assert (batch.input_tokens, batch.output_tokens) == (60, 90)


async def test_the_output_is_in_input_order_though_the_last_line_is_answered_first(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = yard.engines.answers

    async def last_first(*arguments: Any, **named: Any) -> AsyncIterator[list[Any]]:
        parts = [part async for part in answers(*arguments, **named)]
        for part in reversed(parts):
            yield part

    monkeypatch.setattr(yard.engines, "answers", last_first)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(30)))
    assert custom_ids(await yard.lines(batch.output_file_id)) == [f"line-{number}" for number in range(30)]


async def test_the_first_answer_of_a_line_stands_whatever_an_engine_says_later(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = yard.engines.answers

    async def twice(*arguments: Any, **named: Any) -> AsyncIterator[list[Any]]:
        async for part in answers(*arguments, **named):
            yield part
            yield [replace(answer, body=b'{"echo":"another"}') for answer in part]

    monkeypatch.setattr(yard.engines, "answers", twice)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(30)))
    output = await yard.lines(batch.output_file_id)
    assert (len(output), batch.completed) == (30, 30)
    assert all(line["response"]["body"]["echo"] != "another" for line in output)


async def test_the_body_reaches_the_engine_byte_for_byte(yard: Yard) -> None:
    odd = b'{"model" :\t"tiny", "messages":[], "y":1e400, "x":1.10, "x":' + b"7" * 400 + b', "u":"\\u0041\xe2\x80\xa8"}'
    line = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":' + odd + b"}\r\n\r\n"
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(line))
    assert batch.completed == 1
    assert yard.engines.seen == [odd]


async def test_a_line_that_the_model_refuses_stands_in_the_error_file_with_its_status_and_body(yard: Yard) -> None:
    refusal = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
    yard.engines.reply = lambda body: (400, refusal) if b"line-3" in body else (200, {})
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(9)))
    errors = await yard.lines(batch.error_file_id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 8, 1)
    assert custom_ids(errors) == ["line-3"]
    assert errors[0]["response"]["status_code"] == 400
    assert errors[0]["response"]["body"] == refusal
    assert errors[0]["error"] is None
    assert "line-3" not in custom_ids(await yard.lines(batch.output_file_id))


async def test_a_batch_whose_lines_all_fail_completes_without_an_output_file(yard: Yard) -> None:
    yard.engines.reply = lambda body: (400, {"error": {}})
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(5)))
    assert (batch.status, batch.completed, batch.failed, batch.output_file_id) == ("completed", 0, 5, None)


async def test_a_bad_file_fails_with_the_line_and_the_code(yard: Yard) -> None:
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(request("a") + b"\nnonsense\n"))
    assert batch.status == "failed"
    assert [(error["code"], error["line"]) for error in batch.errors or []] == [("invalid_json_line", 2)]
    assert yard.engines.seen == []


async def test_the_engine_is_kept_full_but_never_gets_more_than_twice_its_slots(yard: Yard) -> None:
    yard.engines.hold()
    async with yard.dispatcher():
        batch_id = await yard.create(requests(100))
        await yard.until(batch_id, lambda batch: yard.engines.in_flight == 16)
        yard.engines.open.set()
        await yard.finished(batch_id)
    assert yard.engines.most_in_flight == 2 * yard.engines.slots


@pytest.mark.parametrize("slots", [1, 2, 3])
async def test_a_shard_larger_than_the_engines_slots_runs_all_the_same(yard: Yard, slots: int) -> None:
    yard.engines.slots = slots
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(20)))
    assert (batch.status, batch.completed) == ("completed", 20)
    assert yard.engines.most_in_flight < slots + yard.settings.dispatch.shard_lines


async def test_lines_lost_with_an_engine_run_again_and_none_fails(yard: Yard) -> None:
    async with yard.dispatcher():
        answered = iter(range(10**6))
        yard.engines.reply = lambda body: (200, {"n": yard.engines.hold() if next(answered) == 5 else None})
        batch_id = await yard.create(requests(40))
        await yard.until(batch_id, lambda batch: not yard.engines.open.is_set())
        yard.engines.kill("r1")
        during = await yard.until(batch_id, lambda batch: batch.completed >= 6)
        assert during.status == "in_progress"
        yard.engines.alive.add("r2")
        yard.engines.open.set()
        batch = await yard.finished(batch_id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 40, 0)
    assert custom_ids(await yard.lines(batch.output_file_id)) == [f"line-{number}" for number in range(40)]


async def test_while_no_replica_is_healthy_nothing_is_claimed(yard: Yard) -> None:
    batch_id = await yard.create(requests(3))
    await yard.lifecycle("me").validate_next()
    assert (await yard.batch(batch_id)).status == "in_progress"
    dispatcher = Dispatcher(yard.store, yard.objects, yard.engines, yard.settings, "me")
    yard.engines.alive.clear()
    assert await dispatcher.start_shards() == 0
    [shard] = await yard.store.claim_shards("probe", 60, "tiny", 10)
    await yard.store.release(shard)
    yard.engines.alive.add("r1")
    assert await dispatcher.start_shards() == 1
    await dispatcher.close()


async def test_a_dispatcher_that_dies_is_followed_by_one_that_runs_only_what_is_not_durable(tmp_path: Path) -> None:
    yard = Yard(tmp_path, lease_seconds=1)
    yard.engines.slots = 1  # one shard at a time, so that the tenth answer stands in the middle of the third
    answered = iter(range(10**6))
    yard.engines.reply = lambda body: (200, {"n": yard.engines.hold() if next(answered) == 9 else None})
    async with yard.dispatcher():
        batch_id = await yard.create(requests(40))
        first = await yard.until(batch_id, lambda batch: batch.completed >= 10)
    assert first.completed == 10
    yard.engines.open.set()
    yard.engines.seen.clear()
    async with yard.dispatcher():
        batch = await yard.finished(batch_id)
    assert batch.completed == 40
    assert len(yard.engines.seen) == 30
    assert custom_ids(await yard.lines(batch.output_file_id)) == [f"line-{number}" for number in range(40)]


async def test_a_dispatcher_that_drains_lets_lines_in_flight_finish_and_starts_none(yard: Yard) -> None:
    yard.engines.hold()
    async with yard.dispatcher() as dispatcher:
        batch_id = await yard.create(requests(40))
        await yard.engines.arrived.wait()
        draining = asyncio.create_task(dispatcher.drain(20))
        await asyncio.sleep(0)
        assert not draining.done()
        yard.engines.open.set()
        await draining
        await dispatcher.close()
        assert 0 < (await yard.batch(batch_id)).completed == len(yard.engines.seen) < 40
        assert yard.engines.aborted == 0
    async with yard.dispatcher():
        batch = await yard.finished(batch_id)
    assert (batch.completed, len(yard.engines.seen)) == (40, 40)


async def test_a_drain_that_takes_too_long_ends_and_what_was_unanswered_runs_again(yard: Yard) -> None:
    yard.engines.hold()
    async with yard.dispatcher() as dispatcher:
        batch_id = await yard.create(requests(8))
        await yard.engines.arrived.wait()
        await dispatcher.drain(0.01)
        await dispatcher.close()
        assert yard.engines.in_flight == 0 and yard.engines.aborted > 0
        yard.engines.open.set()
    async with yard.dispatcher():
        batch = await yard.finished(batch_id)
    assert (batch.completed, batch.failed) == (8, 0)


async def test_cancel_keeps_what_is_finished_and_aborts_the_rest(yard: Yard) -> None:
    answered = iter(range(10**6))
    yard.engines.reply = lambda body: (200, {"n": yard.engines.hold() if next(answered) == 6 else None})
    async with yard.dispatcher():
        batch_id = await yard.create(requests(50))
        await yard.until(batch_id, lambda batch: batch.completed >= 7)
        cancelling = await yard.store.cancel_batch("default", batch_id)
        assert cancelling is not None and cancelling.status == "cancelling"
        batch = await yard.finished(batch_id)
    output, errors = await yard.lines(batch.output_file_id), await yard.lines(batch.error_file_id)
    assert batch.status == "cancelled"
    assert (len(output), len(errors)) == (batch.completed, batch.failed)
    assert sorted(custom_ids(output + errors)) == sorted(f"line-{number}" for number in range(50))
    assert {error["error"]["code"] for error in errors} == {"batch_cancelled"}
    assert yard.engines.in_flight == 0 and yard.engines.aborted > 0


async def test_an_overdue_batch_expires_with_what_it_has(yard: Yard) -> None:
    answered = iter(range(10**6))
    yard.engines.reply = lambda body: (200, {"n": yard.engines.hold() if next(answered) == 2 else None})
    async with yard.dispatcher():
        batch_id = await yard.create(requests(20))
        await yard.until(batch_id, lambda batch: batch.completed >= 3)
        yard.clock.now += 86_401
        batch = await yard.finished(batch_id)
    errors = await yard.lines(batch.error_file_id)
    assert (batch.status, batch.completed + batch.failed) == ("expired", 20)
    assert {error["error"]["code"] for error in errors} == {"batch_expired"}


def is_line(*numbers: int) -> Any:
    marks = [f'"line-{number}"'.encode() for number in numbers]
    return lambda body: any(mark in body for mark in marks)


async def test_a_line_that_is_too_slow_also_without_other_lines_times_out(yard: Yard) -> None:
    slow, hopeless = is_line(2, 17), is_line(17)
    yard.engines.too_slow = lambda body, beside: slow(body) if beside is Beside.ANYTHING else hopeless(body)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(20)))
    errors = await yard.lines(batch.error_file_id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 19, 1)
    assert custom_ids(errors) == ["line-17"]
    assert (errors[0]["response"], errors[0]["error"]["code"]) == (None, "request_timeout")
    assert [lines for _, lines, beside in yard.engines.sent if beside is Beside.ONLINE] == [1, 1]
    assert len(yard.engines.seen) == 19, "the others were answered once"


async def test_a_line_that_was_aborted_has_no_part_in_a_later_death(yard: Yard) -> None:
    slow = is_line(0)
    yard.engines.too_slow = lambda body, beside: slow(body)
    yard.engines.reply = lambda body: (200, {"n": yard.engines.hold()})
    async with yard.dispatcher():
        batch_id = await yard.create(requests(4))
        await yard.until(batch_id, lambda batch: batch.completed >= 1)
        yard.engines.kill("r1")
        [shard] = await until(lambda: yard.store.claim_shards("probe", 60, "tiny", 1, suspect=True))
    assert (shard.suspects, shard.slow) == ({2: 1, 3: 1}, {0})


async def test_that_a_line_was_too_slow_is_known_to_the_next_dispatcher(tmp_path: Path) -> None:
    yard = Yard(tmp_path, lease_seconds=1)
    yard.engines.slots = 4
    slow = is_line(0)
    yard.engines.too_slow = lambda body, beside: slow(body)
    yard.engines.reply = lambda body: (200, {"n": yard.engines.hold()})
    async with yard.dispatcher():
        batch_id = await yard.create(requests(4))
        await yard.until(batch_id, lambda batch: batch.completed >= 1)
    yard.engines.sent.clear()
    yard.engines.open.set()
    yard.engines.reply = lambda body: (200, {})
    async with yard.dispatcher():
        batch = await yard.finished(batch_id)
    assert (batch.completed, batch.failed) == (3, 1)
    assert [lines for _, lines, beside in yard.engines.sent if beside is Beside.ONLINE] == [1]
    among_others = [lines for _, lines, beside in yard.engines.sent if beside is Beside.ANYTHING]
    assert among_others == [2], "without the one that was too slow"
    yard.store.close()


async def test_cancel_while_validating_ends_with_no_line(yard: Yard) -> None:
    batch_id = await yard.create(requests(3))
    await yard.store.cancel_batch("default", batch_id)
    async with yard.dispatcher():
        batch = await yard.finished(batch_id)
    assert (batch.status, batch.total, batch.output_file_id, batch.error_file_id) == ("cancelled", 0, None, None)


async def test_results_are_readable_while_the_batch_runs(yard: Yard) -> None:
    answered = iter(range(10**6))
    yard.engines.reply = lambda body: (200, {"n": yard.engines.hold() if next(answered) == 4 else None})
    async with yard.dispatcher():
        batch_id = await yard.create(requests(20))
        await yard.until(batch_id, lambda batch: batch.completed >= 5)
        data = b"".join([part async for part in stream_results(yard.store, yard.objects, batch_id)])
        lines = custom_ids([json.loads(line) for line in data.splitlines()])
        assert 5 <= len(lines) < 20
        assert lines == sorted(lines, key=lambda name: int(name.removeprefix("line-")))
        yard.engines.open.set()
        await yard.finished(batch_id)


async def test_a_new_batch_need_not_wait_for_the_next_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yard = Yard(tmp_path, poll_seconds=10)
    claim_new_batch, looked = yard.store.claim_new_batch, asyncio.Event()

    async def claim(owner: str, lease_seconds: float) -> Any:
        found = await claim_new_batch(owner, lease_seconds)
        looked.set()
        return found

    monkeypatch.setattr(yard.store, "claim_new_batch", claim)
    lifecycle = yard.lifecycle("me")
    dispatcher = Dispatcher(yard.store, yard.objects, yard.engines, yard.settings, "me")
    loops = asyncio.create_task(run_loops(dispatcher, lifecycle, yard.settings.dispatch))
    await looked.wait()  # and found nothing
    batch_id = await yard.create(requests(4))
    lifecycle.batch_created.set()
    async with asyncio.timeout(5):
        await yard.finished(batch_id)
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)


async def test_finalising_that_is_cut_off_is_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yard = Yard(tmp_path, lease_seconds=1)
    finish, tries = yard.store.finish_batch, []

    async def cut_off(claim: Any, *files: Any, **known: Any) -> bool:
        tries.append(claim.epoch)
        if len(tries) == 1:
            raise StoreUnavailable("away")
        return await finish(claim, *files, **known)

    monkeypatch.setattr(yard.store, "finish_batch", cut_off)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(10)))
        assert len(tries) == 2
        assert custom_ids(await yard.lines(batch.output_file_id)) == [f"line-{number}" for number in range(10)]
        objects = yard.settings.data / "objects"
        # Input and output file: nothing of the first try, no segments.
        await yard.until(batch.id, lambda _: len([path for path in objects.rglob("*") if path.is_file()]) == 2)


async def test_a_late_finaliser_spoils_nobodys_output_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first finaliser is suspended beyond its lease, half-way; the second finishes; the first wakes up."""
    yard = Yard(tmp_path, lease_seconds=1)
    read, suspended, wake = yard.objects.read, asyncio.Event(), asyncio.Event()

    async def slow_read(key: str, start: int = 0, end: int | None = None) -> bytes:
        if key.startswith("segments/") and not suspended.is_set():
            suspended.set()
            await wake.wait()
        return await read(key, start, end)

    async def nothing_ended(owner: str, lease_seconds: float) -> None:
        return None

    with monkeypatch.context() as patched:
        patched.setattr(yard.store, "claim_ended_batch", nothing_ended)
        async with yard.dispatcher():
            batch_id = await yard.create(requests(10))
            await yard.until(batch_id, lambda batch: batch.completed == 10)
    monkeypatch.setattr(yard.objects, "read", slow_read)
    late, other = (yard.lifecycle(name) for name in ("late", "other"))
    finalising = asyncio.create_task(late.finalise_next())
    await suspended.wait()
    await until(other.finalise_next)
    wake.set()
    assert await finalising
    await other.sweep()
    batch = await yard.batch(batch_id)
    assert batch.status == "completed"
    assert custom_ids(await yard.lines(batch.output_file_id)) == [f"line-{number}" for number in range(10)]
    files = [path.name for path in (yard.settings.data / "objects" / "files").iterdir()]
    assert len(files) == 2, "input and output: what the late one wrote is gone"
