"""What engine replicas say to gateways and dispatchers, apart from them: unpickling it must not import vLLM there."""

from dataclasses import dataclass

from app.capabilities import Capabilities


@dataclass(frozen=True)
class Heartbeat:
    """What a replica says of itself. `max_num_seqs`: sequences that its vLLM runs at once."""

    max_num_seqs: int
    capabilities: Capabilities | None = None
    """Only the first of a stream has them: they never change."""


@dataclass(frozen=True)
class CoreDeath:
    """The last message of a stream of heartbeats: vLLM's core is dead. `reason`: in words."""

    reason: str


@dataclass(frozen=True)
class HttpStart:
    """The first item of an answer to an online request; the rest are parts of the body."""

    status: int
    headers: list[tuple[str, str]]
