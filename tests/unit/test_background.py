"""`batchyard up`, `down` and `status` over a server that only takes the lock and answers."""

import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import typer

from app.cli import server as commands
from app.errors import SettingsError
from deployments.local import background, log_file
from deployments.local.background import Background, BackgroundError
from deployments.local.folder_lock import server_pid
from deployments.local.probe import http_status
from tests.acceptance.server import free_port
from tests.commands import ROOT

# What `up` starts is left running on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

SERVER = f"""#!{sys.executable}
import fcntl, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ready = asked.count("/health") > 2
        self.send_response(404 if not asked else 200 if self.path == "/livez" or ready else 503)
        self.end_headers()
        asked.append(self.path)
        if self.path == "/health":
            self.wfile.write(os.environ.get("HEALTH", "{{}}").encode())

asked = []  # the first is told 404

if os.environ.get("REFUSE"):
    sys.exit("these settings cannot be")
if os.environ.get("DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = open(os.environ["BATCHYARD_DATA"] + "/serve.lock", "w")
fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(f"http://127.0.0.1:{{os.environ['BATCHYARD_PORT']}}", end="", file=lock, flush=True)
HTTPServer(("127.0.0.1", int(os.environ["BATCHYARD_PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Background]:
    """Not yet up."""
    python = tmp_path / "python"
    python.write_text(SERVER)
    python.chmod(stat.S_IRWXU)
    monkeypatch.setattr(background.sys, "executable", str(python))
    monkeypatch.setenv("BATCHYARD_CONFIG", str(ROOT / "tests/tiny.yaml"))
    monkeypatch.setenv("BATCHYARD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BATCHYARD_PORT", str(free_port()))
    server = Background.load()
    yield server
    if pid := server_pid(server.data):
        os.kill(pid, signal.SIGKILL)


def test_up_starts_a_server_that_outlives_the_terminal_and_down_stops_it(server: Background) -> None:
    assert server.pid is None
    server.up()
    pid = server.pid
    assert pid is not None
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert http_status(f"{server.url}/livez") == 200 and http_status(f"{server.url}/readyz") == 503
    assert [f'"GET /livez HTTP/1.1" {status}' in server.log.read_text() for status in (404, 200)] == [True, True]
    assert server.down() == pid
    assert server.pid is None and http_status(f"{server.config.url}/livez") is None
    assert server.down() is None


def test_a_second_up_is_refused_and_names_the_first(server: Background) -> None:
    server.up()
    with pytest.raises(SettingsError, match=f"as process {server.pid}.*batchyard down"):
        server.up()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(
    server: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSE", "1")
    with pytest.raises(BackgroundError, match=r"these settings cannot be\nThe server did not start: .*serve\.log"):
        server.up()


def test_a_large_log_makes_room_at_the_next_start(server: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "LOG_BYTES", 10)
    server.log.parent.mkdir(parents=True)
    server.log.write_text("earlier\n")
    server.up()
    assert server.log.read_text().startswith("earlier\n"), "a small one is continued"
    server.down()
    server.up()
    assert "earlier" not in server.log.read_text()
    assert server.log.with_name("serve.log.1").read_text().startswith("earlier\n")


def test_down_says_so_if_the_server_stays(server: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAF", "1")
    monkeypatch.setattr(background, "STOP_SECONDS", 0.1)
    server.up()
    with pytest.raises(BackgroundError, match=f"Process {server.pid} is still there"):
        server.down()


def test_up_can_wait_until_a_batch_would_be_accepted_and_says_once_what_for(
    server: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"id": "tiny", "state": "starting", "healthy": 0, "target": 1, "reason": None, "starting": "it loads"}
    monkeypatch.setenv("HEALTH", json.dumps({"reason": None, "models": [model]}))
    told: list[str] = []
    server.up(told.append)
    assert told == [f"Starting on {server.config.url}. Log: {server.log}"]
    server.await_ready(told.append)
    assert told[1:] == ["tiny: starting, 0 of 1 replicas healthy: it loads"]
    assert http_status(f"{server.url}/readyz") == 200


def test_a_refused_address_is_one_sentence_without_the_log_of_an_earlier_start(
    server: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.log.parent.mkdir(parents=True)
    server.log.write_text("of yesterday\n" * 30)
    monkeypatch.setenv("BATCHYARD_HOST", "0.0.0.0")
    with pytest.raises(SettingsError, match=r"^BATCHYARD_HOST is 0\.0\.0\.0, .* or serve on 127\.0\.0\.1$"):
        Background.load().up()
    monkeypatch.delenv("BATCHYARD_HOST")
    monkeypatch.setenv("REFUSE", "1")
    with pytest.raises(BackgroundError) as refused:
        server.up()
    assert "yesterday" not in str(refused.value)


def test_a_server_that_was_killed_does_not_count_as_running(server: Background) -> None:
    server.up()
    assert server.pid is not None
    killed = psutil.Process(server.pid)
    killed.kill()
    killed.wait(10)
    assert server.pid is None
    server.up()


def test_the_server_of_another_container_is_not_taken_for_a_process_of_this_one(
    server: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "server_pid", lambda data: 0)  # what the kernel says of one that we cannot see
    with pytest.raises(BackgroundError, match="another container"):
        server.down()


def test_without_a_server_down_is_content_and_status_is_not(
    server: Background, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.down()
    with pytest.raises(typer.Exit) as ended:
        commands.status()
    assert ended.value.exit_code == 1
    assert "".join(capsys.readouterr()).count("Nothing serves") == 2


def test_the_commands_say_where_the_server_and_its_log_are(
    server: Background, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.up()
    pid = server.pid
    out = capsys.readouterr().out
    assert f"{server.config.url} as process {pid}" in out
    assert str(server.log) in out
    monkeypatch.setenv("BATCHYARD_PORT", "1")  # not the shell in which it was started
    commands.status()
    status = capsys.readouterr().out
    assert f"{server.config.url} as process {pid}: not ready" in status
    commands.down()
    assert f"process {pid} is gone" in capsys.readouterr().out
