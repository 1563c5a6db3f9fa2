"""What a model's engine can be asked for, as the engine itself reports it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Capabilities:
    members: Mapping[str, frozenset[str]]
    """The endpoints that the model has, each with the names of the members that a body may have there."""

    @property
    def endpoints(self) -> list[str]:
        return sorted(self.members)


CapabilitiesOf = Callable[[str], Capabilities | None]
"""Of the model of this id; None while none of its replicas has reported to this process yet."""


def lacking(model: str, endpoint: str, capabilities: Capabilities) -> str:
    """The message for a client that asks a model for an endpoint that it does not have."""
    return f"Model {model} does not serve {endpoint}. It serves {', '.join(capabilities.endpoints) or 'none of ours'}."
