"""What engine replicas say to gateways and dispatchers, apart from them: unpickling it must not import vLLM there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Heartbeat:
    """What a replica says of itself. `max_num_seqs`: sequences that its vLLM runs at once."""

    max_num_seqs: int


@dataclass(frozen=True)
class HttpStart:
    """The first item of an answer to an online request; the rest are parts of the body."""

    status: int
    headers: list[tuple[str, str]]
