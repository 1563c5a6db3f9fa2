"""What is known of the models' health. Gate, /readyz, /health, metrics and messages all ask one `Health`."""

from dataclasses import dataclass
from typing import Literal, Protocol

ModelState = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True)
class ModelHealth:
    """One model: `healthy` of `target` replicas can work now."""

    id: str
    healthy: int
    target: int
    last_healthy_seconds_ago: float | None
    """None: it never was since this process started."""
    restarts_last_hour: int
    """Unplanned starts that count."""
    reason: str | None = None
    """Why replicas are missing, in words, where it is known: no GPU, no model folder, ..."""
    restart_budget: int = 10
    """Unplanned starts that an hour may have: `restarts_per_hour`."""
    restarts_refill_at: float | None = None
    """Unix seconds; set while the budget is spent: until then nothing starts, unless a person lifts it."""

    @property
    def state(self) -> ModelState:
        if self.healthy == 0:
            return "unhealthy"
        return "healthy" if self.healthy >= self.target else "degraded"


class Health(Protocol):
    def models(self) -> list[ModelHealth]: ...

    def model(self, model_id: str) -> ModelHealth | None:
        """None: no such model is configured."""
        ...
