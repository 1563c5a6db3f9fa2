"""Results that cannot be read back, and faults of Batchyard's own: each ends with the batch that it strikes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.batch import dispatch, faults, lifecycle, results
from app.batch.dispatch import Dispatcher
from app.batch.lifecycle import Lifecycle
from app.batch.recorder import Recorder, Result
from app.batch.results import stream_results
from app.errors import MachineExhausted, StoreUnavailable
from app.store import Store
from tests.unit.yard import Yard, request, requests

LINES = 40


def _change_a_byte_of_a_string(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"line-", b"lime-", 1))


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _end_before_the_last_line(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"\n", 0, -1) + 1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (_change_a_byte_of_a_string, _cut_short, _end_before_the_last_line, _empty, Path.unlink)


def a_segment(yard: Yard) -> Path:
    """The largest: one of a single line has no line before its last."""
    files = [path for path in (yard.settings.data / "objects/segments").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


class Told:
    """Alerts that were given."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def __call__(self, kind: str, message: str, **known: Any) -> None:
        self.kinds.append(kind)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    for teller in (Lifecycle, Dispatcher):
        monkeypatch.setattr(teller.__init__, "__defaults__", (*(teller.__init__.__defaults__ or ())[:-1], told))
    return told


@pytest.fixture
def damage_one(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], Any]], None]:
    """Damages a segment of the next batch that is finalised, before its first result is read."""

    def arrange(damage: Callable[[Path], Any]) -> None:
        claim_ended_batch = yard.store.claim_ended_batch

        async def claim(*arguments: Any) -> Any:
            found = await claim_ended_batch(*arguments)
            if found is not None:
                monkeypatch.setattr(yard.store, "claim_ended_batch", claim_ended_batch)
                damage(a_segment(yard))
            return found

        monkeypatch.setattr(yard.store, "claim_ended_batch", claim)

    return arrange


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_lines_whose_results_cannot_be_read_run_again_and_the_batch_completes(
    yard: Yard, damage: Callable[[Path], Any], damage_one: Callable[[Any], None], told: Told
) -> None:
    damage_one(damage)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(LINES)))
    assert (batch.status, batch.completed, batch.failed, batch.error_file_id) == ("completed", LINES, 0, None)
    lines = await yard.lines(batch.output_file_id)
    assert [line["custom_id"] for line in lines] == [f"line-{number}" for number in range(LINES)]
    contents = [line["response"]["body"]["echo"]["messages"][0]["content"] for line in lines]
    assert contents == [f"line-{number}" for number in range(LINES)]
    assert LINES < len(yard.engines.seen) <= 2 * LINES
    assert told.kinds == ["results_damaged"]


async def test_damage_is_repaired_while_other_batches_go_on(yard: Yard, damage_one: Callable[[Any], None]) -> None:
    damage_one(_cut_short)
    async with yard.dispatcher():
        first, second = await yard.create(requests(LINES)), await yard.create(requests(LINES))
        assert [(await yard.finished(each)).completed for each in (first, second)] == [LINES, LINES]


@pytest.mark.parametrize("why", ["cancelled", "input gone"])
async def test_results_that_cannot_be_read_nor_made_again_stand_in_the_error_file(
    yard: Yard, why: str, damage_one: Callable[[Any], None]
) -> None:
    batch_id = ""

    def damage(path: Path) -> None:
        path.unlink()
        if why == "input gone":
            (yard.settings.data / "objects" / input_key).unlink()

    damage_one(damage)
    answered = iter(range(10**6))
    if why == "cancelled":
        yard.engines.reply = lambda body: (200, {"n": yard.engines.hold() if next(answered) == LINES // 2 else None})
    async with yard.dispatcher():
        batch_id = await yard.create(requests(LINES))
        input_key = await yard.store.object_key((await yard.batch(batch_id)).input_file_id) or ""
        if why == "cancelled":
            await yard.until(batch_id, lambda batch: batch.completed > 0 and not yard.engines.open.is_set())
            await yard.store.cancel_batch("default", batch_id)
        batch = await yard.finished(batch_id)
    output, errors = await yard.lines(batch.output_file_id), await yard.lines(batch.error_file_id)
    assert batch.status == ("cancelled" if why == "cancelled" else "completed")
    assert (batch.total, batch.completed, batch.failed) == (LINES, len(output), len(errors))
    lost = [line for line in errors if line["error"]["code"] == "result_lost"]
    assert lost
    assert {line["error"]["code"] for line in errors} <= {"result_lost", "batch_cancelled"}
    assert all(bool(line["custom_id"]) == (why == "cancelled") for line in errors)
    assert len({line["id"] for line in output + errors}) == LINES


async def test_a_store_that_damages_all_results_does_not_have_them_made_for_ever(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_stays(objects: Any, segment: Any) -> None:
        return None

    monkeypatch.setattr(results, "_lines_of", nothing_stays)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(4)))
    assert (batch.status, batch.completed, batch.failed) == ("failed", 0, 4)
    assert [error["error"]["code"] for error in await yard.lines(batch.error_file_id)] == 4 * ["result_lost"]
    assert len(yard.engines.seen) == 4 * (1 + faults.TRIES)


async def test_the_results_so_far_leave_out_what_cannot_be_read(yard: Yard) -> None:
    batch_id = await yard.create(requests(2))
    await yard.lifecycle("me").validate_next()
    [claim] = await yard.store.claim_shards("me", 60, "tiny", 1)
    recorder = Recorder(yard.store, yard.objects)
    recorder.add(claim, [Result(0, b'{"n":0}\n', failed=False)])
    await recorder.flush()
    a_segment(yard).unlink()
    recorder.add(claim, [Result(1, b'{"n":1}\n', failed=False)])
    await recorder.flush()
    assert [part async for part in stream_results(yard.store, yard.objects, batch_id)] == [b'{"n":1}\n']


async def test_an_input_that_was_cut_short_is_called_gone(yard: Yard) -> None:
    yard.engines.alive.clear()
    async with yard.dispatcher():
        batch = await yard.until(await yard.create(requests(LINES)), lambda batch: batch.status == "in_progress")
        path = yard.settings.data / "objects" / (await yard.store.object_key(batch.input_file_id) or "")
        path.write_bytes(path.read_bytes()[:100])
        yard.engines.alive.add("r1")
        batch = await yard.finished(batch.id)
    assert [error["code"] for error in batch.errors or []] == ["input_file_gone"]
    assert batch.failed == LINES - batch.completed
    assert len(await yard.lines(batch.error_file_id)) == batch.failed


async def test_lines_that_are_no_longer_in_the_input_fail_and_are_not_looked_for_again_and_again(yard: Yard) -> None:
    yard.engines.alive.clear()
    async with yard.dispatcher():
        batch = await yard.until(await yard.create(requests(LINES)), lambda batch: batch.status == "in_progress")
        path = yard.settings.data / "objects" / (await yard.store.object_key(batch.input_file_id) or "")
        data = path.read_bytes()
        path.write_bytes(data[: data.index(b"\n")] + b" " + data[data.index(b"\n") + 1 :])  # the first two become one
        yard.engines.alive.add("r1")
        batch = await yard.finished(batch.id)
    assert (batch.status, batch.completed + batch.failed) == ("completed", LINES)
    codes = [line["error"]["code"] for line in await yard.lines(batch.error_file_id)]
    assert sorted(codes) == ["invalid_json_line", "line_gone"]


async def test_a_batch_whose_results_all_got_there_in_the_end_has_not_failed(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, refused = results._lines_of, 0

    async def damaged_at_first(objects: Any, segment: Any) -> Any:
        nonlocal refused
        refused += 1
        return await read(objects, segment) if refused > faults.TRIES else None

    monkeypatch.setattr(results, "_lines_of", damaged_at_first)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(request("a")))
    assert (batch.status, batch.completed, batch.errors) == ("completed", 1, None)


# Faults that nobody foresaw


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "LONGEST_PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_pauses")
async def test_a_batch_whose_validation_meets_a_bug_fails_and_the_others_complete(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    validate = lifecycle.validate

    async def broken(parts: Any, **arguments: Any) -> Any:
        data = b"".join([part async for part in parts])
        if b"bad" in data:
            raise ZeroDivisionError

        async def again() -> Any:
            yield data

        return await validate(again(), **arguments)

    monkeypatch.setattr(lifecycle, "validate", broken)
    async with yard.dispatcher():
        bad, good = await yard.create(request("bad")), await yard.create(requests(4))
        assert (await yard.finished(good)).status == "completed"
        batch = await yard.finished(bad)
    assert (batch.status, [error["code"] for error in batch.errors or []]) == ("failed", ["internal_error"])
    assert set(told.kinds) == {"batch_fault"}


async def test_a_machine_without_open_files_fails_no_batch(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    async def without_files(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(lifecycle, "TRIES", 1)
    monkeypatch.setattr(lifecycle, "validate", without_files)
    batch_id = await yard.create(requests(4))
    with pytest.raises(MachineExhausted, match="Too many open files"):
        await yard.lifecycle("me").validate_next()
    assert (await yard.batch(batch_id)).status == "validating"


@pytest.mark.usefixtures("no_pauses")
async def test_a_batch_whose_shards_meet_a_bug_ends_with_what_was_answered_and_the_others_complete(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    parse_line = dispatch.parse_line

    def broken(line: bytes) -> Any:
        if b"bad" in line:
            raise ZeroDivisionError
        return parse_line(line)

    monkeypatch.setattr(dispatch, "parse_line", broken)
    async with yard.dispatcher():
        bad = await yard.create(requests(4) + b"\n".join(request(f"bad-{number}") for number in range(12)))
        good = await yard.create(requests(LINES))
        assert (await yard.finished(good)).status == "completed"
        batch = await yard.finished(bad)
    assert (batch.status, batch.completed, batch.failed) == ("failed", 4, 12)
    assert [error["code"] for error in batch.errors or []] == ["internal_error"]
    assert set(told.kinds) == {"batch_fault"}


async def test_a_machine_without_open_files_fails_no_batch_that_runs(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def without_files(line: bytes) -> Any:
        tried.append(line)
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(dispatch, "parse_line", without_files)
        async with yard.dispatcher():
            batch_id = await yard.create(requests(4))
            await yard.until(batch_id, lambda _: len(tried) > faults.TRIES)
            patched.undo()
            assert (await yard.finished(batch_id)).completed == 4


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("always", [False, True])
async def test_a_batch_whose_finalising_meets_a_bug_ends_with_what_can_be_read_and_the_others_complete(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    broken, missing_lines = [""], results._missing_lines

    def bug(batch: Any, shard: Any, data: Any) -> Any:
        if batch.id == broken[0] and (always or shard.plan.first_line == 1):
            raise ZeroDivisionError
        return missing_lines(batch, shard, data)

    monkeypatch.setattr(results, "_missing_lines", bug)
    async with yard.dispatcher():
        broken[0] = await yard.create(requests(LINES))
        good = await yard.create(requests(4))
        assert (await yard.finished(good)).status == "completed"
        batch = await yard.finished(broken[0])
    assert (batch.status, batch.completed) == ("failed", LINES)
    assert [error["code"] for error in batch.errors or []] == ["internal_error"]
    assert len(await yard.lines(batch.output_file_id)) == LINES


@pytest.mark.usefixtures("no_pauses")
async def test_a_batch_whose_files_cannot_be_written_at_all_ends_too_and_keeps_its_segments(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(lifecycle, "write_result_files", bug)
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(4)))
        assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
        assert a_segment(yard).exists()


# Answers to commits that were lost


async def test_what_is_retried_after_a_lost_answer_deletes_nothing_that_is_true(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of a flush succeeds, its answer is lost, the lease passes on, and the old owner tries again."""
    batch_id = await yard.create(requests(2))
    mine = yard.lifecycle("me")
    await mine.validate_next()
    [claim] = await yard.store.claim_shards("me", -1, "tiny", 1)
    recorder = Recorder(yard.store, yard.objects)
    recorder.add(claim, [Result(0, b'{"n":0}\n', failed=False)])
    with monkeypatch.context() as patched:
        lose_the_answer(patched, yard.store, "record")
        with pytest.raises(StoreUnavailable):
            await recorder.flush()
    [other] = await yard.store.claim_shards("other", 60, "tiny", 1)
    assert other.done == {0}
    assert await recorder.flush() == 0
    await mine.sweep()
    recorder.add(other, [Result(1, b'{"n":1}\n', failed=False)])
    recorder.complete(other)
    await recorder.flush()
    with monkeypatch.context() as patched:
        lose_the_answer(patched, yard.store, "finish_batch")
        with pytest.raises(StoreUnavailable):
            await mine.finalise_next()
    assert not await mine.finalise_next()
    await mine.sweep()
    batch = await yard.batch(batch_id)
    assert (batch.status, batch.completed) == ("completed", 2)
    assert await yard.lines(batch.output_file_id) == [{"n": 0}, {"n": 1}]


def lose_the_answer(patched: pytest.MonkeyPatch, store: Store, verb: str) -> None:
    run = getattr(store, verb)

    async def lost(*arguments: Any, **named: Any) -> Any:
        await run(*arguments, **named)
        raise StoreUnavailable("the connection was lost while the commit was answered")

    patched.setattr(store, verb, lost)
