"""A fault of Batchyard's own that strikes one batch: it is tried again, later each time, and ends with that batch."""

from app.batch.lines import LineFault
from app.telemetry import Alerts

TRIES = 5
"""A batch ends as failed after so many steps that failed through such faults."""

LONGEST_PAUSE_SECONDS = 60.0


def pause_seconds(faults: int) -> float:
    """Before the next try, after so many faults: 1 s, doubling to LONGEST_PAUSE_SECONDS."""
    return min(2.0 ** max(faults - 1, 0), LONGEST_PAUSE_SECONDS)


def tell(alert: Alerts, batch_id: str, model: str | None, step: str) -> None:
    message = f"Batch {batch_id} could not be {step}, through a fault in Batchyard itself."
    alert("batch_fault", message, model=model, batch=batch_id)


def broken(step: str) -> LineFault:
    """What the batch's client is told."""
    message = (
        f"This batch could not be {step} in {TRIES} tries, through a fault in Batchyard itself or in its object store. "
        "What could be read of its results is in its files."
    )
    return LineFault("internal_error", message)
