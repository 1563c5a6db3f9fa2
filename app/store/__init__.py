"""The ledger: the only place with SQL."""

from app.store.failures import ErrorSummary, Failure
from app.store.progress import Progress
from app.store.records import (
    BATCH_STATES,
    FINAL_STATES,
    Batch,
    BatchClaim,
    File,
    IdempotencyConflict,
    QueueFull,
    Segment,
    SegmentDraft,
    ShardClaim,
    ShardPlan,
    Usage,
)
from app.store.starts import Restarts, StartAnswer
from app.store.store import Store

__all__ = [
    "BATCH_STATES",
    "FINAL_STATES",
    "Batch",
    "BatchClaim",
    "ErrorSummary",
    "Failure",
    "File",
    "IdempotencyConflict",
    "Progress",
    "QueueFull",
    "Restarts",
    "Segment",
    "SegmentDraft",
    "ShardClaim",
    "ShardPlan",
    "StartAnswer",
    "Store",
    "Usage",
]
