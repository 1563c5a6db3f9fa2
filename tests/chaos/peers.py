"""The same kill and the same hang against plain Ray Serve LLM (HTTP, the openai client's own retries) and run-batch.

`python -m tests.chaos.peers PORT` is the plain Ray Serve LLM, with the engine settings of tests/tiny.yaml.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import AsyncOpenAI, OpenAIError

from app.cpu_dtype import fast_dtype
from benchmarks.run_batch import LOG_START, MODEL_FOLDER, ONE_ENGINE, run_batch_command
from tests.acceptance.lines import chats
from tests.acceptance.server import free_port, title_of
from tests.chaos.report import Row
from tests.chaos.yard import LINES, PARTS, TOKENS, Scenario, Yards, end
from tests.commands import ROOT

AT_ONCE = 256
STRIKE_AT = 100
START_SECONDS = 300
PATIENCE_SECONDS = 180
"""After the fault. Whatever has no answer by then counts as lost: nobody would come to mend it."""

INTO_BATCH_SECONDS = 2

DATA = chats(LINES, max_tokens=TOKENS, ignore_eos=True)


PEER_PARTS: dict[str, Callable[[str], bool]] = {
    "replica": lambda title: title.startswith("ray::ServeReplica:default:LLMServer"),
    "core": PARTS["core"],
}
QUIET = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1"}


def plain_serve(part: str, number: signal.Signals) -> Callable[[Yards], Row]:
    def run(yards: Yards) -> Row:
        yards.close()
        port = free_port()
        with _process([sys.executable, "-m", "tests.chaos.peers", str(port)], yards.folder / "plain-serve.log") as peer:
            url = f"http://127.0.0.1:{port}/v1"
            _until(lambda: _answers(url), START_SECONDS)
            return asyncio.run(_requests(url, lambda: _strike(peer, part, number)))

    return run


async def _requests(url: str, strike: Callable[[], None]) -> Row:
    """What a client does that has a file of requests and no batch API: so many at once, each with two retries."""
    client, gate = AsyncOpenAI(base_url=url, api_key="none"), asyncio.Semaphore(AT_ONCE)
    answered: list[float] = []
    errors: list[str] = []
    enough = asyncio.Event()
    in_flight = 0

    async def ask(body: Any) -> None:
        nonlocal in_flight
        async with gate:
            in_flight += 1
            try:
                await client.post("/chat/completions", body=body, cast_to=httpx.Response)
                answered.append(time.monotonic())
                if len(answered) == STRIKE_AT:
                    enough.set()
            except OpenAIError as error:
                errors.append(type(error).__name__)
            finally:
                in_flight -= 1

    tasks = [asyncio.create_task(ask(json.loads(line)["body"])) for line in DATA.splitlines()]
    await asyncio.wait_for(enough.wait(), PATIENCE_SECONDS)
    at_fault, struck = in_flight, time.monotonic()
    strike()
    _, hung = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
    for task in hung:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    later = [at - struck for at in answered if at > struck + 1]
    note = f"{len(errors)} ended in an error, {len(hung)} without an answer after {PATIENCE_SECONDS} s"
    return Row(in_flight=at_fault, lost=LINES - len(answered), ready=min(later, default=None), note=note)


def run_batch(number: signal.Signals) -> Callable[[Yards], Row]:
    def run(yards: Yards) -> Row:
        yards.close()
        with tempfile.TemporaryDirectory() as scratch:
            source, output, log = (Path(scratch) / name for name in ("in.jsonl", "out.jsonl", "log"))
            source.write_bytes(DATA)
            with _process(run_batch_command(source, output, ONE_ENGINE), log, **ONE_ENGINE.environment) as peer:
                _until(lambda: LOG_START in log.read_text(), START_SECONDS)
                time.sleep(INTO_BATCH_SECONDS)
                _strike(peer, "core", number)
                struck = time.monotonic()
                try:
                    note = f"ended with code {peer.wait(PATIENCE_SECONDS)} after {time.monotonic() - struck:.0f} s"
                except subprocess.TimeoutExpired:
                    note = f"hung for {PATIENCE_SECONDS} s, then ended by us"
            lines = [json.loads(line) for line in output.read_bytes().splitlines()] if output.exists() else []
        answered = sum((line["response"] or {}).get("status_code") == 200 for line in lines)
        note = f"{note}; {len(lines)} lines in the output file, {answered} of them answers"
        return Row(in_flight=LINES, lost=LINES - answered, note=note)

    return run


@contextmanager
def _process(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Ends with everything that it started."""
    environ = {**os.environ, **QUIET, **environment}
    with log.open("wb") as output:
        peer = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=output)
    try:
        yield peer
    finally:
        if peer.poll() is None:
            end(peer)


def _strike(peer: subprocess.Popen[bytes], part: str, number: signal.Signals) -> None:
    for process in psutil.Process(peer.pid).children(recursive=True):
        if PEER_PARTS[part](title_of(process)):
            process.send_signal(number)


def _until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the peer was not ready within {seconds} s")
        time.sleep(0.5)


def _answers(url: str) -> bool:
    """Serve listens before the model is there: only an answer is one."""
    body = json.loads(DATA.splitlines()[0])["body"]
    try:
        return httpx.post(f"{url}/chat/completions", json=body, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def main(port: int) -> None:
    """Ray Serve LLM as its documentation starts it, until it is killed."""
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    config = LLMConfig(
        model_loading_config={"model_id": "tiny", "model_source": str(ROOT / MODEL_FOLDER)},
        engine_kwargs={"dtype": fast_dtype(), "max_model_len": 1024, "enforce_eager": True, "max_num_seqs": AT_ONCE},
        deployment_config={"num_replicas": 1, "max_ongoing_requests": LINES},
        placement_group_config={"bundle_per_worker": {"CPU": 1}},
        runtime_env={"env_vars": dict(ONE_ENGINE.environment)},
    )
    ray.init(address="local", num_cpus=16, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_openai_app({"llm_configs": [config]}), blocking=True)


SCENARIOS = (
    Scenario("serve-kill", "Ray Serve LLM: kill -9 of the replica", plain_serve("replica", signal.SIGKILL), peer=True),
    Scenario("serve-hang", "Ray Serve LLM: SIGSTOP of vLLM's core", plain_serve("core", signal.SIGSTOP), peer=True),
    Scenario("run-batch-kill", "vllm run-batch: kill -9 of vLLM's core", run_batch(signal.SIGKILL), peer=True),
    Scenario("run-batch-hang", "vllm run-batch: SIGSTOP of vLLM's core", run_batch(signal.SIGSTOP), peer=True),
)

if __name__ == "__main__":
    main(int(sys.argv[1]))
