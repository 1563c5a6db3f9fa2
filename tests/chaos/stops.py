"""SIGSTOP: what hangs instead of dying."""

import contextlib
import time

import psutil

from tests.acceptance.ledger import Ledger
from tests.acceptance.lines import chat, jsonl
from tests.chaos.report import Row
from tests.chaos.watch import health_prober
from tests.chaos.yard import ChaosServer, Scenario, Yards, await_gone, custom_ids, judge, lasting, strike_in_batch

HANG_DETECTED_SECONDS = 40
HANG_READY_SECONDS = 90
LOST_READY_SECONDS = 240
REAL_MODEL = "SmolLM2-135M-Instruct"
LONG_PROMPT_WORDS = 1950
"""Of 2,048 tokens that local.yaml lets the model take."""
LONG_PROMPTS = 64
LONG_SECONDS = 1200
STOPPED_SECONDS = 25
"""Longer than a lease, shorter than the 30 s after which Serve kills what does not answer its health check."""
FEW_TOKENS = 4
"""So that the engine is through with what both dispatchers sent while one is stopped, on a busy machine as well: until
then the other has no room for more."""
TAKEN_SECONDS = 20
"""A lease is 15 s: by then another dispatcher has answers of the shards of one that stopped."""


def core(yards: Yards) -> Row:
    """Serve replaces the replica, and the stopped core goes with it."""
    server = yards.running()
    [stopped] = server.part("core")
    row = strike_in_batch(server, stopped.suspend)
    detected = row.detected is not None and row.detected < HANG_DETECTED_SECONDS
    row.promise(detected, f"the gate did not close within {HANG_DETECTED_SECONDS} s")
    row.promise(row.ready is not None and row.ready < HANG_READY_SECONDS, f"not ready within {HANG_READY_SECONDS} s")
    row.promise(await_gone([stopped], 0), "the stopped core was left behind")
    return row


def raylet(yards: Yards) -> Row:
    """It stays stopped: Ray takes the node for dead and nothing answers, until the cluster is started again."""
    server = yards.running()
    [stopped] = server.part("raylet")
    row = strike_in_batch(server, stopped.suspend)
    row.promise(row.ready is not None and row.ready < LOST_READY_SECONDS, f"not ready within {LOST_READY_SECONDS} s")
    row.promise(await_gone([stopped], 0), "the stopped raylet was left behind")
    return row


def long_prompts(yards: Yards) -> Row:
    """Not a hang: the longest prompts that a real model takes, as many at once as it runs. Nothing may be replaced."""
    server = yards.running(BATCHYARD_CONFIG="local.yaml", BATCHYARD_REPLICAS="1")
    before = server.part("core")
    prompt = "river " * LONG_PROMPT_WORDS
    lines = [chat(each, prompt, model=REAL_MODEL, max_tokens=4) for each in custom_ids(LONG_PROMPTS)]
    started = time.monotonic()
    with health_prober(server) as prober:
        finished = server.finished(server.create(jsonl(lines)).id, LONG_SECONDS)
    row = judge(server, finished, custom_ids(LONG_PROMPTS))
    tokens = finished.usage.input_tokens if finished.usage else 0
    row.note = f"{LONG_PROMPTS} prompts of {tokens // LONG_PROMPTS} tokens in {time.monotonic() - started:.0f} s"
    row.promise(server.part("core") == before, "the engine was replaced")
    row.promise(not prober.bad(started), f"the prober was answered {sorted(prober.bad(started))}")
    return row


def dispatcher(yards: Yards) -> Row:
    """Nobody else is there: its work waits until it wakes up or Serve replaces it."""
    server = yards.running()
    return strike_in_batch(server, lambda: _stop_a_dispatcher(server))


def dispatcher_of_two(yards: Yards) -> Row:
    """The other's lines go on, and it takes the stopped one's when the lease has run out.

    Woken up, that one has results of claims that it lost.
    """
    server = yards.running(BATCHYARD_CONFIG=str(yards.config(dispatch={"dispatchers": 2})))
    row = strike_in_batch(server, lambda: _stop_a_dispatcher(server), tokens=FEW_TOKENS)
    row.promise(bool(row.twice), "the other did not take its shards")
    row.promise(row.pause is not None and row.pause < TAKEN_SECONDS, "the other stood still as well")
    return row


def _stop_a_dispatcher(server: ChaosServer) -> None:
    """The first one, for a while; not in a write, in which it would keep SQLite's lock from everybody else."""
    process, ledger = server.part("dispatcher")[0], Ledger(server.data)
    with lasting(STOPPED_SECONDS):
        process.suspend()
        while not ledger.writable():
            process.resume()
            ledger.writable()  # once more: it returns when that write is over
            process.suspend()
    with contextlib.suppress(psutil.NoSuchProcess):  # replaced meanwhile
        process.resume()


SCENARIOS = (
    Scenario("stop-core", "SIGSTOP of vLLM's core", core),
    Scenario("stop-raylet", "SIGSTOP of the raylet, for good", raylet),
    Scenario("long-prompts", "the longest prompts at full load: slow, and no hang", long_prompts),
    Scenario("stop-dispatcher", f"SIGSTOP of the dispatcher for {STOPPED_SECONDS} s, then SIGCONT", dispatcher),
    Scenario("stop-dispatcher-1-of-2", "the same with one of two dispatchers", dispatcher_of_two),
)
