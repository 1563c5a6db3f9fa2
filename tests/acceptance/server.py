"""`batchyard serve` as a process that a test starts, watches and kills; only by pids of its own descendants."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import OpenAI
from openai.types import Batch

from tests.commands import ROOT

START_SECONDS = 240
POLL_SECONDS = 0.1
FINAL = ("completed", "failed", "expired", "cancelled")


class Server:
    """One Batchyard on this machine. `url` is its address without /v1."""

    def __init__(self, data: Path, config: str = "tests/tiny.yaml", **environment: str) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data.parent / f"{data.name}.log"
        self.environment = {
            "BATCHYARD_CONFIG": config,
            "BATCHYARD_DATA": str(data),
            "BATCHYARD_PORT": str(self.port),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def key(self) -> str | None:
        """The first of its API keys, where it has some."""
        return self.environment.get("BATCHYARD_API_KEYS", "").partition(",")[0] or None

    @cached_property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, timeout=60)

    @cached_property
    def http(self) -> httpx.Client:
        """One for all: making one costs 30 ms of CPU, which the server under test would lack."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def start(self) -> None:
        """Starts the process; `await_ready` waits for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )

    def await_ready(self) -> float:
        """Seconds until a batch would be accepted."""
        started = time.monotonic()
        self.until(lambda: self.status("/readyz") == 200, START_SECONDS)
        return time.monotonic() - started

    def until(self, holds: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s; the server's log ends:\n{self.log.read_text()[-6000:]}")
            time.sleep(POLL_SECONDS)

    def status(self, path: str) -> int | None:
        """The HTTP status; None when nobody answers."""
        try:
            return self.http.get(path, timeout=5).status_code
        except httpx.HTTPError:
            return None

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/health", timeout=5).json()
        return answer

    def processes(self) -> list[psutil.Process]:
        """Everything that this server started and that runs."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The worker processes of a deployment, by the title that Ray gives them."""
        title = f"ray::ServeReplica:batchyard:{deployment}"
        return [each for each in self.processes() if title_of(each).startswith(title)]

    def kill_everything(self) -> None:
        """Power loss, as far as processes go."""
        self.close_clients()
        assert self.process is not None
        doomed = [psutil.Process(self.process.pid), *self.processes()]
        for process in doomed:
            process.suspend()  # so that nobody acts on the death of another
        for process in doomed:
            process.kill()
        psutil.wait_procs(doomed, timeout=30)
        self.process.wait()
        self.process = None

    def close_clients(self) -> None:
        for name in ("http", "client"):
            if (client := self.__dict__.pop(name, None)) is not None:
                client.close()

    def stop(self) -> float:
        """SIGTERM; returns the seconds until the process and all it started were gone."""
        self.close_clients()
        if self.process is None:
            return 0.0
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended by itself; its log ends:\n{self.log.read_text()[-6000:]}")
        started = time.monotonic()
        family = self.processes()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.process = None
        _, left = psutil.wait_procs(family, timeout=30)
        assert not left, f"left behind: {[title_of(each) for each in left]}"
        return time.monotonic() - started

    def upload(self, data: bytes, name: str = "in.jsonl") -> str:
        return self.client.files.create(file=(name, data), purpose="batch").id

    def create(self, data: bytes, endpoint: Any = "/v1/chat/completions") -> Batch:
        return self.client.batches.create(input_file_id=self.upload(data), endpoint=endpoint, completion_window="24h")

    def follow(self, batch_id: str, done: Callable[[Batch], bool], seconds: float = 120) -> Batch:
        """The batch as soon as `done` says so."""
        found: list[Batch] = []

        def reached() -> bool:
            found[:] = [self.client.batches.retrieve(batch_id)]
            return done(found[0])

        self.until(reached, seconds)
        return found[0]

    def finished(self, batch_id: str, seconds: float = 240) -> Batch:
        return self.follow(batch_id, lambda batch: batch.status in FINAL, seconds)

    def content(self, file_id: str | None) -> bytes:
        return b"" if file_id is None else self.client.files.content(file_id).read()


def until(holds: Callable[[], bool], seconds: float) -> None:
    """Of a server that is another's process, or is gone; `Server.until` also notices its end, and shows its log."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(POLL_SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def title_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
