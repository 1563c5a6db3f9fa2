"""Power loss: everything dies at once, at random moments of all that a batch goes through."""

import random
import time
from collections import Counter
from contextlib import closing

from tests.acceptance.ledger import Ledger
from tests.acceptance.lines import chats
from tests.chaos.clients import connected, cut_files, upload_request
from tests.chaos.report import Row, together
from tests.chaos.watch import LedgerWatch
from tests.chaos.yard import TOKENS, ChaosServer, Scenario, Yards, custom_ids, judge

SEED = 20
LINES = 600
UPLOAD_BYTES = 16 * 1024 * 1024
MOMENTS = ("uploading", "validating", "in_progress", "in_progress", "finalizing") * 4
LOOK_SECONDS = 0.002
STEP_SECONDS = 0.03
"""Validating and finalising a batch of this size take about so long: the blow falls within it."""


def losses(yards: Yards) -> Row:
    """The same folder goes on after each, and the start that finishes one batch serves the next."""
    chooser = random.Random(SEED)
    server = yards.unstarted()
    ledger = Ledger(server.data)
    server.start()
    server.await_ready()
    struck_while = Counter[str]()
    rows: list[Row] = []
    for moment in MOMENTS:
        batch_id = _lose_power(server, ledger, moment, chooser)
        struck_while[moment if moment == "uploading" else ledger.status(batch_id)] += 1
        died, in_flight = time.monotonic(), ledger.in_flight()
        with LedgerWatch(ledger) as watch:
            server.start()
            server.await_ready()
            ready = time.monotonic() - died
            finished = server.finished(batch_id)
        row = judge(server, finished, custom_ids(LINES))
        row.in_flight, row.ready, row.twice = in_flight, ready, watch.twice
        row.promise(cut_files(server) == 0, "a file that was not uploaded whole is listed")
        rows.append(row)
    row = together(rows)
    row.note = "while " + ", ".join(f"{state} {number}" for state, number in sorted(struck_while.items()))
    return row


def _lose_power(server: ChaosServer, ledger: Ledger, moment: str, chooser: random.Random) -> str:
    """Returns the id of the batch that it struck."""
    aimed_at = server.processes()
    batch = server.create(chats(LINES, max_tokens=TOKENS, ignore_eos=True))
    if moment == "uploading":
        request = upload_request(server, bytes(UPLOAD_BYTES))
        with closing(connected(server)) as connection:
            connection.sendall(request[: chooser.randrange(len(request))])
            server.kill_everything(aimed_at)
        return batch.id
    enough = chooser.randrange(LINES) if moment == "in_progress" else 0
    while ledger.status(batch.id) == "validating" != moment:
        time.sleep(LOOK_SECONDS)
    while ledger.status(batch.id) == "in_progress" and (moment == "finalizing" or ledger.recorded() < enough):
        time.sleep(LOOK_SECONDS)
    if moment != "in_progress":
        time.sleep(chooser.uniform(0, STEP_SECONDS))
    server.kill_everything(aimed_at)
    return batch.id


SCENARIOS = (Scenario("power", f"power loss: everything at once, {len(MOMENTS)} times", losses),)
