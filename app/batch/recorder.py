"""Makes results durable: what was added since the last flush goes into one object a batch, then into the ledger.

The object is written before its rows, so a row never points at nothing. An object without rows goes with the batch's
folder once the batch has ended, or by the ledger's word when it refuses all its rows; nothing is deleted here.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from uuid import uuid4

from app.batch.failures import failure_of
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
    """Results wait here for at most one flush interval: first for their object, then for the ledger's rows."""

    def __init__(self, store: Store, objects: Objects) -> None:
        self._store = store
        self._objects = objects
        self._pending: dict[tuple[str, int, int], _Pending] = {}
        self._written: list[SegmentDraft] = []
        self._flushing = asyncio.Lock()
        self._flushes: set[asyncio.Task[int]] = set()
        self.stuck = False
        """The last flush failed: what waits here would only grow, so nobody should start more work."""

    def add(self, claim: ShardClaim, results: Sequence[Result]) -> None:
        self._of(claim).results.extend(results)

    def complete(self, claim: ShardClaim) -> None:
        """All results of the claim have been added: the next flush ends the shard."""
        self._of(claim).complete = True

    def claims(self) -> set[tuple[str, int, int]]:
        """The claims whose results are not durable yet."""
        return {*self._pending, *(draft.claim.key for draft in self._written)}

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
            try:
                recorded = await self._record()  # what an earlier flush wrote and the ledger did not take
                for batch_id in sorted({claim_key[0] for claim_key in self._pending}):
                    await self._write_object(batch_id)
                recorded += await self._record()
            except BaseException:
                self.stuck = True
                raise
            self.stuck = False
            return recorded

    def _of(self, claim: ShardClaim) -> _Pending:
        return self._pending.setdefault(claim.key, _Pending(claim))

    async def _write_object(self, batch_id: str) -> None:
        """One object with the batch's results so far. Those that come while it is written wait for the next."""
        key = f"{segments_prefix(batch_id)}{uuid4().hex}"
        data = bytearray()
        drafts: list[SegmentDraft] = []
        for pending in self._pending.values():
            if pending.claim.batch_id == batch_id:
                start = len(data)
                lines = b"".join(result.line for result in pending.results)
                data += lines
                drafts.append(_draft(pending, key, start, lines))
        if data:
            await self._objects.put(key, bytes(data))
        for draft in drafts:
            self._take(draft)
        self._written += drafts

    def _take(self, draft: SegmentDraft) -> None:
        """What the draft holds waits no longer; `finishes` is drafted once more if the last results came meanwhile."""
        pending = self._pending[draft.claim.key]
        del pending.results[: len(draft.lines)]
        if not pending.results and pending.complete == draft.finishes:
            del self._pending[draft.claim.key]

    async def _record(self) -> int:
        drafts = self._written
        if not drafts:
            return 0
        held = await self._store.record(drafts)
        self._written = []
        return sum(len(draft.lines) for draft in drafts if draft.claim.key in held)


def segments_prefix(batch_id: str) -> str:
    return f"segments/{batch_id}/"


def digest_of(lines: bytes) -> str:
    """The checksum of a segment's bytes, as its row keeps it."""
    return blake2b(lines, digest_size=8).hexdigest()


def _draft(pending: _Pending, key: str, start: int, lines: bytes) -> SegmentDraft:
    results = pending.results
    return SegmentDraft(
        claim=pending.claim,
        object_key=key,
        start=start,
        end=start + len(lines),
        digest=digest_of(lines),
        lines=tuple(result.position for result in results),
        failed=frozenset(result.position for result in results if result.failed),
        usage=sum((result.usage for result in results), NO_USAGE),
        finishes=pending.complete,
        failures=tuple(
            failure_of(pending.claim.first_line + result.position, result.line) for result in results if result.failed
        ),
    )
