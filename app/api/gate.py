"""The gate: without a healthy replica nothing is taken in for a model, and the refusal says what is known."""

from app.api.errors import unavailable
from app.health import ModelHealth


def require_replica(model: ModelHealth, refused: str) -> None:
    """Raises ApiError (503) when no replica of the model can work; `refused` names what is not taken in then."""
    if model.healthy == 0:
        raise unavailable(f"{no_replica(model)}. Cannot accept {refused}.", "model_unavailable")


def no_replica(model: ModelHealth) -> str:
    """What is known of a model without a healthy replica, as a clause."""
    return f"No healthy replica for model {model.id} ({', '.join(_known(model))})"


def _known(model: ModelHealth) -> list[str]:
    seconds, restarts = model.last_healthy_seconds_ago, model.restarts_last_hour
    if seconds is None:
        known = ["not ready since this server started"]
    else:
        known = [f"last healthy {seconds:.0f} s ago", "restarting"]
    if model.reason:
        known[1:] = [model.reason.rstrip(".")]
    if restarts:
        known.append(f"{restarts} restart{'s' if restarts > 1 else ''} in the last hour")
    return known
