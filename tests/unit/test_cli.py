"""The demo uses the server that it started, and no other, and does not leave it behind."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import typer

from app.cli import demo
from tests.acceptance.server import free_port
from tests.commands import ROOT, batchyard
from tests.unit.waiting import PATIENCE_SECONDS, until


class Ready(BaseHTTPRequestHandler):
    """Another server, which says that it is ready."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[HTTPServer]:
    Ready.asked = []
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_demo_refuses_a_port_that_another_server_has(other: HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "models/SmolLM2-135M-Instruct").mkdir(parents=True)
    config, port = str(ROOT / "local.yaml"), str(other.server_port)
    ended = batchyard("demo", cwd=tmp_path, BATCHYARD_CONFIG=config, BATCHYARD_PORT=port)
    assert ended.returncode == 1
    assert port in ended.stderr and "BATCHYARD_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert Ready.asked == []


def test_a_demo_that_is_killed_takes_its_server_with_it(tmp_path: Path) -> None:
    for needed in ("models/SmolLM2-135M-Instruct", "examples"):
        (tmp_path / needed).mkdir(parents=True)
    environment = {**os.environ, "BATCHYARD_CONFIG": str(ROOT / "local.yaml"), "BATCHYARD_PORT": str(free_port())}
    command = [sys.executable, "-m", "app.cli", "demo"]
    with subprocess.Popen(command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}) as process:
        started = psutil.Process(process.pid)
        try:
            (server,) = asyncio.run(until(lambda: [each for each in started.children() if "serve" in each.cmdline()]))
        finally:
            process.kill()
    try:
        server.wait(PATIENCE_SECONDS)
    finally:
        with suppress(psutil.NoSuchProcess):
            server.terminate()


def test_a_server_that_ended_is_not_ready_whoever_answers_on_its_port(other: HTTPServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("the port is taken")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(typer.Exit):
        demo.await_ready(f"http://127.0.0.1:{other.server_port}", ended, log)
