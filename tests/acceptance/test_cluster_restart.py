"""The server in the background: a local cluster that is lost starts again and finishes its batches."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.acceptance.lines import assert_each_line_once, chats
from tests.acceptance.server import START_SECONDS, Server
from tests.commands import ROOT

LINES = 400


def test_up_serves_until_down_and_a_batch_survives_kill_9_of_the_raylet(data: Path) -> None:
    """The loss of the GCS, which is noticed in the same way, is a row of `make chaos`."""
    server = Server(data)
    try:
        up = command(server, "up")
        assert up.returncode == 0, up.stderr
        log = data / "logs" / "serve.log"
        assert server.url in up.stdout and str(log) in up.stdout
        until(lambda: server.status("/readyz") == 200, START_SECONDS)
        batch = server.create(chats(LINES, max_tokens=16, ignore_eos=True))
        started = kill_raylet(data)
        until(lambda: '"ended": ["raylet"]' in log.read_text(), 2)
        until(lambda: server.status("/readyz") == 200, START_SECONDS)
        print(f"\nkill -9 of the raylet: ready after {time.monotonic() - started:.1f} s")
        until(lambda: server.client.batches.retrieve(batch.id).status == "completed", 120)
        finished = server.client.batches.retrieve(batch.id)
        assert finished.request_counts is not None and finished.request_counts.failed == 0
        assert_each_line_once(server, finished, [f"line-{number}" for number in range(LINES)])
    finally:
        server.close_clients()
        down = command(server, "down")
    assert down.returncode == 0, down.stderr
    assert "is gone" in down.stdout
    assert server.status("/livez") is None
    server.close_clients()


def kill_raylet(data: Path) -> float:
    """Returns when; all of the lost cluster's processes are gone soon after."""
    from deployments.local import server_pid

    pid = server_pid(data)
    assert pid is not None
    lost = psutil.Process(pid).children(recursive=True)
    next(each for each in lost if each.name() == "raylet").kill()
    started = time.monotonic()
    until(lambda: not any(each.is_running() for each in lost), 30)
    return started


def until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def command(server: Server, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", name],
        cwd=ROOT,
        env={**os.environ, **server.environment},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
