"""The gate: without a healthy replica nothing is taken in for a model, and the refusal says what is known."""

from collections.abc import Mapping
from datetime import UTC, datetime

from app.api.errors import unavailable
from app.health import Health, ModelHealth


def require_replica(model: ModelHealth, refused: str) -> None:
    """Raises ApiError (503) when no replica of the model can work; `refused` names what is not taken in then."""
    if model.healthy == 0:
        raise unavailable(f"{no_replica(model)}. Cannot accept {refused}.", "model_unavailable")


def model_named(name: str, served: Mapping[str, str], health: Health) -> ModelHealth | None:
    """The model that answers for a name, which may be its adapter's. None: there is none."""
    return health.model(served.get(name, name))


def no_replica(model: ModelHealth) -> str:
    """What is known of a model without a healthy replica, as a clause."""
    return f"No healthy replica for model {model.id} ({', '.join(_known(model))})"


def _known(model: ModelHealth) -> list[str]:
    seconds = model.last_healthy_seconds_ago
    known = ["not ready since this server started" if seconds is None else f"last healthy {seconds:.0f} s ago"]
    if model.reason or model.starting:
        known.append((model.reason or model.starting or "").rstrip("."))
    elif seconds is not None and model.restarts_refill_at is None:
        known.append("restarting")
    if model.restart_budget == 0:
        known.append("restart_budget_spent: restarts_per_hour is 0, so nothing starts again")
    elif model.restarts_refill_at is not None:
        known.append(
            f"restart_budget_spent: {model.restarts_counted} restarts this hour and {model.restart_budget} are "
            f"allowed, the next may be at {_clock(model.restarts_refill_at)}, or at once after "
            f"`batchyard restarts reset {model.id}`"
        )
    elif model.restarts_counted:
        known.append(f"{model.restarts_counted} of {model.restart_budget} restarts this hour")
    return known


def _clock(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%H:%M:%S UTC")
