"""From segments to result files: every line once, in input order, streamed shard by shard."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import structlog

from app.batch.failures import failure_of
from app.batch.lines import LineError, parse_line, requests_of
from app.batch.output import NOT_RUN, RESULT_LOST, unanswered_line
from app.batch.recorder import digest_of, segments_prefix
from app.errors import BatchyardError, ObjectMissing
from app.objects import Objects, Writer
from app.store import Batch, BatchClaim, ErrorSummary, File, Segment, ShardPlan, Store

log = structlog.get_logger()

SHARDS_AT_ONCE = 16
"""Shards whose results are fetched together: hides the object store's latency."""

BYTES_AT_ONCE = 16 * 1024 * 1024
"""Bytes of results that are fetched together, unless one shard has more: bounds our memory."""

STREAMED_AT_ONCE = 1024 * 1024
"""The same for a client that reads results. There may be hundreds, and each takes its time."""

FIRST_FINALISING_EPOCH = 2
"""Epoch 1 of a batch is its validation, or the cancelling or expiry that came before it."""


@dataclass(frozen=True)
class ResultLine:
    line: bytes
    failed: bool


@dataclass(frozen=True)
class ResultFiles:
    """`lost`: lines that had counted as completed and stand in the error file, as their results cannot be read.

    `whole`: False when something had to be given up so that the batch could end.
    """

    output: File | None
    error: File | None
    error_summary: list[dict[str, Any]]
    lost: int = 0
    whole: bool = True


class ResultsDamaged(BatchyardError):
    """Results of a batch cannot be read, and their lines can run again."""

    def __init__(self, damaged: Sequence[Segment]) -> None:
        super().__init__(f"{sum(len(segment.lines) for segment in damaged)} results cannot be read")
        self.damaged = damaged


@dataclass
class _Shard:
    """What is known of a shard's lines, by position; `damaged` are the segments that cannot be read."""

    plan: ShardPlan
    results: dict[int, ResultLine] = field(default_factory=dict)
    damaged: list[Segment] = field(default_factory=list)
    given_up: bool = False
    """Lines of it could not be made, for a reason that nobody foresaw."""

    def lost(self) -> dict[int, bool]:
        """The positions whose results cannot be read, and whether they count as failed."""
        return {
            position: position in segment.failed
            for segment in self.damaged
            for position in segment.lines
            if position not in self.results
        }


async def stream_results(store: Store, objects: Objects, batch_id: str) -> AsyncIterator[bytes]:
    """The durable lines of a batch that still runs, in input order; output and error lines alike.

    Without those whose results cannot be read: they have no durable result, and will run again.
    """
    async for shard in _shards_of(store, objects, batch_id, STREAMED_AT_ONCE):
        if shard.results:
            yield b"".join(shard.results[position].line for position in sorted(shard.results))


async def write_result_files(
    store: Store,
    objects: Objects,
    claim: BatchClaim,
    input_key: str | None,
    *,
    now: int,
    keep_seconds: int,
    last_try: bool = False,
) -> ResultFiles:
    """Writes output and error file of a batch of which no line runs any more.

    Lines without a result stand in the error file with the reason for which the batch ended; without their custom_id
    where the input is gone (`input_key` None, or no such object). It may be cut off anywhere and done anew: another
    claim writes under other keys, so that a late finaliser spoils nobody's file.

    Raises ResultsDamaged for results that cannot be read, unless the batch was told to end or its input is gone: then
    they stand in the error file, too. `last_try`: they do in any case, and so does a shard whose lines cannot be made.
    """
    batch = claim.batch
    damaged: list[Segment] = []
    lost, whole, summary = 0, True, ErrorSummary()
    async with AsyncExitStack() as stack:
        output, error = (_ResultFile(objects, stack, claim, kind) for kind in ("output", "error"))
        async for shard in _shards_of(store, objects, batch.id):
            data = await _input_of(objects, input_key, shard)
            if shard.damaged and batch.ending is None and data is not None and not last_try:
                damaged += shard.damaged
            if damaged:
                continue  # nothing of this try will stay: the rest is read to find all that is damaged
            lines = _lines_to_write(batch, shard, data, last_try)
            whole = whole and not (last_try and (shard.damaged or shard.given_up))
            lost += sum(lines[position].failed and not failed for position, failed in shard.lost().items())
            ordered = [lines[position] for position in sorted(lines)]
            await output.write(b"".join(each.line for each in ordered if not each.failed))
            await error.write(b"".join(each.line for each in ordered if each.failed))
            _sum_up(summary, shard.plan, lines)
        if damaged:
            raise ResultsDamaged(damaged)
    expires_at = now + (batch.output_expires_after or keep_seconds)
    return ResultFiles(output.row(now, expires_at), error.row(now, expires_at), summary.entries(), lost, whole)


def _sum_up(summary: ErrorSummary, plan: ShardPlan, lines: dict[int, ResultLine]) -> None:
    for position in sorted(lines):
        if lines[position].failed:
            summary.add(failure_of(plan.first_line + position, lines[position].line))


def leftovers(claim: BatchClaim) -> list[str]:
    """What is of no more use once the batch has ended: its segments, and what finalisers that died half-way wrote."""
    earlier = range(FIRST_FINALISING_EPOCH, claim.epoch)
    return [
        segments_prefix(claim.batch.id),
        *(_result_key(claim.batch.id, kind, epoch) for epoch in earlier for kind in ("output", "error")),
    ]


class _ResultFile:
    """A result file that comes to be with its first line."""

    def __init__(self, objects: Objects, stack: AsyncExitStack, claim: BatchClaim, kind: str) -> None:
        self._objects, self._stack, self._batch, self._kind = objects, stack, claim.batch, kind
        self._id = _result_id(claim.batch.id, kind)
        self._key = _result_key(claim.batch.id, kind, claim.epoch)
        self._writer: Writer | None = None
        self._bytes = 0

    async def write(self, lines: bytes) -> None:
        if not lines:
            return
        if self._writer is None:
            self._writer = await self._stack.enter_async_context(self._objects.writer(self._key))
        await self._writer.write(lines)
        self._bytes += len(lines)

    def row(self, created_at: int, expires_at: int) -> File | None:
        if self._writer is None:
            return None
        return File(
            id=self._id,
            tenant=self._batch.tenant,
            purpose="batch_output",
            filename=f"{self._batch.id}_{self._kind}.jsonl",
            bytes=self._bytes,
            object_key=self._key,
            created_at=created_at,
            expires_at=expires_at,
        )


def _result_id(batch_id: str, kind: str) -> str:
    return "file-" + blake2b(f"{batch_id}/{kind}".encode(), digest_size=12).hexdigest()


def _result_key(batch_id: str, kind: str, epoch: int) -> str:
    return f"files/{_result_id(batch_id, kind)}-{epoch}"


async def _shards_of(
    store: Store, objects: Objects, batch_id: str, bytes_at_once: int = BYTES_AT_ONCE
) -> AsyncIterator[_Shard]:
    """Each shard in order, with its results."""
    plans = await store.shard_plans(batch_id)
    for first in range(0, len(plans), SHARDS_AT_ONCE):
        segments: dict[int, list[Segment]] = {index: [] for index in range(first, first + SHARDS_AT_ONCE)}
        for segment in await store.segments(batch_id, first, first + SHARDS_AT_ONCE - 1):
            segments[segment.shard].append(segment)
        shards = [(_Shard(plan), segments[first + at]) for at, plan in enumerate(plans[first : first + SHARDS_AT_ONCE])]
        for group in _of_at_most(bytes_at_once, shards):
            await asyncio.gather(*(_read_results(objects, shard, found) for shard, found in group))
            while group:
                yield group.pop(0)[0]


def _of_at_most(
    size: int, shards: Sequence[tuple[_Shard, list[Segment]]]
) -> Iterator[list[tuple[_Shard, list[Segment]]]]:
    """Neighbours whose segments have at most `size` bytes together, or one shard with more."""
    group: list[tuple[_Shard, list[Segment]]] = []
    held = 0
    for each in shards:
        more = sum(segment.end - segment.start for segment in each[1])
        if group and held + more > size:
            yield group
            group, held = [], 0
        group.append(each)
        held += more
    yield group


async def _read_results(objects: Objects, shard: _Shard, segments: Sequence[Segment]) -> None:
    read = await asyncio.gather(*(_lines_of(objects, segment) for segment in segments))
    for segment, lines in zip(segments, read, strict=True):
        if lines is None:
            log.error("results cannot be read", key=segment.object_key, lines=len(segment.lines))
            shard.damaged.append(segment)
        else:
            shard.results.update(lines)


async def _lines_of(objects: Objects, segment: Segment) -> dict[int, ResultLine] | None:
    """None: the object is gone, cut short or changed."""
    try:
        data = await objects.read(segment.object_key, segment.start, segment.end)
    except ObjectMissing:
        return None
    lines = data.split(b"\n")[:-1]
    if len(lines) != len(segment.lines) or segment.digest not in (None, digest_of(data)):
        return None
    return {
        position: ResultLine(line + b"\n", position in segment.failed)
        for position, line in zip(segment.lines, lines, strict=True)
    }


async def _input_of(objects: Objects, input_key: str | None, shard: _Shard) -> bytes | None:
    """None where it is not needed or is gone."""
    plan = shard.plan
    if input_key is None or len(shard.results) == plan.count:
        return None
    try:
        return await objects.read(input_key, plan.offset, plan.offset + plan.length)
    except ObjectMissing:
        return None


def _lines_to_write(batch: Batch, shard: _Shard, data: bytes | None, last_try: bool) -> dict[int, ResultLine]:
    """All lines of the shard, by position; `data` is its part of the input file."""
    try:
        return {**shard.results, **_missing_lines(batch, shard, data)}
    except Exception:
        if not last_try:
            raise
        shard.given_up = True
        log.exception("results given up", batch=batch.id, first_line=shard.plan.first_line, lines=shard.plan.count)
        return {
            position: shard.results.get(position) or _unanswered(batch, shard.plan, position, "", RESULT_LOST)
            for position in range(shard.plan.count)
        }


def _missing_lines(batch: Batch, shard: _Shard, data: bytes | None) -> dict[int, ResultLine]:
    not_run = NOT_RUN.get(batch.ending or "", ("not_executed", "This request was not executed."))
    custom_ids = [_custom_id(line) for line in requests_of(data or b"")]
    custom_ids += [""] * (shard.plan.count - len(custom_ids))  # the input is gone, or was changed since
    lost = shard.lost()
    return {
        position: _unanswered(
            batch, shard.plan, position, custom_ids[position], RESULT_LOST if position in lost else not_run
        )
        for position in range(shard.plan.count)
        if position not in shard.results
    }


def _unanswered(batch: Batch, plan: ShardPlan, position: int, custom_id: str, reason: tuple[str, str]) -> ResultLine:
    return ResultLine(unanswered_line(batch.id, plan.first_line + position, custom_id, *reason), failed=True)


def _custom_id(line: bytes) -> str:
    try:
        return parse_line(line).custom_id
    except LineError:  # it was valid when the batch was validated, so somebody has changed the object since
        return ""
