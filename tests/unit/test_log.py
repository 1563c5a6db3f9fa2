"""The log: one format, no colours, no noise, and never too large."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.local import log_file
from deployments.local.log_file import LogOfThisStart, make_room
from deployments.local.log_lines import as_entries
from tests.commands import ROOT

SERVE = "INFO 2026-11-28 04:26:28,850 batchyard_Engine:tiny nr4az7e0 -- Started vLLM engine."
OURS = '{"event": "Ready.", "level": "info", "timestamp": "2026-11-28T04:26:31Z"}'
PRINTED = {
    SERVE: ("info", "cluster", "Started vLLM engine."),
    f"\x1b[36m(ServeReplica:batchyard:Engine:tiny pid=11844)\x1b[0m {SERVE}": (
        "info",
        "ServeReplica:batchyard:Engine:tiny",
        "Started vLLM engine.",
    ),
    "2026-11-28 04:25:44,778\tINFO worker.py:2029 -- View at \x1b[1m\x1b[32mhttp://x\x1b[39m\x1b[22m": (
        "info",
        "cluster",
        "View at http://x",
    ),
    "(Engine pid=1) (EngineCore pid=2) WARNING 11-28 04:26:28 [vllm.py:1371] Enforce eager set": (
        "warning",
        "EngineCore",
        "Enforce eager set",
    ),
    '(Engine pid=1) {"asctime": "x", "levelname": "ERROR", "message": "no memory"}': ("error", "Engine", "no memory"),
    "whatever else": ("info", "cluster", "whatever else"),
}


def entries(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in as_entries(text)]


@pytest.mark.parametrize("printed", PRINTED)
def test_whatever_a_cluster_prints_becomes_an_entry_without_colours(printed: str) -> None:
    (entry,) = entries(printed)
    assert (entry["level"], entry["process"], entry["event"]) == PRINTED[printed]
    assert entry["timestamp"].endswith("Z")


def test_our_own_entries_stay_as_they_are_whoever_hands_them_on() -> None:
    assert entries(f"{OURS}\n(Dispatcher pid=7) {OURS}") == [json.loads(OURS)] * 2


def test_a_traceback_is_one_entry() -> None:
    lines = ["Traceback (most recent call last):", '  File "x"', "ValueError: no", ""]
    (error, after) = entries("\n".join(f"(A pid=1) {line}" for line in lines) + f"\n(A pid=1) {SERVE}")
    assert error["event"].endswith("ValueError: no") and error["level"] == "error"
    assert after["event"] == "Started vLLM engine."


@pytest.mark.parametrize(
    "noise",
    [
        '(E pid=1) {"asctime": "x", "levelname": "INFO", "message": "setup plugin alembic.autogenerate.types"}',
        "WARNING 11-28 04:25:49 [importing.py:83] Triton is installed, but `triton.backends` could not be imported.",
        "(E pid=1) Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00, 10.06it/s]",
    ],
)
def test_what_each_start_says_for_nothing_is_left_out(noise: str) -> None:
    assert entries(f"{OURS}\n{noise}\n{OURS}") == [json.loads(OURS)] * 2


def test_a_log_that_cannot_be_written_does_not_stop_who_prints() -> None:
    script = """
import os, sys
from deployments.local.log_lines import one_format
with one_format():
    for _ in range(40):
        os.write(1, b"x" * 9999 + b"\\n")  # more than a pipe holds
sys.exit(7)
"""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([sys.executable, "-c", script], stdout=full, cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == 7


def test_a_log_that_others_have_open_makes_room_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "LOG_BYTES", 10)
    path = tmp_path / "serve.log"
    with path.open("a") as writer:
        print("small", file=writer, flush=True)
        make_room(path)
        assert path.read_text() == "small\n"
        print("large now", file=writer, flush=True)
        make_room(path)
        print("after", file=writer, flush=True)
    assert path.read_text() == "after\n"
    assert path.with_name("serve.log.1").read_text() == "small\nlarge now\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["serve.log", "serve.log.1"]


def test_a_start_reads_its_own_part_of_the_log_and_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    path.write_text('{"event": "starting", "step": "of yesterday"}\n')
    start = LogOfThisStart(path)
    with path.open("a") as writer:
        print('{"event": "starting", "step": "Ray"}', file=writer, flush=True)
        assert list(start.new_steps()) == ["Ray"]
        print('{"event": "starting", "step": "the application"}', file=writer, flush=True)
    assert list(start.new_steps()) == ["the application"]
    assert "yesterday" not in start.text()


@pytest.mark.parametrize(
    "line", ['{"event": 5}\nmore', '{"message": "x", "levelname": []}', "{" * 100_000, '{"a":' * 100_000, "[]", "{}"]
)
def test_no_line_ends_the_rewriting(line: str) -> None:
    assert all(isinstance(entry["event"], str) for entry in entries(line))
