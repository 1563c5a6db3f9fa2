"""`batchyard demo`: a server, a batch on it, some of its answers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import typer
from openai.types import Batch

from app.cli.connection import Connection
from app.cli.console import console, fail, say
from app.cli.fetch import fetch
from app.cli.inputs import endpoint_of
from app.cli.outputs import Outputs
from app.cli.run import submit
from app.cli.words import exit_code

QUESTIONS = Path("examples/demo.jsonl")
ANSWERS = Path("demo-output.jsonl")
START_SECONDS = 300
POLL_SECONDS = 0.5


def demo() -> None:
    """Run the example batch on a server of its own.

    Then show some answers, and stop everything.

    \b
    Example: batchyard demo
    """
    from deployments.local.checks import checked_settings
    from deployments.local.family import end_with_parent
    from deployments.local.local_config import LocalConfig, refuse_taken_port

    config = LocalConfig.load()
    checked_settings(config)
    refuse_taken_port(config)  # else the batch would run on whichever server has it
    outputs = Outputs.of(ANSWERS, QUESTIONS)
    say("Starting Batchyard: Ray, the gateway and vLLM with SmolLM2-135M-Instruct (half a minute or so).")
    log_file = Path("demo-server.log")
    with log_file.open("ab") as log:
        log.truncate(0)
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], stdout=log, stderr=log, preexec_fn=end_with_parent
        )
        try:
            await_ready(config.url, server, log_file)
            batch = _run(config.url, outputs)
        finally:
            say("Stopping the server.")
            server.send_signal(signal.SIGTERM)
            server.wait()
    if code := exit_code(batch):
        raise typer.Exit(code)
    console.print_json(batch.to_json())
    _show_answers(QUESTIONS, ANSWERS)
    say(f"All answers: {ANSWERS.resolve()}")


def _run(url: str, outputs: Outputs) -> Batch:
    """On this server, whatever the environment says of others."""
    key = os.environ.get("BATCHYARD_API_KEYS", "").split(",")[0].strip()
    connection = Connection.of(url, key)
    return fetch(connection, submit(connection, QUESTIONS, endpoint_of(QUESTIONS)), outputs)


def await_ready(server_url: str, server: "subprocess.Popen[bytes]", log_file: Path) -> None:
    from deployments.local.probe import http_status

    deadline = time.monotonic() + START_SECONDS
    with console.status("Waiting until a batch would be accepted"):
        while server.poll() is None:  # first: what answers on the port need not be this server
            if http_status(f"{server_url}/readyz") == 200:
                return
            if time.monotonic() > deadline:
                fail(f"The server was not ready after {START_SECONDS} s; {log_file} says more.")
            time.sleep(POLL_SECONDS)
    fail(f"The server did not start; {log_file} says why:\n{log_file.read_text()[-2000:]}")


def _show_answers(input_file: Path, output: Path, number: int = 10) -> None:
    """Some questions from all over the file, each in one line."""
    questions = {line["custom_id"]: line["body"]["messages"][-1]["content"] for line in _lines(input_file)}
    answers = _lines(output)
    for line in answers[:: max(1, len(answers) // number)]:
        answer = line["response"]["body"]["choices"][0]["message"]["content"]
        question = questions[line["custom_id"]]
        say(f"{line['custom_id']}  {' '.join(question.split())}")
        say(f"    → {' '.join(answer.split())}")


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
