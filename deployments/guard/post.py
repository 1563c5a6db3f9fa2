"""Starts a guard beside this process."""

import json
import subprocess
import sys
from dataclasses import asdict

from deployments.guard.guard import Orders
from deployments.guard.sheet import Sheet


def post_guard(orders: Orders, sheet: Sheet) -> subprocess.Popen[bytes]:
    """It ends when the process of its orders does. In a session of its own: Ray ends the replica's process group."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "deployments.guard", str(sheet.file)],
        stdin=subprocess.PIPE,
        pass_fds=[sheet.file],
        start_new_session=True,
    )
    assert guard.stdin is not None
    guard.stdin.write(json.dumps(asdict(orders)).encode())
    guard.stdin.close()
    return guard
