"""kill -9 of each part in the middle of a batch."""

import random
from collections import Counter
from collections.abc import Callable

from tests.chaos.report import Row
from tests.chaos.yard import ChaosServer, Scenario, Yards, strike_in_batch, under_load

STORM_SECONDS = 600
STORM_PERIOD = 8
STORM_PARTS = ("engine", "core", "dispatcher", "gateway", "proxy", "controller")
SEED = 4


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
