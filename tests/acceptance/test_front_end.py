"""Requests that keep vLLM's front end busy, hold Python's lock or eat memory: what others see, and how they end."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.acceptance.conftest import running
from tests.acceptance.lines import chat, jsonl, results
from tests.acceptance.server import Server, title_of
from tests.commands import ROOT

PLUGIN = ROOT / "tests/chaos/poison_plugin"
FRONT_END_SECONDS = 15
LIMITS = {"front_end_seconds": FRONT_END_SECONDS, "front_end_gb": 1, "hang_seconds": 5}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("front_end")
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    config["applications"][0]["args"]["models"][0] |= LIMITS
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    path = os.pathsep.join(filter(None, [str(PLUGIN), os.environ.get("PYTHONPATH")]))
    yield from running(Server(folder / "data", str(folder / "config.yaml"), PYTHONPATH=path))


def ask(server: Server, request_id: str, **poison: Any) -> httpx.Response:
    body = chat("x", "Say it.", max_tokens=4)["body"] | {"vllm_xargs": poison}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers={"x-request-id": request_id}, timeout=120)


def logged(server: Server, event: str) -> list[dict[str, Any]]:
    lines = server.log.read_text().splitlines()
    return [found for line in lines if f'"{event}"' in line and (found := json.loads(line)).get("event") == event]


def replica(server: Server) -> psutil.Process:
    [found] = server.replicas("Engine:tiny")
    return found


def test_a_busy_front_end_is_no_hung_core(server: Server) -> None:
    before, statuses, answers = replica(server), set(), []
    asking = threading.Thread(target=lambda: answers.append(ask(server, "req-busy", poison="block", seconds=10)))
    asking.start()
    while asking.is_alive():
        statuses.add(server.health()["status"])
        time.sleep(0.2)
    assert [each.status_code for each in answers] == [200]
    assert statuses == {"healthy"}
    assert replica(server) == before
    assert "online request req-busy to /v1/chat/completions" in [
        each["work"] for each in logged(server, "vLLM's front end is busy")
    ]
    assert not logged(server, "alert")


def test_out_of_memory_the_kernel_ends_an_engine_before_what_it_serves(server: Server) -> None:
    scores = {title_of(each): int(Path(f"/proc/{each.pid}/oom_score_adj").read_text()) for each in server.processes()}
    engine = {title: score for title, score in scores.items() if "Engine" in title}
    others = {title: score for title, score in scores.items() if title.startswith("ray::") and title not in engine}
    assert len(engine) == 2, scores  # front end and core
    assert min(engine.values()) > max(others.values()), scores


def test_a_client_that_leaves_stops_its_work_and_is_no_error(server: Server) -> None:
    [core] = [each for each in server.processes() if title_of(each).startswith("VLLM::EngineCore")]
    # 50 sequences of 900 tokens: a minute of work, of which the client waits for two seconds.
    body = {"model": "tiny", "prompt": "Count.", "n": 50, "max_tokens": 900, "ignore_eos": True, "prompt_logprobs": 20}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=2)

    def idle() -> bool:
        return core.cpu_percent(1.0) < 20

    server.until(idle, 10)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("poison", "words"),
    [
        (
            {"poison": "lock", "seconds": 100},
            f"busy with one thing for longer than front_end_seconds ({FRONT_END_SECONDS})",
        ),
        ({"poison": "eat"}, "by more than front_end_gb (1)"),
    ],
)
def test_one_that_takes_too_much_ends_with_its_engine_and_people_are_told_why(
    server: Server, poison: dict[str, Any], words: str
) -> None:
    before, started = replica(server), time.monotonic()
    answer = ask(server, f"req-{poison['poison']}", **poison)
    took = time.monotonic() - started
    assert answer.status_code == 503, answer.text
    assert took < FRONT_END_SECONDS + 5
    server.until(lambda: words in str(server.health()["models"][0].get("reason")), 10)
    [told] = [each for each in logged(server, "alert") if words in each["message"]]
    assert told["kind"] == "engine_ended"
    assert told["work"] == f"online request req-{poison['poison']} to /v1/chat/completions"
    server.until(lambda: server.health()["status"] == "healthy", 120)
    assert replica(server) != before
    assert not [each for each in logged(server, "alert") if each["kind"] == "hang"]


def test_a_line_that_dies_as_it_enters_is_found_by_its_deaths(server: Server) -> None:
    deadly = chat("deadly", "Say it.", max_tokens=4)
    deadly["body"]["vllm_xargs"] = {"poison": "die"}
    batch = server.finished(server.create(jsonl([deadly])).id, 400)
    [error] = results(server, batch.error_file_id)
    assert (error["custom_id"], error["error"]["code"]) == ("deadly", "engine_lost")
    lost = logged(server, "engine lost")
    assert len(lost) == 4, [each["reason"] for each in lost]
