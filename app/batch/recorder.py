"""Makes results durable: what was added since the last flush goes into one object a batch, then into the ledger.

The object is written before its rows, so a row never points at nothing; an object without rows is litter that goes
with the batch's folder when the batch is finalised.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from app.objects import Objects
from app.store import SegmentDraft, ShardClaim, Store, Usage

NO_USAGE = Usage()


@dataclass(frozen=True)
class Result:
    """The output line of one position of a shard. `failed`: it belongs into the error file."""

    position: int
    line: bytes
    failed: bool
    usage: Usage = NO_USAGE


@dataclass
class _Pending:
    claim: ShardClaim
    results: list[Result] = field(default_factory=list)
    complete: bool = False


class Recorder:
    """Results wait here for at most one flush interval."""

    def __init__(self, store: Store, objects: Objects) -> None:
        self._store = store
        self._objects = objects
        self._pending: dict[tuple[str, int, int], _Pending] = {}
        self._in_flight: dict[tuple[str, int, int], _Pending] = {}
        self._flushing = asyncio.Lock()
        self._flushes: set[asyncio.Task[int]] = set()

    def add(self, claim: ShardClaim, results: Sequence[Result]) -> None:
        self._of(claim).results.extend(results)

    def complete(self, claim: ShardClaim) -> None:
        """All results of the claim have been added: the next flush ends the shard."""
        self._of(claim).complete = True

    def claims(self) -> set[tuple[str, int, int]]:
        """The claims whose results are not durable yet."""
        return {*self._pending, *self._in_flight}

    async def flush(self) -> int:
        """Writes what waits, and what a flush under way writes is written when this returns.

        Returns how many results became true. When it fails they wait on, and the error is raised. A caller that is
        cancelled does not stop it: the ledger's thread would commit all the same, and they would be written twice.
        """
        flush = asyncio.create_task(self._flush(), name="flush")
        self._flushes.add(flush)
        flush.add_done_callback(self._flushes.discard)
        return await asyncio.shield(flush)

    async def _flush(self) -> int:
        async with self._flushing:
            if not self._pending:
                return 0
            self._in_flight, self._pending = self._pending, {}
            try:
                drafts = await self._write_objects(list(self._in_flight.values()))
                held = await self._store.record(drafts)
            except BaseException:
                self._put_back(self._in_flight)
                raise
            finally:
                self._in_flight = {}
        return sum(len(draft.lines) for draft in drafts if draft.claim.key in held)

    def _of(self, claim: ShardClaim) -> _Pending:
        return self._pending.setdefault(claim.key, _Pending(claim))

    def _put_back(self, earlier: dict[tuple[str, int, int], _Pending]) -> None:
        for key, later in self._pending.items():
            before = earlier.setdefault(key, _Pending(later.claim))
            before.results.extend(later.results)
            before.complete |= later.complete
        self._pending = earlier

    async def _write_objects(self, pending: Sequence[_Pending]) -> list[SegmentDraft]:
        by_batch: defaultdict[str, list[_Pending]] = defaultdict(list)
        for each in pending:
            by_batch[each.claim.batch_id].append(each)
        drafts: list[SegmentDraft] = []
        for batch_id, group in by_batch.items():
            key = f"{segments_prefix(batch_id)}{uuid4().hex}"
            data = bytearray()
            for each in group:
                start = len(data)
                data += b"".join(result.line for result in each.results)
                drafts.append(_draft(each, key, start, len(data)))
            if data:
                await self._objects.put(key, bytes(data))
        return drafts


def segments_prefix(batch_id: str) -> str:
    return f"segments/{batch_id}/"


def _draft(pending: _Pending, key: str, start: int, end: int) -> SegmentDraft:
    results = pending.results
    return SegmentDraft(
        claim=pending.claim,
        object_key=key,
        start=start,
        end=end,
        lines=tuple(result.position for result in results),
        failed=frozenset(result.position for result in results if result.failed),
        usage=sum((result.usage for result in results), NO_USAGE),
        finishes=pending.complete,
    )
