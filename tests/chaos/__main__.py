"""Strikes and counts: `python -m tests.chaos [--only NAME ...] [--fresh] [--list] [--table]`.

Results lie in BATCHYARD_CHAOS (.batchyard-chaos), a file a row; what this commit was tried with is not tried again.
"""

import argparse
import signal
import sys
import time
import traceback

from tests.chaos import clients, clock, kills, peers, poison, power, redeploy, stops, storage
from tests.chaos.report import FOLDER, Results, Row, caption, table, write_into_document
from tests.chaos.yard import Scenario, Yards

MODULES = (kills, stops, clients, storage, clock, redeploy, power, poison, peers)
"""In this order: those that share a server are neighbours."""

SCENARIOS: tuple[Scenario, ...] = tuple(scenario for module in MODULES for scenario in module.SCENARIOS)


def main() -> int:
    """Exit code 1 when a row is red."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server under fire ends with us
    options = _options()
    if options.list:
        print("\n".join(f"{scenario.name:24} {scenario.fault}" for scenario in SCENARIOS))
        return 0
    results = Results()
    if not options.table:
        chosen = [each for each in SCENARIOS if not options.only or each.name in options.only]
        run(chosen, results, fresh=options.fresh)
    for section, text in _tables(results).items():
        print(text)
        if options.table:
            write_into_document(section, text)
    rows = [kept.row for each in SCENARIOS if not each.peer and (kept := results.kept(each.name)) is not None]
    return int(any(row.red for row in rows))


def run(chosen: list[Scenario], results: Results, *, fresh: bool) -> None:
    """One after the other; a row that breaks is red, and the next has a new server."""
    yards = Yards(FOLDER)
    try:
        for number, scenario in enumerate(chosen, 1):
            print(f"[{number}/{len(chosen)}] {scenario.name}: {scenario.fault}", flush=True)
            if results.done(scenario.name) and not fresh:
                print("    run before", flush=True)
                continue
            started = time.monotonic()
            row = _strike(scenario, yards)
            results.keep(scenario.name, row, time.monotonic() - started)
            print(f"    {'RED' if row.red else 'ok'} {row}", flush=True)
    finally:
        yards.close()


def _strike(scenario: Scenario, yards: Yards) -> Row:
    try:
        return scenario.run(yards)
    except Exception as error:  # noqa: BLE001  # whatever it was, the other rows are still worth running
        traceback.print_exc()
        yards.close()
        return Row(broken=[f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"])


def _tables(results: Results) -> dict[str, str]:
    tables = {}
    for section, peer in (("chaos", False), ("peers", True)):
        rows = {each.fault: results.kept(each.name) for each in SCENARIOS if each.peer == peer}
        if kept := [each for each in rows.values() if each is not None]:
            tables[section] = f"{caption(kept)}\n\n{table(rows)}"
    return tables


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[each.name for each in SCENARIOS], metavar="NAME")
    parser.add_argument("--fresh", action="store_true", help="run rows again that were run with this commit")
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--table", action="store_true", help="run nothing; write the tables into docs/reliability.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
