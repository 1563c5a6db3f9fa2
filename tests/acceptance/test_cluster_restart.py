"""A local cluster that is lost starts again and finishes its batches; and the server in the background."""

import os
import subprocess
import sys
import time
from pathlib import Path

from openai.types import Batch

from tests.acceptance.lines import assert_each_line_once, chats
from tests.acceptance.server import START_SECONDS, Server
from tests.commands import ROOT


def test_a_batch_survives_kill_9_of_the_raylet_and_of_the_gcs(data: Path) -> None:
    server = Server(data)
    server.start()
    try:
        server.await_ready()
        lines = 1200
        batch = server.create(chats(lines, max_tokens=16, ignore_eos=True))
        for name, before in (("raylet", 100), ("gcs_server", 500)):
            reached = server.follow(batch.id, lambda each, n=before: completed(each) > n)
            assert reached.status == "in_progress"
            lose(server, name)
        finished = server.finished(batch.id)
        assert finished.status == "completed"
        assert finished.request_counts is not None and finished.request_counts.failed == 0
        assert_each_line_once(server, finished, [f"line-{number}" for number in range(lines)])
    finally:
        server.stop()


def completed(batch: Batch) -> int:
    return batch.request_counts.completed if batch.request_counts else 0


def lose(server: Server, name: str) -> None:
    """kill -9, and the server is ready again."""
    lost = server.processes()
    next(each for each in lost if each.name() == name).kill()
    started = time.monotonic()
    server.until(lambda: f'"ended": ["{name}"]' in server.log.read_text(), 2)
    server.until(lambda: not any(each.is_running() for each in lost), 30)
    gone = time.monotonic() - started
    server.until(lambda: server.status("/readyz") == 200, START_SECONDS)
    ready = time.monotonic() - started
    print(f"\nkill -9 of {name}: everything of the lost cluster gone after {gone:.1f} s, ready after {ready:.1f} s")


def test_up_serves_in_the_background_until_down(data: Path) -> None:
    server = Server(data)
    try:
        up = command(server, "up")
        assert up.returncode == 0, up.stderr
        assert server.url in up.stdout and str(data / "logs" / "serve.log") in up.stdout
        assert server.status("/livez") == 200
    finally:
        server.close_clients()
        down = command(server, "down")
    assert down.returncode == 0, down.stderr
    assert "is gone" in down.stdout
    assert server.status("/livez") is None
    server.close_clients()


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
