"""From segments to result files: every line once, in input order, streamed shard by shard."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import blake2b

from app.batch.lines import LineError, parse_line, requests_of
from app.batch.output import NOT_RUN, unanswered_line
from app.batch.recorder import segments_prefix
from app.errors import ObjectMissing
from app.objects import Objects, Writer
from app.store import Batch, BatchClaim, File, Segment, ShardPlan, Store

SHARDS_AT_ONCE = 16
"""Shards whose results are fetched together: hides the object store's latency, bounds our memory."""


FIRST_FINALISING_EPOCH = 2
"""Epoch 1 of a batch is its validation, or the cancelling or expiry that came before it."""


@dataclass(frozen=True)
class ResultLine:
    line: bytes
    failed: bool


@dataclass(frozen=True)
class ResultFiles:
    output: File | None
    error: File | None


async def stream_results(store: Store, objects: Objects, batch_id: str) -> AsyncIterator[bytes]:
    """The durable lines of a batch that still runs, in input order; output and error lines alike."""
    async for results in _results_by_shard(store, objects, batch_id, await store.shard_plans(batch_id)):
        if results:
            yield b"".join(results[position].line for position in sorted(results))


async def write_result_files(
    store: Store, objects: Objects, claim: BatchClaim, input_key: str | None, *, now: int, keep_seconds: int
) -> ResultFiles:
    """Writes output and error file of a batch of which no line runs any more.

    Lines without a result stand in the error file with the reason for which the batch ended; without their custom_id
    where the input is gone (`input_key` None, or no such object). It may be cut off anywhere and done anew: another
    claim writes under other keys, so that a late finaliser spoils nobody's file.
    """
    batch = claim.batch
    async with AsyncExitStack() as stack:
        output, error = (_ResultFile(objects, stack, claim, kind) for kind in ("output", "error"))
        plans = await store.shard_plans(batch.id)
        index = 0
        async for results in _results_by_shard(store, objects, batch.id, plans):
            plan, index = plans[index], index + 1
            missing = _missing_lines(batch, plan, results, await _input_of(objects, input_key, plan, results))
            lines = {**results, **missing}
            ordered = [lines[position] for position in sorted(lines)]
            await output.write(b"".join(each.line for each in ordered if not each.failed))
            await error.write(b"".join(each.line for each in ordered if each.failed))
    expires_at = now + (batch.output_expires_after or keep_seconds)
    return ResultFiles(output.row(now, expires_at), error.row(now, expires_at))


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


async def _results_by_shard(
    store: Store, objects: Objects, batch_id: str, plans: Sequence[ShardPlan]
) -> AsyncIterator[dict[int, ResultLine]]:
    """For each shard in order: its results by position."""
    for first in range(0, len(plans), SHARDS_AT_ONCE):
        last = min(first + SHARDS_AT_ONCE, len(plans)) - 1
        found = await store.segments(batch_id, first, last)
        read = await asyncio.gather(*(_lines_of(objects, segment) for segment in found))
        shards: list[dict[int, ResultLine]] = [{} for _ in range(first, last + 1)]
        for segment, lines in zip(found, read, strict=True):
            shards[segment.shard - first].update(lines)
        for results in shards:
            yield results


async def _lines_of(objects: Objects, segment: Segment) -> dict[int, ResultLine]:
    data = await objects.read(segment.object_key, segment.start, segment.end)
    lines = data.split(b"\n")
    return {
        position: ResultLine(line + b"\n", position in segment.failed)
        for position, line in zip(segment.lines, lines[:-1], strict=True)
    }


async def _input_of(
    objects: Objects, input_key: str | None, plan: ShardPlan, results: dict[int, ResultLine]
) -> bytes | None:
    """None where it is not needed or is gone."""
    if input_key is None or len(results) == plan.count:
        return None
    try:
        return await objects.read(input_key, plan.offset, plan.offset + plan.length)
    except ObjectMissing:
        return None


def _missing_lines(
    batch: Batch, plan: ShardPlan, results: dict[int, ResultLine], data: bytes | None
) -> dict[int, ResultLine]:
    code, message = NOT_RUN.get(batch.ending or "", ("not_executed", "This request was not executed."))
    custom_ids = [""] * plan.count if data is None else [_custom_id(line) for line in requests_of(data)]
    return {
        position: ResultLine(
            unanswered_line(batch.id, plan.first_line + position, custom_id, code, message), failed=True
        )
        for position, custom_id in enumerate(custom_ids)
        if position not in results
    }


def _custom_id(line: bytes) -> str:
    try:
        return parse_line(line).custom_id
    except LineError:  # it was valid when the batch was validated, so somebody has changed the object since
        return ""
