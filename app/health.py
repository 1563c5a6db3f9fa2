"""What is known of the models' health. Gate, /readyz, /health, metrics and messages all ask one `Health`."""

from dataclasses import dataclass
from typing import Literal, Protocol

ModelState = Literal["healthy", "degraded", "starting", "unhealthy"]


@dataclass(frozen=True)
class ModelHealth:
    """One model: `healthy` of `target` replicas can work now."""

    id: str
    healthy: int
    target: int
    last_healthy_seconds_ago: float | None
    """None: it never was since this process started."""
    restarts_last_hour: int
    """Unplanned starts."""
    restarts_counted: int = 0
    """Those of them that draw on the budget: none from before a reset, none that a line was to blame for."""
    reason: str | None = None
    """Why replicas are missing, in words, where it is known: no GPU, no model folder, ..."""
    restart_budget: int = 10
    """Unplanned starts that an hour may have: `restarts_per_hour`."""
    restarts_refill_at: float | None = None
    """Unix seconds; set while the budget is spent: until then nothing starts, unless a person lifts it."""
    starting: str | None = None
    """What the first start of this deploy is at, in words; None once it was healthy, or once a start of it failed."""
    replicas_reason: str | None = None
    """Why `target` is what it is, where Batchyard chose it."""

    @property
    def state(self) -> ModelState:
        if self.healthy == 0:
            return "starting" if self.starting else "unhealthy"
        return "healthy" if self.healthy >= self.target else "degraded"


class Health(Protocol):
    def models(self) -> list[ModelHealth]: ...

    def model(self, model_id: str) -> ModelHealth | None:
        """None: no such model is configured."""
        ...
