"""One attack on a server, an honest client beside it, and what must hold."""

import time
from collections import Counter

from openai import APIError

from tests.acceptance.server import Server
from tests.chaos.yard import custom_ids, judge
from tests.siege.attack import Attack, Target
from tests.siege.attacker import Attacker
from tests.siege.honest import BATCH_LINES, GOALS, Honest
from tests.siege.report import Row
from tests.siege.watch import Watch

MEMORY_MB = 300
"""By which no process may grow."""

ERROR_LINES = 20
"""Of the log: a client's fault is no error of the server, and one that is told takes a handful of lines."""

AGAIN_SECONDS = 10.0
"""From the end of an attack until the honest client is served as if there had been none."""

WELL_SECONDS = 150.0
LOOK_SECONDS = 0.2
BATCH_SECONDS = 180.0


def strike(attack: Attack, server: Server, quiet: dict[str, float]) -> Row:
    """`quiet`: the slowest answers while nobody attacks, in seconds by kind. What is slower right before counts too."""
    with Attacker(attack, Target(server.port, server.key)) as attacker, Watch(server) as watch:
        with Honest(server) as honest:
            quiet = {kind: max(seconds, quiet[kind]) for kind, seconds in honest.slowest_of_all().items()}
            limits = {kind: quiet[kind] + goal for kind, goal in GOALS.items()}
            struck = time.monotonic()
            loot = attacker.attack()
            ended = time.monotonic()
            well = _await_well(server, honest, ended, limits)
            row = Row(
                slowest=honest.slowest_of_all(struck),
                quiet=quiet,
                refused=dict(honest.refused(struck)),
                got=dict(loot.outcomes),
                got_bytes=loot.bytes,
                got_seconds=round(ended - struck, 2),
                again=round(honest.again(ended, limits), 1),
                note=loot.note,
            )
            row.promise(not honest.wrong(struck), f"honest requests were answered {sorted(honest.wrong(struck))}")
            row.spoilt = not well
            row.promise(well, f"not served well again within {WELL_SECONDS:.0f} s")
        _judge_times(row, attack, limits)
        _judge_loot(row, attack, loot.slowest)
        _judge_batches(row, server, honest.batches)
        _judge_server(row, server, watch)
    return row


def _await_well(server: Server, honest: Honest, moment: float, limits: dict[str, float]) -> bool:
    deadline = time.monotonic() + WELL_SECONDS
    while not honest.well_since(moment, limits):
        assert server.process is not None
        if time.monotonic() > deadline or server.process.poll() is not None:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _judge_times(row: Row, attack: Attack, limits: dict[str, float]) -> None:
    late = [kind for kind, seconds in row.slowest.items() if seconds > limits[kind] and kind not in attack.waits]
    row.slow += [f"{kind} took {row.slowest[kind]:.1f} s" for kind in late]
    if row.again > AGAIN_SECONDS:
        row.slow.append(f"well again after {row.again:.0f} s")


def _judge_loot(row: Row, attack: Attack, slowest: float) -> None:
    strange = sorted(set(row.got) - set(attack.gets))
    row.promise(not strange, f"the attacker got {', '.join(strange)}")
    if attack.at_most is not None and slowest > attack.at_most:
        row.slow.append(f"the attacker was answered after {slowest:.1f} s")


def _judge_batches(row: Row, server: Server, batches: list[str]) -> None:
    """Complete, and each line once."""
    wrong: Counter[str] = Counter()
    for each in batches:
        try:
            judged = judge(server, server.finished(each, BATCH_SECONDS), custom_ids(BATCH_LINES))
        except (AssertionError, APIError) as error:
            row.broken.append(f"an honest batch: {str(error).splitlines()[0]}")
            return
        wrong.update({"lost": judged.lost, "doubled": judged.doubled, "failed": judged.wrongly_failed})
        row.broken += judged.broken
    row.batches = len(batches)
    row.broken += [f"{count} honest lines {words}" for words, count in wrong.items() if count]


def _judge_server(row: Row, server: Server, watch: Watch) -> None:
    assert server.process is not None
    deaths = watch.deaths()
    row.memory, row.disk, row.alerts = watch.grown(), watch.disk(), watch.alerts()
    row.deaths = max(deaths.pop("engine", 0), deaths.pop("core", 0))
    row.others = round(watch.others(), 2)
    row.log_lines, errors = watch.log_lines()
    row.promise(server.process.poll() is None, "the server ended")
    row.broken += [f"the {part} died" for part in sorted(deaths)]
    row.promise(not row.deaths, f"engine deaths: {row.deaths}")
    row.promise(not row.alerts, f"alerts: {', '.join(row.alerts)}")
    row.promise(errors <= ERROR_LINES, f"{errors:,} lines of errors in the log")
    row.broken += [f"{part} grew by {size:,} MB" for part, size in row.memory.items() if size > MEMORY_MB]
    row.spoilt |= bool(row.deaths or deaths or max(row.memory.values()) > MEMORY_MB)
