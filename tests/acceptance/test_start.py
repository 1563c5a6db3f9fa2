"""How the application starts, refuses to start, and says what it lacks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.lines import chats
from tests.acceptance.server import ROOT, Server
from tests.commands import batchyard


def test_a_cluster_without_the_gpus_that_the_config_asks_for_says_so_within_30_seconds(data: Path) -> None:
    server = Server(data, "cluster.yaml", BATCHYARD_HOST="127.0.0.1")
    server.start()
    try:
        server.until(lambda: server.status("/livez") == 200, 120)
        started = time.monotonic()
        server.until(lambda: "GPU" in str(server.health()["models"][0]["reason"]), 30)
        assert time.monotonic() - started < 30
        health = httpx.get(server.url + "/health", timeout=5)
        assert health.status_code == 503
        assert "it needs 1 GPU" in health.json()["models"][0]["reason"]
        assert "the cluster has 0" in health.json()["models"][0]["reason"]
        server.until(lambda: "it needs 1 GPU" in server.log.read_text(), 10)
        body = chats(1).replace(b'"tiny"', b'"Qwen3-8B"')
        refused = httpx.post(
            server.url + "/v1/batches",
            json={
                "input_file_id": server.upload(body),
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        assert refused.status_code == 503
        assert "it needs 1 GPU" in refused.json()["error"]["message"]
    finally:
        server.stop()


def test_serve_run_starts_the_same_application_from_the_same_file(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    config = tmp_path / "local.yaml"
    config.write_text((ROOT / "local.yaml").read_text().replace("port: 8000", f"port: {server.port}"))
    with server.log.open("wb") as log:
        server.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("serve")), "run", str(config)],
            cwd=ROOT,
            env={**os.environ, "BATCHYARD_DATA": str(server.data)},
            stdout=log,
            stderr=log,
        )
    try:
        server.await_ready()
        body = (ROOT / "examples/demo.jsonl").read_bytes().split(b"\n")[:4]
        assert server.finished(server.create(b"\n".join(body)).id).status == "completed"
    finally:
        server.close_clients()
        family = server.processes()
        server.process.send_signal(signal.SIGINT)
        server.process.wait(180)  # Serve's own end is in no hurry; ours (batchyard serve) is tested elsewhere
        _, left = psutil.wait_procs(family, timeout=30)
        for process in left:
            process.kill()
        server.process = None


REFUSALS = {
    "unknown key": ({"BATCHYARD_CONFIG": "{bad}"}, ["replica_count", "known here", "replicas"]),
    "postgresql": ({"BATCHYARD_CONFIG": "{postgres}"}, ["postgresql", "not supported yet", "SQLite"]),
    "no such config": ({"BATCHYARD_CONFIG": "nowhere.yaml"}, ["BATCHYARD_CONFIG", "nowhere.yaml"]),
    "open door": ({"BATCHYARD_HOST": "0.0.0.0"}, ["BATCHYARD_API_KEYS"]),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_config_that_cannot_work_is_refused_in_words(tmp_path: Path, name: str) -> None:
    environment, words = REFUSALS[name]
    tiny = (ROOT / "tests/tiny.yaml").read_text()
    (tmp_path / "bad.yaml").write_text(tiny.replace("device: cpu", "device: cpu\n          replica_count: 2"))
    (tmp_path / "postgres.yaml").write_text(tiny.replace("args:", "args:\n      database: postgresql://db/batchyard"))
    paths = {"{bad}": str(tmp_path / "bad.yaml"), "{postgres}": str(tmp_path / "postgres.yaml")}
    chosen = {key: paths.get(value, value) for key, value in environment.items()}
    ended = batchyard("serve", **{"BATCHYARD_DATA": str(tmp_path / "data"), **chosen})
    assert ended.returncode == 1
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr


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
