"""Strikes and counts: `python -m tests.chaos [--only NAME ...] [--fresh] [--list] [--table]`.

Results lie in BATCHYARD_CHAOS (.batchyard-chaos), a file a row; what this commit was tried with is not tried again.
"""

import signal
import sys

from tests.chaos import clients, clock, kills, peers, poison, power, redeploy, stops, storage
from tests.chaos.report import DOCUMENT, FOLDER, Row, table
from tests.chaos.yard import Scenario, Yards
from tests.rows import Results, caption, measure, options, words_of, write_into

MODULES = (kills, stops, clients, storage, clock, redeploy, power, poison, peers)
"""In this order: those that share a server are neighbours."""

SCENARIOS: tuple[Scenario, ...] = tuple(scenario for module in MODULES for scenario in module.SCENARIOS)


def main() -> int:
    """Exit code 1 when a row is red."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server under fire ends with us
    asked = options(__doc__, SCENARIOS)
    results = Results(FOLDER, Row)
    if not asked.table:
        run([each for each in SCENARIOS if not asked.only or each.name in asked.only], results, fresh=asked.fresh)
    for section, text in _tables(results).items():
        print(text)
        if asked.table:
            write_into(DOCUMENT, section, text)
    rows = [kept.row for each in SCENARIOS if not each.peer and (kept := results.kept(each.name)) is not None]
    return int(any(row.red for row in rows))


def run(chosen: list[Scenario], results: Results[Row], *, fresh: bool) -> None:
    """A row that breaks is red, and the next has a new server."""
    yards = Yards(FOLDER)

    def strike(scenario: Scenario) -> Row:
        try:
            return scenario.run(yards)
        except Exception as error:  # noqa: BLE001  # whatever it was, the other rows are still worth running
            yards.close()
            return Row(broken=[words_of(error)])

    try:
        measure(chosen, results, strike, fresh=fresh)
    finally:
        yards.close()


def _tables(results: Results[Row]) -> dict[str, str]:
    tables = {}
    for section, peer in (("chaos", False), ("peers", True)):
        rows = {each.fault: results.kept(each.name) for each in SCENARIOS if each.peer == peer}
        if kept := [each for each in rows.values() if each is not None]:
            tables[section] = f"{caption(kept)}\n\n{table(rows)}"
    return tables


if __name__ == "__main__":
    sys.exit(main())
