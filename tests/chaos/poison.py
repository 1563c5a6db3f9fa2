"""Lines that kill vLLM's core whenever they run."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.ledger import Ledger
from tests.acceptance.lines import chat, jsonl, results
from tests.chaos.report import Row
from tests.chaos.watch import LedgerWatch, health_prober
from tests.chaos.yard import TOKENS, Scenario, Yards, custom_ids, judge, with_plugin

PLUGIN = Path(__file__).with_name("poison_plugin")
LINES = 2000
SECONDS = 1500


def poisoned(*positions: int) -> Callable[[Yards], Row]:
    """The row of a batch with poison at these positions."""

    def run(yards: Yards) -> Row:
        server = yards.running(**with_plugin(PLUGIN))
        lines = [chat(each, f"Say {each}.", max_tokens=TOKENS, ignore_eos=True) for each in custom_ids(LINES)]
        pills = [lines[position] for position in positions]
        for line in pills:
            line["body"]["vllm_xargs"] = {"poison": 1}
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
        row = judge(server, finished, custom_ids(LINES), may_fail=guilty)
        errors = {line["custom_id"]: line for line in results(server, finished.error_file_id)}
        row.promise(set(guilty) <= set(errors), "poison lines without an error")
        codes = {str((line["error"] or {}).get("code")) for line in errors.values()}
        row.promise(codes == {"engine_lost"}, f"error codes {sorted(codes)}")
        row.twice = watch.twice
        row.detected, row.ready = prober.first(died, unlike="healthy"), prober.good_again(died)
        row.note = f"{prober.times_bad(died)} engine deaths; the batch took {took:.0f} s"
        return row

    return run


SCENARIOS = (
    Scenario("poison-1", f"1 of {LINES} lines kills the core whenever it runs", poisoned(1234)),
    Scenario("poison-3", f"3 of {LINES} lines kill the core, each in a shard of its own", poisoned(10, 700, 1900)),
)
