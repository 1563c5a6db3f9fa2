"""Lines that end the engine whenever they run: its core, its front end, by time or by memory."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.acceptance.ledger import Ledger
from tests.acceptance.lines import chat, jsonl, results
from tests.chaos.report import Row
from tests.chaos.watch import LedgerWatch, health_prober
from tests.chaos.yard import TOKENS, Scenario, Yards, custom_ids, judge, with_plugin

PLUGIN = Path(__file__).with_name("poison_plugin")
LINES = 2000
FEW = 300
SECONDS = 1500


def poisoned(
    *positions: int, lines_in_all: int = LINES, limits: Mapping[str, Any] = MappingProxyType({}), **pill: Any
) -> Callable[[Yards], Row]:
    """The row of a batch with this poison (tests/chaos/poison_plugin) at these positions."""

    def run(yards: Yards) -> Row:
        environment = with_plugin(PLUGIN)
        if limits:
            environment["BATCHYARD_CONFIG"] = str(yards.config_of_model(**limits))
        server = yards.running(**environment)
        ids = custom_ids(lines_in_all)
        lines = [chat(each, f"Say {each}.", max_tokens=TOKENS, ignore_eos=True) for each in ids]
        pills = [lines[position] for position in positions]
        for line in pills:
            line["body"]["vllm_xargs"] = pill
        [core] = server.part("core")
        started = time.monotonic()
        with health_prober(server) as prober, LedgerWatch(Ledger(server.data)) as watch:
            batch = server.create(jsonl(lines))
            core.wait(60)
            died = time.monotonic()
            finished = server.finished(batch.id, SECONDS)
            took = time.monotonic() - started
            server.await_whole()
        guilty = [line["custom_id"] for line in pills]
        row = judge(server, finished, ids, may_fail=guilty)
        errors = {line["custom_id"]: line for line in results(server, finished.error_file_id)}
        row.promise(set(guilty) <= set(errors), "poison lines without an error")
        codes = {str((line["error"] or {}).get("code")) for line in errors.values()}
        row.promise(codes == {"engine_lost"}, f"error codes {sorted(codes)}")
        row.twice = watch.twice
        row.detected, row.ready = prober.first(died, unlike="healthy"), prober.good_again(died)
        row.note = f"{prober.times_bad(died)} engine deaths; the batch took {took:.0f} s"
        return row

    return run


def few(**pill: Any) -> Callable[[Yards], Row]:
    """One in the middle of few lines; what it may take is little, so that the row is over soon."""
    return poisoned(FEW // 2, lines_in_all=FEW, limits={"front_end_seconds": 5, "front_end_gb": 1}, **pill)


SCENARIOS = (
    Scenario("poison-1", f"1 of {LINES} lines kills the core whenever it runs", poisoned(1234, poison=1)),
    Scenario(
        "poison-3", f"3 of {LINES} lines kill the core, each in a shard of its own", poisoned(10, 700, 1900, poison=1)
    ),
    Scenario("poison-entering", f"1 of {FEW} lines kills the front end as it enters", few(poison="die")),
    Scenario("poison-busy", f"1 of {FEW} lines keeps the front end busy", few(poison="block", seconds=60)),
    Scenario("poison-lock", f"1 of {FEW} lines holds Python's lock in the front end", few(poison="lock", seconds=60)),
    Scenario("poison-memory", f"1 of {FEW} lines takes all memory in the front end", few(poison="eat")),
)
