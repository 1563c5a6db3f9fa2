"""A clock that steps in the middle of a batch."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.chaos.report import Row
from tests.chaos.yard import Scenario, Yards, strike_in_batch, with_plugin

PLUGIN = Path(__file__).with_name("clock_plugin")


def stepped(seconds: int) -> Callable[[Yards], Row]:
    """Every Python process of the server and its database live by a clock that we set."""

    def run(yards: Yards) -> Row:
        offset = yards.folder / "clock"
        _write(offset, 0)
        server = yards.running(CHAOS_CLOCK=str(offset), **with_plugin(PLUGIN))
        row = strike_in_batch(server, lambda: _write(offset, seconds))
        yards.close()
        return row

    return run


def _write(offset: Path, seconds: int) -> None:
    """Never half a number."""
    new = offset.with_suffix(".new")
    new.write_text(str(seconds))
    os.replace(new, offset)


SCENARIOS = (
    Scenario("clock-forward", "the clock steps an hour forward", stepped(3600)),
    Scenario("clock-back", "the clock steps an hour back", stepped(-3600)),
)
