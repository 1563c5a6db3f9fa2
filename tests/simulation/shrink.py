"""Makes a run that fails small: without faults, clients and lines that it does not need to fail in the same way."""

from tests.simulation.plan import plan_of
from tests.simulation.world import World, simulate


def shrink(seed: int) -> int:
    """Prints the time line of what is left. Returns 0 if the run does not fail at all."""
    parts: list[str] = []
    world = simulate(plan_of(seed))
    if world.violation is None:
        print(f"seed {seed} does not fail")
        return 0
    kind = _kind(world)
    for part in _removable(world):
        tried = simulate(plan_of(seed).without([*parts, part]))
        if tried.violation is not None and _kind(tried) == kind:
            parts, world = [*parts, part], tried
    print(world.trace.text())
    print(f"\n{world.violation}\n\npython -m tests.simulation run {seed} --without {' '.join(parts)}")
    return 1


def _removable(world: World) -> list[str]:
    plan = world.plan
    faults = [fault.name for fault in plan.faults]
    clients = [f"client-{client.number}" for client in plan.clients]
    longest = max(len(client.lines) for client in plan.clients)
    halves = [longest >> times for times in range(1, longest.bit_length())]
    return [*faults, *clients, *(f"lines:{count}" for count in halves)]


def _kind(world: World) -> str:
    """What fails, without the names and numbers that another run has others of."""
    return " ".join(word for word in str(world.violation)[:200].split() if word.isalpha())
