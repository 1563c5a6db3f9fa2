"""`batchyard serve` as two processes, over a Ray that only starts processes: nothing that it starts stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.commands import ROOT

ORPHANS = 5

STAND_INS = {
    # One process in a session of its own, and some whose parent ends before them.
    "ray/__init__.py": f"""
import subprocess

def init(**options):
    subprocess.Popen(["sleep", "60"], start_new_session=True)
    subprocess.run(["sh", "-c", "sleep 0.2 & " * {ORPHANS}], check=True)

def shutdown():
    print("Ray was shut down.", flush=True)
""",
    "ray/exceptions.py": "class RayError(Exception): ...",
    "ray/serve/__init__.py": "def start(**options): ...\ndef run(application, **options): ...",
    "ray/serve/exceptions.py": "class RayServeException(Exception): ...",
    "stand_in.py": "def build(args): ...",
}

STOPPED_BEFORE_IT_WAITS = """
import os, signal, subprocess
from app.cli import main

start = subprocess.Popen.__init__

def start_and_be_stopped(self, *args, **options):
    start(self, *args, **options)
    print("child", self.pid, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen.__init__ = start_and_be_stopped
main()
"""


@dataclass
class Serve:
    process: subprocess.Popen[bytes]
    log: Path
    scratch: Path

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def until_ready(self) -> list[psutil.Process]:
        """All that it started."""
        self.until(lambda: "Ready." in self.log.read_text())
        family: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        assert "sleep" in [each.name() for each in family]
        return family

    def assert_left_nothing(self, family: list[psutil.Process]) -> None:
        """Neither of these processes nor of the scratch folder."""
        _, left = psutil.wait_procs(family, timeout=10)
        names = [each.name() for each in left]
        for each in left:
            each.kill()
        assert not names
        assert not list(self.scratch.iterdir())


StartServe = Callable[..., Serve]


@pytest.fixture
def start_serve(tmp_path: Path) -> Iterator[StartServe]:
    """Starts `batchyard serve`; arguments take the place of how."""
    config = tmp_path / "stand-in.yaml"
    config.write_text((ROOT / "tests/tiny.yaml").read_text().replace("app.main:build", "stand_in:build"))
    for name, text in STAND_INS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    started: list[Serve] = []

    def start(*how: str) -> Serve:
        environment = {
            "BATCHYARD_CONFIG": str(config),
            "BATCHYARD_DATA": str(tmp_path / "data"),
            "BATCHYARD_PORT": "0",
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "TMPDIR": str(scratch),
        }
        log = tmp_path / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *(how or ("-m", "app.cli", "serve"))],
                cwd=tmp_path,
                env={**os.environ, **environment},
                stdout=out,
                stderr=out,
            )
        started.append(Serve(process, log, scratch))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def test_sigterm_winds_the_cluster_up_and_leaves_nothing(start_serve: StartServe) -> None:
    serve = start_serve()
    family = serve.until_ready()
    serve.process.terminate()
    assert serve.process.wait(20) == 0
    serve.assert_left_nothing(family)
    assert "Ray was shut down." in serve.log.read_text()


def test_kill_9_of_the_parent_alone_leaves_nothing(start_serve: StartServe) -> None:
    serve = start_serve()
    family = serve.until_ready()
    serve.process.kill()
    serve.process.wait()
    serve.assert_left_nothing(family)


def test_kill_9_of_the_parent_while_the_child_starts_leaves_nothing(start_serve: StartServe) -> None:
    serve = start_serve()
    parent = psutil.Process(serve.process.pid)
    serve.until(lambda: bool(parent.children()))
    family = parent.children()
    serve.process.kill()
    serve.process.wait()
    serve.assert_left_nothing(family)


def test_kill_9_of_the_child_leaves_nothing_and_is_an_error(start_serve: StartServe) -> None:
    serve = start_serve()
    family = serve.until_ready()
    psutil.Process(serve.process.pid).children()[0].kill()
    assert serve.process.wait(20) != 0
    serve.assert_left_nothing(family)


def test_orphans_do_not_stay_zombies(start_serve: StartServe) -> None:
    serve = start_serve()
    serve.until_ready()
    parent = psutil.Process(serve.process.pid)
    serve.until(lambda: len(parent.children()) == 1)


def test_a_signal_before_the_parent_waits_leaves_no_child(start_serve: StartServe) -> None:
    serve = start_serve("-c", STOPPED_BEFORE_IT_WAITS, "serve")
    code = serve.process.wait(20)
    child = int(serve.log.read_text().split()[1])
    if left := psutil.pid_exists(child):
        os.kill(child, signal.SIGKILL)
    assert (code, left) == (0, False)
    assert not list(serve.scratch.iterdir())
