"""`batchyard serve` as two processes, over a Ray that only starts processes.

Nothing that it starts stays behind, and a cluster that is lost starts again, within brakes.
"""

import asyncio
import json
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

from app.errors import SettingsError, StoreUnavailable
from app.settings import Settings
from app.store import StartAnswer, Store
from deployments.local.folder_lock import LOCK_FILE, lock_folder, server_pid
from deployments.restarts import ClusterBrake, ledger_asker
from tests.commands import ROOT

ORPHANS = 5

PATIENCE_SECONDS = 60
"""Where nothing is promised: the machines that run the tests are busy."""

STAND_INS = {
    # The two that a cluster stands on, each in a session of its own, and some whose parent ends before them.
    "ray/__init__.py": f"""
import os, shutil, subprocess

def init(_temp_dir, **options):
    for name in ("gcs_server", "raylet"):
        os.symlink(shutil.which("sleep"), f"{{_temp_dir}}/{{name}}")
        subprocess.Popen([f"{{_temp_dir}}/{{name}}", "60"], start_new_session=True)
    subprocess.run(["sh", "-c", "sleep 0.2 & " * {ORPHANS}], check=True)

def shutdown():
    print("Ray was shut down.", flush=True)
""",
    "ray/exceptions.py": "class RayError(Exception): ...",
    "ray/serve/__init__.py": "def start(**options): ...\ndef run(application, **options): ...",
    "ray/serve/exceptions.py": "class RayServeException(Exception): ...",
    "stand_in.py": """
def build(args): ...

def refuse_settings(args):
    from app.errors import SettingsError
    raise SettingsError("two nodes and one folder")

def refuse(args):
    raise ValueError("these settings cannot be")
""",
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
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def until_logged(self, text: str, times: int = 1) -> None:
        self.until(lambda: self.log.read_text().count(text) == times)

    def until_ready(self, times: int = 1) -> list[psutil.Process]:
        """All that it started and that runs, when it is ready for the nth time."""
        self.until_logged("Ready.", times)
        family: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        assert "raylet" in [each.name() for each in family]
        return family

    def kill(self, name: str) -> None:
        next(each for each in psutil.Process(self.process.pid).children(recursive=True) if each.name() == name).kill()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)

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
    """Starts `batchyard serve`; arguments take the place of how, keywords are added to the environment."""
    for name, text in STAND_INS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "models/tiny").mkdir(parents=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    started: list[Serve] = []

    def start(*how: str, build: str = "build", **more: str) -> Serve:
        config = tmp_path / f"{build}.yaml"
        config.write_text((ROOT / "tests/tiny.yaml").read_text().replace("app.main:build", f"stand_in:{build}"))
        environment = {
            "BATCHYARD_CONFIG": str(config),
            "BATCHYARD_DATA": str(tmp_path / "data"),
            "BATCHYARD_PORT": "0",
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "TMPDIR": str(scratch),
            **more,
        }
        log = tmp_path / f"log-{len(started)}"
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
    assert serve.stop() == 0
    serve.assert_left_nothing(family)
    assert "Ray was shut down." in serve.log.read_text()


def test_whatever_is_printed_is_one_json_object_a_line(start_serve: StartServe) -> None:
    serve = start_serve()
    serve.until_ready()
    serve.stop()
    events = [json.loads(line)["event"] for line in serve.log.read_text().splitlines()]
    assert "Ready." in events and "Ray was shut down." in events and "Stopping." in events


def test_settings_that_the_application_refuses_end_the_command_in_words(start_serve: StartServe) -> None:
    serve = start_serve(build="refuse_settings")
    assert serve.process.wait(PATIENCE_SECONDS) == 1
    (told,) = [entry for line in serve.log.read_text().splitlines() if (entry := json.loads(line))["level"] == "error"]
    assert told["reason"] == "two nodes and one folder"


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


@pytest.mark.parametrize("name", ["gcs_server", "raylet", "the child"])
def test_a_cluster_that_is_lost_starts_again_and_leaves_nothing(start_serve: StartServe, name: str) -> None:
    serve = start_serve()
    lost = serve.until_ready()
    if name == "the child":
        psutil.Process(serve.process.pid).children()[0].kill()
    else:
        serve.kill(name)
        serve.until_logged(f'"ended": ["{name}"]')
    family = serve.until_ready(times=2)
    assert not set(lost) & set(family)
    assert not [each for each in lost if each.is_running()]
    assert len(list(serve.scratch.iterdir())) == 1
    assert serve.stop() == 0
    serve.assert_left_nothing(family)


def test_a_cluster_that_never_was_up_ends_the_command_with_its_reason(start_serve: StartServe) -> None:
    serve = start_serve(build="refuse")
    assert serve.process.wait(PATIENCE_SECONDS) == 1
    assert serve.log.read_text().count("ValueError: these settings cannot be") == 1
    assert "did not start" in serve.log.read_text()
    assert not list(serve.scratch.iterdir())


def test_a_spent_budget_holds_the_cluster_until_a_person_lifts_it(start_serve: StartServe, tmp_path: Path) -> None:
    serve = start_serve(BATCHYARD_RESTARTS_PER_HOUR="1")
    serve.until_ready()
    serve.kill("raylet")
    serve.until_ready(times=2)
    serve.kill("raylet")
    serve.until_logged("batchyard restarts reset cluster")
    store = Store.open(f"sqlite:///{tmp_path}/data/batchyard.db", lambda: 0)
    asyncio.run(store.reset_restarts("cluster"))
    store.close()
    serve.until_ready(times=3)
    serve.kill("raylet")
    serve.until_logged("batchyard restarts reset cluster", times=2)
    assert serve.stop() == 0
    assert serve.log.read_text().count("Ready.") == 3
    assert not list(serve.scratch.iterdir())


def test_a_broken_database_does_not_keep_the_cluster_down(start_serve: StartServe, tmp_path: Path) -> None:
    serve = start_serve()
    serve.until_ready()
    (tmp_path / "data/batchyard.db").write_text("no database" * 100)
    serve.kill("raylet")
    serve.until_logged("the ledger cannot be asked")
    serve.until_ready(times=2)
    assert serve.stop() == 0


class Ledger:
    """Answers as told, and notes who asked."""

    def __init__(self, *answers: StartAnswer | Exception) -> None:
        self.answers = list(answers)
        self.starters: list[str] = []

    def ask(self, starter: str) -> StartAnswer:
        self.starters.append(starter)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_the_brake_asks_at_least_each_second_for_one_and_the_same_start() -> None:
    ledger = Ledger(StartAnswer(60.0, 2e9), StartAnswer(0.25), StartAnswer(0), StartAnswer(0))
    rests: list[float] = []
    brake = ClusterBrake(ledger.ask, lambda seconds: rests.append(seconds) is not None)
    assert brake.release()
    assert rests == [1.0, 0.25]
    assert len(set(ledger.starters)) == 1
    assert brake.release()
    assert len(set(ledger.starters)) == 2, "another start"


def test_a_signal_ends_the_wait_of_the_brake() -> None:
    assert not ClusterBrake(Ledger(StartAnswer(5.0)).ask, lambda seconds: True).release()
    assert not ClusterBrake(Ledger(StoreUnavailable("away")).ask, lambda seconds: True).release()


def test_without_the_ledger_the_brake_waits_longer_each_time_until_the_ledger_is_back() -> None:
    away = [StoreUnavailable("away")] * 9
    rests: list[float] = []
    brake = ClusterBrake(Ledger(*away, StartAnswer(0), away[0]).ask, lambda seconds: rests.append(seconds) is not None)
    assert all(brake.release() for _ in range(11))
    assert rests == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 0.0]


def test_a_spent_budget_stays_spent_while_the_ledger_is_away() -> None:
    away = StoreUnavailable("away")
    rests: list[float] = []
    ledger = Ledger(StartAnswer(60.0, 2e9), away, away, StartAnswer(0.5, 2e9), StartAnswer(0))
    assert ClusterBrake(ledger.ask, lambda seconds: rests.append(seconds) is not None).release()
    assert rests == [1.0, 0.0, 1.0, 0.5]


def test_the_restarts_of_an_earlier_process_count(settings: Settings) -> None:
    few = settings.model_copy(update={"restarts_per_hour": 2})
    assert ledger_asker(few)("one").wait_seconds == 0
    later = ledger_asker(few)
    assert later("one").wait_seconds == 0, "asked again: the same start"
    assert 0 < later("two").wait_seconds <= 1


def test_a_data_folder_is_served_once(start_serve: StartServe, tmp_path: Path) -> None:
    first = start_serve()
    first.until_ready()
    assert server_pid(tmp_path / "data") == first.process.pid
    second = start_serve()
    assert second.process.wait(PATIENCE_SECONDS) == 1
    assert f"as process {first.process.pid}" in second.log.read_text()
    assert "BATCHYARD_DATA" in second.log.read_text() and "Traceback" not in second.log.read_text()
    assert (tmp_path / "data" / LOCK_FILE).read_text() == "http://127.0.0.1:0", "the second wrote nothing into it"
    first.process.kill()
    first.process.wait()
    assert server_pid(tmp_path / "data") is None, "a lock ends with its holder"


def test_a_data_folder_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="BATCHYARD_DATA"):
        lock_folder(tmp_path / "file")


def test_orphans_do_not_stay_zombies(start_serve: StartServe) -> None:
    serve = start_serve()
    serve.until_ready()
    parent = psutil.Process(serve.process.pid)
    serve.until(lambda: len(parent.children()) == 1)


def test_a_signal_before_the_parent_waits_leaves_no_child(start_serve: StartServe) -> None:
    serve = start_serve("-c", STOPPED_BEFORE_IT_WAITS, "serve")
    code = serve.process.wait(PATIENCE_SECONDS)
    child = int(serve.log.read_text().split()[1])
    if left := psutil.pid_exists(child):
        os.kill(child, signal.SIGKILL)
    assert (code, left) == (0, False)
    assert not list(serve.scratch.iterdir())
