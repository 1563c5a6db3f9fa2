"""Attacks, with an honest client beside them: `python -m tests.siege [--only NAME ...] [--fresh] [--list] [--table]`.

Results lie in BATCHYARD_SIEGE (.batchyard-siege), a file a row; what this commit was tried with is not tried again.
"""

import signal
import sys

from tests.chaos.yard import ChaosServer, Yards
from tests.rows import Results, caption, measure, options, words_of, write_into
from tests.siege.attack import Attack
from tests.siege.attacks import ATTACKS
from tests.siege.honest import quiet
from tests.siege.report import DOCUMENT, FOLDER, Row, table
from tests.siege.strike import strike

KEYS = {"BATCHYARD_API_KEYS": "sk-siege-4711"}
QUIET_SECONDS = 20.0
DRAIN_SECONDS = 240.0


def main() -> int:
    """Exit code 1 when a row is red."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server under siege ends with us
    asked = options(__doc__, ATTACKS)
    results = Results(FOLDER, Row)
    if not asked.table:
        besiege([each for each in ATTACKS if not asked.only or each.name in asked.only], results, fresh=asked.fresh)
    rows = {each.fault: results.kept(each.name) for each in ATTACKS}
    kept = [each for each in rows.values() if each is not None]
    if kept:
        print(text := f"{caption(kept)}\n\n{table(rows)}")
        if asked.table:
            write_into(DOCUMENT, "siege", text)
    return int(any(each.row.red for each in kept))


def besiege(chosen: list[Attack], results: Results[Row], *, fresh: bool) -> None:
    """One server for all, with keys or without, as long as it is whole; each new one is measured in peace first."""
    yards = Yards(FOLDER)
    peace: dict[ChaosServer, dict[str, float]] = {}

    def row_of(attack: Attack) -> Row:
        try:
            server = yards.running(**({} if attack.keyless else KEYS))
            server.until(lambda: _drained(server), DRAIN_SECONDS)
            if server not in peace:
                peace[server] = quiet(server, QUIET_SECONDS)
            row = strike(attack, server, peace[server])
        except Exception as error:  # noqa: BLE001  # whatever it was, the other rows are still worth running
            row = Row(broken=[words_of(error)], spoilt=True)
        if row.spoilt:
            yards.close()
        return row

    try:
        measure(chosen, results, row_of, fresh=fresh)
    finally:
        yards.close()


def _drained(server: ChaosServer) -> bool:
    """What the row before has left is done."""
    queue = server.health()["queue"]
    return not any(queue[state] for state in ("validating", "in_progress", "finalizing", "cancelling"))


if __name__ == "__main__":
    sys.exit(main())
