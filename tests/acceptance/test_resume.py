"""Power loss, as far as processes go: everything dies at once, and a new start finishes the batch."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.acceptance.lines import assert_each_line_once, chats, results
from tests.acceptance.server import Server


def test_kill_9_of_everything_in_the_middle_of_a_batch_loses_and_doubles_no_line(data: Path) -> None:
    server = Server(data)
    server.start()
    server.await_ready()
    lines = 1200
    batch = server.create(chats(lines, max_tokens=16, ignore_eos=True))
    before = server.follow(batch.id, lambda each: bool(each.request_counts and each.request_counts.completed > 200))
    durable = server.http.get(f"/v1/batches/{batch.id}/results").content.splitlines()
    server.kill_everything()
    again = in_flight(data)

    server.start()
    try:
        server.await_ready()
        finished = server.finished(batch.id)
        assert finished.status == "completed"
        assert finished.request_counts is not None and finished.request_counts.failed == 0
        assert_each_line_once(server, finished, [f"line-{number}" for number in range(lines)])
        # What was readable before the loss was not run again: the very same answers are in the output file.
        output = server.content(finished.output_file_id).splitlines()
        assert before.request_counts is not None and len(durable) >= before.request_counts.completed
        assert set(durable) <= set(output)
        assert len(results(server, finished.output_file_id)) == lines
        print(f"\nkill -9 of everything: {len(durable)} of {lines} lines durable, {again} in flight that ran twice")
        assert again <= 2 * 256, "no more than the engine was sent"
    finally:
        seconds = server.stop()
    assert seconds < 30


def in_flight(data: Path) -> int:
    """Lines that were with the engine and have no durable answer: those run again."""
    with closing(sqlite3.connect(data / "batchyard.db")) as ledger:
        claimed = ledger.execute("SELECT batch_id, \"index\", count FROM shards WHERE state = 'running'").fetchall()
        recorded = ledger.execute("SELECT batch_id, shard, lines FROM segments").fetchall()
    running = {(batch_id, index) for batch_id, index, _ in claimed}
    done = sum(len(json.loads(lines)) for batch_id, shard, lines in recorded if (batch_id, shard) in running)
    return sum(count for _, _, count in claimed) - done
