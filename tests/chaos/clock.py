"""A clock that steps in the middle of a batch."""

from collections.abc import Callable
from pathlib import Path

from tests.chaos.report import Row
from tests.chaos.yard import Scenario, Yards, strike_in_batch

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def stepped(seconds: int) -> Callable[[Yards], Row]:
    """Every process of the server lives by libfaketime, which reads its offset from a file once a second."""

    def run(yards: Yards) -> Row:
        if not FAKETIME.exists():
            return Row(note=f"not run: no {FAKETIME} (Debian's package faketime)")
        offset = yards.folder / "clock"
        offset.write_text("+0")
        server = yards.running(
            LD_PRELOAD=str(FAKETIME),
            FAKETIME_TIMESTAMP_FILE=str(offset),
            FAKETIME_CACHE_DURATION="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        )
        row = strike_in_batch(server, lambda: offset.write_text(f"{seconds:+}"))
        yards.close()
        return row

    return run


SCENARIOS = (
    Scenario("clock-forward", "the clock steps an hour forward", stepped(3600)),
    Scenario("clock-back", "the clock steps an hour back", stepped(-3600)),
)
