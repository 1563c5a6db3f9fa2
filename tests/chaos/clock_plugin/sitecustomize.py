"""Test-only: this interpreter's wall clock is off by the seconds in the file that CHAOS_CLOCK names.

Python imports it by its name, once its folder is on PYTHONPATH. Steps the clocks that Batchyard and Ray Serve's Python
live by: `time.time`, and SQLite's, which keeps the leases. Waiting goes by the monotonic clock, which never steps.
"""

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

OFFSET = Path(os.environ["CHAOS_CLOCK"])
LOOK_SECONDS = 0.2
DAY_SECONDS = 86_400
UNIX_EPOCH = 2_440_587.5
"""As a Julian day."""

_true_time, _true_connect = time.time, sqlite3.dbapi2.connect
_looked, _offset = 0.0, 0.0


def stepped_time() -> float:
    global _looked, _offset
    if (now := time.monotonic()) - _looked > LOOK_SECONDS:
        _looked, _offset = now, float(OFFSET.read_text())
    return _true_time() + _offset


def stepped_julianday(moment: str) -> float:
    if moment != "now":
        raise ValueError(f"julianday({moment!r}): only 'now' is stepped")
    return stepped_time() / DAY_SECONDS + UNIX_EPOCH


def stepped_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
    connection = _true_connect(*arguments, **options)
    connection.create_function("julianday", 1, stepped_julianday)
    return connection


time.time = stepped_time
sqlite3.connect = sqlite3.dbapi2.connect = stepped_connect
