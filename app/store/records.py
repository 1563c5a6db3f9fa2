"""What the ledger holds, as values; and what it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import BatchyardError
from app.store.failures import Failure

BATCH_STATES = (
    "validating",
    "in_progress",
    "finalizing",
    "cancelling",
    "completed",
    "failed",
    "expired",
    "cancelled",
)
FINAL_STATES = ("completed", "failed", "expired", "cancelled")


class QueueFull(BatchyardError):
    """The unfinished batches hold as many lines as the configured limit allows."""

    def __init__(self, queued: int, limit: int) -> None:
        super().__init__(f"{queued} lines are queued and the limit is {limit}")
        self.queued = queued
        self.limit = limit


class IdempotencyConflict(BatchyardError):
    """The Idempotency-Key was used before with another request body."""


@dataclass(frozen=True)
class File:
    id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    object_key: str
    created_at: int
    expires_at: int | None = None
    lines: int = 0
    """Ends of lines of an upload. 0 for files of results."""


@dataclass(frozen=True)
class Usage:
    """Token counts, as OpenAI's batch object sums them."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True)
class Batch:
    id: str
    tenant: str
    status: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    model: str | None = None
    metadata: dict[str, str] | None = None
    output_expires_after: int | None = None
    ending: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    errors: list[dict[str, Any]] | None = None
    warnings: list[dict[str, Any]] | None = None
    error_summary: list[dict[str, Any]] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    engine_losses: int = 0
    paused_at: int | None = None


@dataclass(frozen=True)
class BatchClaim:
    """The right to validate or to finalise a batch. `faults`: steps that failed by a fault of its own."""

    batch: Batch
    epoch: int
    faults: int = 0


@dataclass(frozen=True)
class ShardPlan:
    """A run of whole lines: bytes [offset, offset + length) of the input file; `first_line` counts from 1."""

    offset: int
    length: int
    first_line: int
    count: int


@dataclass(frozen=True)
class ShardClaim:
    """The right to run the lines of a shard that no committed segment holds."""

    batch_id: str
    index: int
    epoch: int
    offset: int
    length: int
    first_line: int
    count: int
    endpoint: str
    model: str
    input_key: str
    done: frozenset[int] = frozenset()
    suspects: Mapping[int, int] = field(default_factory=dict)
    """Lines that were in an engine when it died, each with the number of such deaths."""
    slow: frozenset[int] = frozenset()
    """Lines that took longer than the model's `line_seconds` among others."""

    @property
    def key(self) -> tuple[str, int, int]:
        return (self.batch_id, self.index, self.epoch)


@dataclass(frozen=True)
class Segment:
    """Results that are durable: `lines` are positions within the shard, in the order of the object's bytes.

    `digest` is the checksum of the bytes [start, end) of the object; None where none was kept.
    """

    seq: int
    shard: int
    object_key: str
    start: int
    end: int
    lines: tuple[int, ...]
    failed: frozenset[int]
    digest: str | None


@dataclass(frozen=True)
class SegmentDraft:
    """Results whose object is written and whose row is not yet."""

    claim: ShardClaim
    object_key: str
    start: int
    end: int
    lines: tuple[int, ...]
    failed: frozenset[int]
    usage: Usage
    finishes: bool = False
    digest: str | None = None
    failures: tuple[Failure, ...] = ()


def file_of(row: Mapping[Any, Any]) -> File:
    return File(**{name: row[name] for name in File.__dataclass_fields__})


def batch_of(row: Mapping[Any, Any]) -> Batch:
    return Batch(**{name: row[name] for name in Batch.__dataclass_fields__})


SLOW = "slow"
"""The key of the slow lines in the column `suspects`, beside the positions."""


def shard_claim_of(row: Mapping[Any, Any], model: str, done: frozenset[int]) -> ShardClaim:
    suspects = dict(row["suspects"] or {})
    slow = frozenset(suspects.pop(SLOW, ()))
    return ShardClaim(
        batch_id=row["batch_id"],
        index=row["index"],
        epoch=row["epoch"] + 1,
        offset=row["offset"],
        length=row["length"],
        first_line=row["first_line"],
        count=row["count"],
        endpoint=row["endpoint"],
        model=model,
        input_key=row["object_key"],
        done=done,
        suspects={int(position): deaths for position, deaths in suspects.items()},
        slow=slow,
    )


def segment_of(row: Mapping[Any, Any]) -> Segment:
    return Segment(
        seq=row["seq"],
        shard=row["shard"],
        object_key=row["object_key"],
        start=row["start"],
        end=row["end"],
        lines=tuple(row["lines"]),
        failed=frozenset(row["failed"]),
        digest=row["digest"],
    )
