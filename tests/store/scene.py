"""Files, batches and claims to begin a test with, all made by the store's own verbs."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from app.store import Batch, BatchClaim, File, Segment, SegmentDraft, ShardClaim, ShardPlan, Store, Usage
from tests.clocks import Clock as Clock

TENANT = "acme"
MODEL = "tiny"
DAY = 86_400
LEASE = 3600.0
LAPSED = -1.0
"""A lease that has run out when it is given: no test has to wait for one."""

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
FINAL = ("completed", "failed", "expired", "cancelled")


def a_file(file_id: str = "file-in", **changes: Any) -> File:
    file = File(
        id=file_id,
        tenant=TENANT,
        purpose="batch",
        filename="in.jsonl",
        bytes=100,
        object_key=f"files/{file_id}",
        created_at=Clock().now,
    )
    return replace(file, **changes)


def a_batch(batch_id: str = "batch_1", **changes: Any) -> Batch:
    batch = Batch(
        id=batch_id,
        tenant=TENANT,
        status="validating",
        endpoint="/v1/chat/completions",
        input_file_id="file-in",
        completion_window="24h",
        created_at=Clock().now,
        expires_at=Clock().now + DAY,
    )
    return replace(batch, **changes)


def plans(shards: int, lines: int) -> list[ShardPlan]:
    """Shards of `lines` lines of ten bytes each."""
    return [ShardPlan(10 * lines * index, 10 * lines, 1 + lines * index, lines) for index in range(shards)]


async def new_batch(store: Store, batch_id: str = "batch_1", **changes: Any) -> Batch:
    """A batch that waits for validation; the input file is there."""
    batch = a_batch(batch_id, **changes)
    if await store.file(TENANT, batch.input_file_id) is None:
        await store.add_file(a_file(batch.input_file_id))
    return await store.create_batch(batch, queued_lines_limit=1_000_000)


async def running_batch(
    store: Store, batch_id: str = "batch_1", *, shards: int = 1, lines: int = 4, model: str = MODEL, **changes: Any
) -> None:
    await new_batch(store, batch_id, **changes)
    claim = await store.claim_new_batch("validator", LEASE)
    assert claim is not None and claim.batch.id == batch_id, "another batch waits for validation"
    assert await store.start_batch(claim, model, plans(shards, lines))


async def batch_in(store: Store, status: str, batch_id: str = "batch_1") -> Batch:
    """A batch in the given state: two shards of two lines, of which a `completed` one has run all."""
    if status == "validating":
        await new_batch(store, batch_id)
    elif status == "failed":
        await new_batch(store, batch_id)
        await store.fail_batch(await new_claim(store), [{"code": "empty_file"}])
    else:
        await running_batch(store, batch_id, shards=2, lines=2, expires_at=0 if status == "expired" else 2**40)
        await _REACH[status](store, batch_id)
    batch = await the_batch(store, batch_id)
    assert batch.status == status
    return batch


async def _all_lines_done(store: Store, batch_id: str) -> None:
    for claim in await claims(store, limit=2):
        await store.record([draft(claim, range(2), finishes=True)])


async def _finalising(store: Store, batch_id: str) -> None:
    await _all_lines_done(store, batch_id)
    await ended_claim(store, lease=LAPSED)


async def _completed(store: Store, batch_id: str) -> None:
    await _all_lines_done(store, batch_id)
    await store.finish_batch(await ended_claim(store), None, None)


async def _cancelling(store: Store, batch_id: str) -> None:
    await store.cancel_batch(TENANT, batch_id)


async def _cancelled(store: Store, batch_id: str) -> None:
    await store.cancel_batch(TENANT, batch_id)
    await store.finish_batch(await ended_claim(store), None, None)


async def _expired(store: Store, batch_id: str) -> None:
    await store.expire_batches()
    await store.finish_batch(await ended_claim(store), None, None)


async def _nothing(store: Store, batch_id: str) -> None:
    return None


_REACH = {
    "in_progress": _nothing,
    "finalizing": _finalising,
    "cancelling": _cancelling,
    "completed": _completed,
    "cancelled": _cancelled,
    "expired": _expired,
}


async def the_batch(store: Store, batch_id: str = "batch_1") -> Batch:
    batch = await store.batch(TENANT, batch_id)
    assert batch is not None
    return batch


async def new_claim(store: Store, owner: str = "validator", lease: float = LEASE) -> BatchClaim:
    claim = await store.claim_new_batch(owner, lease)
    assert claim is not None
    return claim


async def ended_claim(store: Store, owner: str = "finaliser", lease: float = LEASE) -> BatchClaim:
    claim = await store.claim_ended_batch(owner, lease)
    assert claim is not None
    return claim


async def claims(store: Store, owner: str = "dispatcher", lease: float = LEASE, limit: int = 1) -> list[ShardClaim]:
    found = await store.claim_shards(owner, lease, MODEL, limit)
    assert len(found) == limit
    return found


async def a_claim(store: Store, owner: str = "dispatcher", lease: float = LEASE) -> ShardClaim:
    (claim,) = await claims(store, owner, lease)
    return claim


def draft(
    claim: ShardClaim,
    lines: Collection[int],
    *,
    failed: Collection[int] = (),
    usage: Usage = Usage(input_tokens=5, cached_tokens=1, output_tokens=3, reasoning_tokens=2),  # noqa: B008
    finishes: bool = False,
) -> SegmentDraft:
    return SegmentDraft(
        claim=claim,
        object_key=f"segments/{claim.batch_id}/{claim.index}-{claim.epoch}-{min(lines, default='none')}",
        start=0,
        end=10 * len(lines),
        lines=tuple(lines),
        failed=frozenset(failed),
        usage=usage,
        finishes=finishes,
    )


async def all_segments(store: Store, batch_id: str = "batch_1") -> list[Segment]:
    return await store.segments(batch_id, 0, 1_000_000)


async def truth(store: Store, batch_id: str = "batch_1") -> tuple[Batch, list[Segment]]:
    """All that clients can see of a batch's results: a write that acts on nothing leaves it as it is."""
    return await the_batch(store, batch_id), await all_segments(store, batch_id)
