"""kill -9 of each part in the middle of a batch."""

import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from tests.acceptance.lines import chats
from tests.chaos.report import Row
from tests.chaos.watch import health_prober
from tests.chaos.yard import TOKENS, ChaosServer, Scenario, Yards, strike_in_batch, under_load

STORM_SECONDS = 600
STORM_PERIOD = 8
STORM_PARTS = ("engine", "core", "dispatcher", "gateway", "proxy", "controller")
SEED = 4

MANY_LINES = 4000
"""Two engines are busy with them for some time."""


def kill(server: ChaosServer, part: str, number: int | None = None) -> None:
    """The first `number` of its processes, or all."""
    for process in server.part(part)[:number]:
        process.kill()


def killed(part: str) -> Callable[[Yards], Row]:
    """The row of a part that has one process."""

    def run(yards: Yards) -> Row:
        server = yards.running()
        return strike_in_batch(server, lambda: kill(server, part))

    return run


def engine(yards: Yards) -> Row:
    row = killed("engine")(yards)
    row.promise(row.detected is not None and row.detected < 1, "the gate did not close within a second")
    return row


def one_engine_of_two(yards: Yards) -> Row:
    server = yards.running(BATCHYARD_REPLICAS="2")
    row = strike_in_batch(server, lambda: kill(server, "engine", 1))
    row.promise(row.ready is None, "the gate closed although a replica was left")
    return row


def two_engines_of_two(yards: Yards) -> Row:
    server = yards.running(BATCHYARD_REPLICAS="2")
    return strike_in_batch(server, lambda: kill(server, "engine"))


def engines_of_a_node(yards: Yards) -> Row:
    """Both engines with their cores, stopped before they die so that none acts on the death of another.

    What ran in them is run again beside the rest, by both engines: once they are back, the batch takes no longer than
    one that nothing befell.
    """
    server = yards.running(BATCHYARD_REPLICAS="2")
    started = time.monotonic()
    server.finished(server.create(chats(MANY_LINES, max_tokens=TOKENS, ignore_eos=True)).id)
    quiet = time.monotonic() - started

    def strike() -> None:
        doomed = server.part("engine") + server.part("core")
        for process in doomed:
            process.suspend()
        for process in doomed:
            process.kill()

    row = strike_in_batch(server, strike, partial(health_prober, good=("healthy",)), lines=MANY_LINES)
    assert row.ready is not None and row.over is not None
    after = row.over - row.ready
    row.promise(after < 2 * quiet, f"{after:.0f} s from both engines' return to the batch's end")
    row.note = f"over {row.over:.0f} s after the fault; {MANY_LINES:,} lines without a fault take {quiet:.0f} s"
    return row


def storm(yards: Yards) -> Row:
    """Any part, again and again."""
    server, chooser = yards.running(), random.Random(SEED)
    kills = Counter[str]()

    def strike() -> None:
        part = chooser.choice(STORM_PARTS)
        kill(server, part)
        kills[part] += 1

    row, _ = under_load(server, STORM_SECONDS, STORM_PERIOD, strike)
    row.note += "; kills: " + ", ".join(f"{part} {number}" for part, number in sorted(kills.items()))
    return row


SCENARIOS = (
    Scenario("kill-engine-1-of-2", "kill -9 of an engine replica, 1 of 2", one_engine_of_two),
    Scenario("kill-engine-2-of-2", "kill -9 of both engine replicas, 2 of 2", two_engines_of_two),
    Scenario("kill-engines-of-node", "kill -9 of both engines and their cores at once, 2 of 2", engines_of_a_node),
    Scenario("kill-engine", "kill -9 of the engine replica, 1 of 1", engine),
    Scenario("kill-core", "kill -9 of vLLM's core", killed("core")),
    Scenario("kill-dispatcher", "kill -9 of the dispatcher", killed("dispatcher")),
    Scenario("kill-gateway", "kill -9 of the gateway", killed("gateway")),
    Scenario("kill-controller", "kill -9 of Serve's controller", killed("controller")),
    Scenario("kill-proxy", "kill -9 of the proxy", killed("proxy")),
    Scenario("kill-raylet", "kill -9 of the raylet", killed("raylet")),
    Scenario("kill-gcs", "kill -9 of the GCS", killed("gcs")),
    Scenario("storm", "a kill every 8 s for 10 minutes", storm),
)
