"""Several models in one application, started by Ray's own `serve run`: chat beside embeddings, with real weights."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from openai import NotFoundError

from tests.acceptance.conftest import running
from tests.acceptance.lines import chat, jsonl, results
from tests.acceptance.server import ROOT, Server

EXAMPLE = "examples/two-models.yaml"
EMBEDDER = "all-MiniLM-L6-v2"
CHAT = "SmolLM2-135M-Instruct"
TOOLS_EXAMPLE = "examples/tools.yaml"
CITIES = ["Paris", "Rome"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": CITIES}},
                "required": ["city"],
            },
        },
    }
    for name in ("weather", "population")
]
THOUGHT = {"structured_outputs": {"regex": "<think>I know it\\.</think>Paris"}}


class ServeRun(Server):
    """The same file, started and ended as any application of Ray Serve. Its port stands in the file.

    The chat model is as examples/tools.yaml has it, which costs no start of its own.
    """

    def start(self) -> None:
        config = self.data.parent / "config.yaml"
        both, tools = (yaml.safe_load((ROOT / example).read_text()) for example in (EXAMPLE, TOOLS_EXAMPLE))
        both["http_options"]["port"] = self.port
        chat, embedder = both["applications"][0]["args"]["models"]
        [with_tools] = tools["applications"][0]["args"]["models"]
        assert with_tools == {**chat, "engine": {**with_tools["engine"], **chat["engine"]}}
        both["applications"][0]["args"]["models"] = [with_tools, embedder]
        config.write_text(yaml.safe_dump(both))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("serve")), "run", str(config)],
                cwd=ROOT,
                env={**os.environ, "BATCHYARD_DATA": str(self.data)},
                stdout=log,
                stderr=log,
            )

    def stop(self) -> float:
        assert self.process is not None
        started = time.monotonic()
        self.close_clients()
        family = self.processes()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(180)  # Serve's own end is in no hurry, and leaves some of its processes for a while
        _, left = psutil.wait_procs(family, timeout=30)
        for process in left:
            process.kill()
        self.process = None
        return time.monotonic() - started


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    for server in running(ServeRun(tmp_path_factory.mktemp("both") / "data")):
        server.until(lambda: server.health()["status"] == "healthy", 240)  # noqa: B023
        yield server


def test_an_embeddings_batch_finds_sentences_that_mean_the_same(both: Server) -> None:
    sentences = {
        "eating": "A man is eating food.",
        "meal": "Someone is having a meal.",
        "stocks": "The stock market fell sharply today.",
        "shares": "Share prices dropped a lot this afternoon.",
    }
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": {"model": EMBEDDER, "input": text}}
        for name, text in sentences.items()
    ]
    batch = both.finished(both.create(jsonl(lines), "/v1/embeddings").id)
    vectors = {
        line["custom_id"]: line["response"]["body"]["data"][0]["embedding"]
        for line in results(both, batch.output_file_id)
    }
    assert batch.model == EMBEDDER
    assert batch.usage is not None and batch.usage.input_tokens > 0
    cosines = {
        frozenset(pair): _cosine(vectors[pair[0]], vectors[pair[1]]) for pair in itertools.combinations(vectors, 2)
    }
    assert cosines[frozenset({"eating", "meal"})] > 0.6
    assert cosines[frozenset({"stocks", "shares"})] > 0.6
    assert cosines[frozenset({"eating", "stocks"})] < 0.2
    assert cosines[frozenset({"meal", "shares"})] < 0.2


def test_the_example_files_run_beside_each_other(both: Server) -> None:
    questions = (ROOT / "examples/demo.jsonl").read_bytes().splitlines(keepends=True)
    chat = both.create(b"".join(questions[::4]))  # some of each kind: a slow CPU needs minutes for all
    embeddings = both.create((ROOT / "examples/embeddings.jsonl").read_bytes(), "/v1/embeddings")
    for batch in (chat, embeddings):
        finished = both.finished(batch.id)
        assert finished.status == "completed"
        assert finished.request_counts is not None and finished.request_counts.failed == 0


def test_the_chat_model_knows_the_capital_of_france(both: Server) -> None:
    answer = both.client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=16,
        temperature=0,
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_each_model_is_listed_and_a_batch_for_both_is_refused(both: Server) -> None:
    assert {model.id for model in both.client.models.list()} == {CHAT, EMBEDDER}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": {"model": name, "input": "x"}}
        for name in (EMBEDDER, CHAT)
    ]
    batch = both.finished(both.create(jsonl(lines), "/v1/embeddings").id)
    assert batch.errors is not None and batch.errors.data
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == ("mismatched_model", 2)


def test_each_model_is_refused_what_the_other_is_for(both: Server) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    lines = [{**line, "body": {"model": EMBEDDER, "messages": [{"role": "user", "content": "x"}]}}]
    batch = both.finished(both.create(jsonl(lines)).id)
    assert batch.errors is not None and batch.errors.data
    assert batch.errors.data[0].code == "endpoint_not_supported"
    with pytest.raises(
        NotFoundError, match=f"{EMBEDDER} does not serve /v1/chat/completions. It serves /v1/embeddings"
    ):
        both.client.chat.completions.create(model=EMBEDDER, messages=[{"role": "user", "content": "x"}])


def test_embeddings_in_bytes_are_refused_in_a_batch_and_come_as_vllm_has_them_online(both: Server) -> None:
    body = {"model": EMBEDDER, "input": "x", "encoding_format": "bytes"}
    lines = [{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}]
    batch = both.finished(both.create(jsonl(lines), "/v1/embeddings").id)
    assert batch.errors is not None and batch.errors.data
    assert batch.errors.data[0].param == "body.encoding_format"
    answer = both.http.post("/v1/embeddings", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")


def asked_of_chat(custom_id: str, **body: Any) -> dict[str, Any]:
    return chat(custom_id, "How is the weather in Paris?", model=CHAT, temperature=0, max_tokens=100, **body)


def call_of(message: dict[str, Any]) -> tuple[str, str]:
    [call] = message["tool_calls"]
    return call["function"]["name"], json.loads(call["function"]["arguments"])["city"]


def test_lines_call_tools_and_tell_their_reasoning_apart(both: Server) -> None:
    named = {"type": "function", "function": {"name": "population"}}
    lines = [
        asked_of_chat("required", tools=TOOLS[:1], tool_choice="required"),
        asked_of_chat("named", tools=TOOLS, tool_choice=named),
        asked_of_chat("thought", **THOUGHT),
    ]
    batch = both.finished(both.create(jsonl(lines)).id)
    assert batch.request_counts is not None and batch.request_counts.failed == 0, results(both, batch.error_file_id)
    required, function, thought = (
        each["response"]["body"]["choices"][0]["message"] for each in results(both, batch.output_file_id)
    )
    assert call_of(required)[0] == "weather" and call_of(required)[1] in CITIES
    assert call_of(function)[0] == "population" and call_of(function)[1] in CITIES
    assert (thought["reasoning"], thought["content"]) == ("I know it.", "Paris")
    assert getattr(batch, "warnings", None) is None


def test_online_requests_do_the_same(both: Server) -> None:
    body = asked_of_chat("a", tools=TOOLS[:1], tool_choice="required")["body"]
    called = both.client.chat.completions.create(**body).choices[0].message
    assert call_of(called.model_dump())[0] == "weather"
    body = asked_of_chat("b")["body"]
    thought = both.client.chat.completions.create(**body, extra_body=THOUGHT).choices[0].message
    assert (thought.model_dump()["reasoning"], thought.content) == ("I know it.", "Paris")


def _cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True)) / (math.hypot(*left) * math.hypot(*right))


def test_what_the_clusters_environment_lacks_is_in_the_log(both: Server) -> None:
    assert "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT=" in both.log.read_text()
