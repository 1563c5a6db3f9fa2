"""What a run is to be: its settings, its clients and its faults, all drawn from the seed before it begins.

So that a run can be made again with a part of it left out, which is how one that fails is made small.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random

from tests.simulation.chance import chance
from tests.simulation.faults import FAULTS, Fault

USUAL = ("good",) * 12 + ("long", "refused")
HARD = (*USUAL, "poison", "slow", "crowded")


@dataclass(frozen=True)
class ClientPlan:
    """One client with one batch. `lines`: how each behaves. Seconds count from the run's start, or from the creation
    of the batch (`cancel_after`, `delete_after`)."""

    number: int
    lines: tuple[str, ...]
    model: str
    start: float
    keyed: bool
    reads_results: bool
    cancel_after: float | None
    delete_after: float | None
    deletes_output: bool


def custom_id(plan: ClientPlan, number: int) -> str:
    return f"{plan.number}-{number}-{plan.lines[number]}"


@dataclass(frozen=True)
class Plan:
    seed: int
    models: tuple[str, ...]
    dispatchers: int
    gateways: int
    replicas: int
    slots: int
    shard_lines: int
    lease_seconds: float
    poll_seconds: float
    flush_seconds: float
    object_seconds: float
    fault_seconds: float
    clients: tuple[ClientPlan, ...]
    faults: tuple[Fault, ...]

    def without(self, parts: Collection[str]) -> "Plan":
        """Leaves out faults and clients by their names, and the end of each client's lines (`lines:3` keeps three)."""
        most = min((int(part.removeprefix("lines:")) for part in parts if part.startswith("lines:")), default=None)
        return replace(
            self,
            clients=tuple(
                replace(client, lines=client.lines[:most])
                for client in self.clients
                if f"client-{client.number}" not in parts
            ),
            faults=tuple(fault for fault in self.faults if fault.name not in parts),
        )


def plan_of(seed: int) -> Plan:
    draw = chance(seed, "plan")
    models = ("tiny",) if draw.random() < 0.7 else ("tiny", "small")
    fault_seconds = draw.choice((15.0, 25.0, 40.0))
    large = draw.random() < 0.02
    shard_lines = draw.choice((16, 64)) if large else draw.choice((1, 3, 4, 8))
    return Plan(
        seed=seed,
        models=models,
        dispatchers=draw.choice((1, 1, 2, 3)),
        gateways=draw.choice((1, 2)),
        replicas=draw.choice((1, 2)),
        slots=draw.choice((2, 4, 8)) * (8 if large else 1),
        shard_lines=shard_lines,
        lease_seconds=draw.choice((4.0, 8.0, 15.0)),
        poll_seconds=draw.choice((1.0, 2.0)),
        flush_seconds=draw.choice((0.5, 2.0)),
        object_seconds=draw.choice((0.0, 0.0, 1.0, 4.0)),
        fault_seconds=fault_seconds,
        clients=tuple(
            _client(number, draw, models, fault_seconds, large) for number in range(draw.choice((1, 1, 2, 3)))
        ),
        faults=_faults(seed, fault_seconds),
    )


def _client(number: int, draw: Random, models: tuple[str, ...], fault_seconds: float, large: bool) -> ClientPlan:
    kinds = draw.choice((USUAL, USUAL, HARD))
    count = draw.choice((200, 1000)) if large else draw.choice((1, 4, 9, 16, 24))
    kinds = USUAL if large else kinds
    lines = [draw.choice(kinds) for _ in range(count)]
    if draw.random() < 0.04:
        lines[draw.randrange(count)] = "bad"
    return ClientPlan(
        number=number,
        lines=tuple(_at_most(lines, ("poison",), 1)),
        model=draw.choice(models),
        start=draw.random() * fault_seconds / 2,
        keyed=draw.random() < 0.7,
        reads_results=draw.random() < 0.6,
        cancel_after=draw.random() * fault_seconds if draw.random() < 0.25 else None,
        delete_after=draw.random() * fault_seconds if draw.random() < 0.15 else None,
        deletes_output=draw.random() < 0.2,
    )


def _at_most(lines: list[str], kinds: tuple[str, ...], most: int) -> list[str]:
    """Each poison line costs five engines."""
    found = [position for position, kind in enumerate(lines) if kind in kinds]
    return ["good" if position in found[most:] else kind for position, kind in enumerate(lines)]


def _faults(seed: int, fault_seconds: float) -> tuple[Fault, ...]:
    """A few kinds a run: with all at once, none would be met in peace."""
    draw = chance(seed, "faults")
    kinds = draw.sample(FAULTS, draw.choice((0, 1, 2, 3, 4, 6)))
    return tuple(
        kind(f"{kind.__name__}-{number}", chance(seed, f"{kind.__name__}-{number}"), fault_seconds)
        for kind in kinds
        for number in range(draw.choice((1, 1, 2)))
    )
