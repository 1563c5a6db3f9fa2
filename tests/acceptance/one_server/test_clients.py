"""What a server is to others: to each major version of the client, and to who wants its port."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.lines import chats
from tests.acceptance.server import Server
from tests.commands import ROOT, batchyard


def test_a_taken_port_is_refused_in_words(server: Server, tmp_path: Path) -> None:
    ended = batchyard("serve", **{**server.environment, "BATCHYARD_DATA": str(tmp_path / "data")})
    assert ended.returncode == 1
    assert str(server.port) in ended.stderr and "BATCHYARD_PORT" in ended.stderr


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_each_major_version_of_the_client_does_the_whole_round(server: Server, version: str, tmp_path: Path) -> None:
    folder = ROOT / ".venv" / "clients" / f"openai-{version}"
    (tmp_path / "in.jsonl").write_bytes(chats(5))
    ended = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("client_round.py")),
            f"{server.url}/v1",
            str(tmp_path / "in.jsonl"),
        ],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["version"].split(".")[0] == version
    assert report["done"] == ["upload", "create", "poll", "content", "paging", "cancel", "delete"]
