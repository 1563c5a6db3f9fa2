"""The simulation's command line.

python -m tests.simulation run SEED [--without PART ...]   one run, and its time line
python -m tests.simulation shrink SEED                     the smallest part of a failing run that fails as well
python -m tests.simulation seeds FIRST COUNT [--stop]      runs in this process; ends with 1 if one fails
python -m tests.simulation many COUNT                      in two processes; goes on where it was stopped
python -m tests.simulation mutants [WORD] [--seeds N]      faults put back, and after how many seeds each is found
"""

import argparse
import hashlib
import sys
import time

from tests.simulation import many, mutants
from tests.simulation.plan import plan_of
from tests.simulation.shrink import shrink
from tests.simulation.world import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("seed", type=int)
    run.add_argument("--without", nargs="*", default=[], metavar="PART")
    run.add_argument("--digest", action="store_true", help="of the time line, in its place")
    commands.add_parser("shrink").add_argument("seed", type=int)
    seeds = commands.add_parser("seeds")
    seeds.add_argument("first", type=int)
    seeds.add_argument("count", type=int)
    seeds.add_argument("--stop", action="store_true", help="at the first that fails")
    commands.add_parser("many").add_argument("count", type=int)
    tried = commands.add_parser("mutants")
    tried.add_argument("word", nargs="?", default="", help="in the name of the mutant")
    tried.add_argument("--seeds", type=int, default=mutants.SEEDS, help="how many may pass before it is found")
    given = parser.parse_args()
    match given.command:
        case "run":
            return _run(given.seed, given.without, given.digest)
        case "shrink":
            return shrink(given.seed)
        case "seeds":
            return _seeds(given.first, given.count, given.stop)
        case "many":
            return many.run(given.count)
        case _:
            return mutants.run(given.word, given.seeds)


def _run(seed: int, without: list[str], digest: bool) -> int:
    world = simulate(plan_of(seed).without(without))
    text = world.trace.text()
    print(hashlib.sha256(text.encode()).hexdigest() if digest else text)
    if world.violation is not None:
        print(f"\nseed {seed}: {world.violation}", file=sys.stderr)
    return int(world.violation is not None)


def _seeds(first: int, count: int, stop: bool) -> int:
    started, failed = time.process_time(), 0
    for seed in range(first, first + count):
        world = simulate(plan_of(seed))
        if world.violation is None:
            continue
        failed += 1
        faults = " ".join(fault.name for fault in world.plan.faults)
        print(f"seed {seed} fails: {world.violation}\n{world.trace.text(last=40)}\nfaults: {faults}", flush=True)
        if stop:
            print(f"found after {seed - first + 1} seeds")
            return 1
    print(f"{count} seeds, {failed} failed, {time.process_time() - started:.1f} s of CPU")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
