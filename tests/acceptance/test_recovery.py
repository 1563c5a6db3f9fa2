"""One data folder through power loss, a start in the background and a lost cluster: every batch ends whole."""

import time
from pathlib import Path

import psutil
from openai.types import Batch

from deployments.local.folder_lock import server_pid
from tests.acceptance.ledger import Ledger
from tests.acceptance.lines import assert_each_line_once, chats
from tests.acceptance.server import FINAL, START_SECONDS, Server, until
from tests.commands import batchyard

LINES = 800
AFTER_UP_LINES = 400


def test_power_loss_and_then_a_lost_cluster_lose_and_double_no_line(data: Path) -> None:
    """The loss of the GCS, which is noticed in the same way as the raylet's, is a row of `make chaos`."""
    server = Server(data)
    server.start()
    server.await_ready()
    batch = server.create(chats(LINES, max_tokens=16, ignore_eos=True))
    before = server.follow(batch.id, lambda each: bool(each.request_counts and each.request_counts.completed > 200))
    durable = server.http.get(f"/v1/batches/{batch.id}/results").content.splitlines()
    server.kill_everything()
    again = Ledger(data).in_flight()
    print(f"\nkill -9 of everything: {len(durable)} of {LINES} lines durable, {again} in flight that ran twice")
    assert again <= 2 * 256, "no more than the engine was sent"

    try:
        up = batchyard("up", seconds=START_SECONDS, **server.environment)
        assert up.returncode == 0, up.stderr
        log = data / "logs" / "serve.log"
        assert server.url in up.stdout and str(log) in up.stdout
        until(lambda: server.status("/readyz") == 200, START_SECONDS)
        finished = assert_whole(server, batch.id, LINES)
        # What was readable before the loss was not run again: the very same answers are in the output file.
        output = server.content(finished.output_file_id).splitlines()
        assert before.request_counts is not None and len(durable) >= before.request_counts.completed
        assert set(durable) <= set(output)

        batch = server.create(chats(AFTER_UP_LINES, max_tokens=16, ignore_eos=True))
        started = kill_raylet(data)
        until(lambda: '"ended": ["raylet"]' in log.read_text(), 2)
        until(lambda: server.status("/readyz") == 200, START_SECONDS)
        print(f"kill -9 of the raylet: ready after {time.monotonic() - started:.1f} s")
        assert_whole(server, batch.id, AFTER_UP_LINES)
    finally:
        server.close_clients()
        down = batchyard("down", **server.environment)
    assert down.returncode == 0, down.stderr
    assert "is gone" in down.stdout
    assert server.status("/livez") is None
    server.close_clients()


def assert_whole(server: Server, batch_id: str, lines: int) -> Batch:
    until(lambda: server.client.batches.retrieve(batch_id).status in FINAL, 240)
    batch = server.client.batches.retrieve(batch_id)
    assert batch.status == "completed"
    assert batch.request_counts is not None and batch.request_counts.failed == 0
    assert_each_line_once(server, batch, [f"line-{number}" for number in range(lines)])
    return batch


def kill_raylet(data: Path) -> float:
    """Returns when; all of the lost cluster's processes are gone soon after."""
    pid = server_pid(data)
    assert pid is not None
    lost = psutil.Process(pid).children(recursive=True)
    next(each for each in lost if each.name() == "raylet").kill()
    started = time.monotonic()
    until(lambda: not any(each.is_running() for each in lost), 30)
    return started
