"""How the application starts, refuses to start, and says what it lacks."""

import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.acceptance.lines import chats
from tests.acceptance.server import ROOT, Server
from tests.commands import batchyard


def test_a_model_that_cannot_start_says_why_within_30_seconds(data: Path) -> None:
    """cluster.yaml on a cluster without a GPU, and beside it a model for which no machine has the memory."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    [tiny] = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())["applications"][0]["args"]["models"]
    config["applications"][0]["args"]["models"].append({**tiny, "env": {"VLLM_CPU_KVCACHE_SPACE": "100000"}})
    path = data.parent / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    server = Server(data, str(path), BATCHYARD_HOST="127.0.0.1")

    def reason(model: int) -> str:
        return str(server.health()["models"][model]["reason"])

    server.start()
    try:
        server.until(lambda: server.status("/livez") == 200, 120)
        started = time.monotonic()
        server.until(lambda: "GPU" in reason(0), 30)
        assert time.monotonic() - started < 30
        health = httpx.get(server.url + "/health", timeout=5)
        assert health.status_code == 503
        assert "it needs 1 GPU" in reason(0) and "the cluster has 0" in reason(0)
        server.until(lambda: "it needs 1 GPU" in server.log.read_text(), 10)
        assert "it needs 1 GPU" in refusal(server, "Qwen3-8B")

        # Each of the two gateways looks for itself, every two seconds, why a start failed.
        server.until(lambda: "memory" in reason(1) and "100000" in reason(1), 60)
        server.until(lambda: "100000" in refusal(server, "tiny"), 5)
        # Serve's own limit is three failed starts, after which it never starts the model again.
        server.until(lambda: server.health()["models"][1]["restarts_last_hour"] >= 3, 180)
    finally:
        server.stop()


def refusal(server: Server, model: str) -> str:
    answer = httpx.post(
        server.url + "/v1/batches",
        json={
            "input_file_id": server.upload(chats(1).replace(b'"tiny"', f'"{model}"'.encode())),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    assert answer.status_code == 503
    return str(answer.json()["error"]["message"])


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
