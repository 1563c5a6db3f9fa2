"""The commands of a client, against a server that answers as it is told."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from openai.types import Batch

from app.cli import connection
from app.cli.follow import follow
from app.cli.words import Pace
from app.errors import SettingsError
from tests.acceptance.server import free_port
from tests.commands import ROOT

REQUEST = '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}\n'


def a_batch(status: str, completed: int = 0, failed: int = 0, **more: Any) -> dict[str, Any]:
    counts = {"total": completed + failed, "completed": completed, "failed": failed}
    ended = {f"{status}_at": 12} if status in ("completed", "failed") else {}
    required = {"id": "batch_1", "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return {
        **required,
        "input_file_id": "file-in",
        "created_at": 10,
        "status": status,
        "request_counts": counts,
        **ended,
        **more,
    }


class Told(BaseHTTPRequestHandler):
    """`states`: what the batch is at each look, the last one for ever; None: the server hangs up; a number: it refuses
    with that status; "hangs": it does not answer before `let_go`."""

    states: list[Any]
    files: dict[str, bytes]
    authorized: list[str | None]
    looked: threading.Event
    let_go: threading.Event

    def do_GET(self) -> None:
        if self.path.endswith("/content"):
            self.answer(self.files[self.path.split("/")[-2]])
            return
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        self.looked.set()
        if state == "no application":  # what Serve says until there is one
            self.answer(b'{"error": {"message": "none yet", "type": "x", "param": null, "code": null}}', 404)
            return
        if isinstance(state, int):
            self.answer(b'{"error": {"message": "refused", "type": "x", "param": "id", "code": null}}', state)
            return
        if state == "hangs":
            self.let_go.wait(60)
        if state is None or state == "hangs":
            self.close_connection = True
            return
        body = {"object": "list", "data": [state], "has_more": False} if self.path.endswith("limit=20") else state
        self.answer(json.dumps(body).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.authorized.append(self.headers["authorization"])
        if self.path == "/admin/batches/batch_1/resume":
            self.answer(b'{"error": {"message": "Batch batch_1 is completed. There is nothing to do."}}', 409)
            return
        file = {"id": "file-in", "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
        self.answer(json.dumps(a_batch("validating") if self.path == "/v1/batches" else file).encode())

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-should-retry", "false")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def told() -> Iterator[type[Told]]:
    class Mine(Told):
        looked, let_go = threading.Event(), threading.Event()

    Mine.states = [a_batch("completed", 1, output_file_id="out")]
    Mine.files = {"out": b'{"answer": 1}\n', "err": b""}
    Mine.authorized = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Mine.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        yield Mine
        server.shutdown()
        thread.join()


def environment(**more: str) -> dict[str, str]:
    ours = ("BATCHYARD_", "OPENAI_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PYTHONPATH": str(ROOT),
        **more,
    }


def batchyard(told: type[Told] | None, *words: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    server = {"BATCHYARD_SERVER": told.url} if told else {}  # type: ignore[attr-defined]
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=cwd,
        env=environment(**server, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(REQUEST)
    return path


@pytest.mark.parametrize("output", ["in.jsonl", "./in.jsonl", "nowhere/out.jsonl", "folder", ".", "/"])
def test_an_output_that_cannot_be_is_refused_before_anything_is_sent(
    told: type[Told], requests: Path, tmp_path: Path, output: str
) -> None:
    (tmp_path / "folder").mkdir()
    ended = batchyard(told, "run", "in.jsonl", "-o", output, cwd=tmp_path)
    assert ended.returncode == 2 and "-o" in ended.stderr
    assert told.authorized == [] and requests.read_text() == REQUEST


def test_the_error_file_does_not_replace_the_input_either(told: type[Told], tmp_path: Path) -> None:
    (tmp_path / "a-errors.jsonl").write_text(REQUEST)
    assert batchyard(told, "run", "a-errors.jsonl", "-o", "a.jsonl", cwd=tmp_path).returncode == 2
    assert told.authorized == []


def test_a_clean_result_stands_alone_and_a_run_says_the_id_first(
    told: type[Told], requests: Path, tmp_path: Path
) -> None:
    (tmp_path / "out-errors.jsonl").write_text("of an earlier run")
    ended = batchyard(told, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("batch_1: ")
    assert (tmp_path / "out.jsonl").read_bytes() == told.files["out"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("completed, failed, code", [(5, 0, 0), (0, 5, 1), (3, 2, 3)])
def test_the_exit_code_and_the_words_say_how_many_lines_failed_and_why(
    told: type[Told], requests: Path, tmp_path: Path, completed: int, failed: int, code: int
) -> None:
    line = {
        "custom_id": "r7",
        "error": None,
        "response": {"status_code": 400, "body": {"error": {"message": "long", "code": 400}}},
    }
    told.files["err"] = (json.dumps(line) + "\n").encode() * failed
    files = {"output_file_id": "out" if completed else None, "error_file_id": "err" if failed else None}
    told.states = [a_batch("completed", completed, failed, **files)]
    ended = batchyard(told, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert ended.returncode == code
    assert f"{completed} completed, {failed} failed" in ended.stdout
    assert (f"{failed} status 400 (first: r7): long" in ended.stderr) == bool(failed)


def test_equal_faults_are_one_line_and_none_has_line_none(told: type[Told], requests: Path, tmp_path: Path) -> None:
    faults = [{"code": "model_not_found", "message": "no model 'x'", "line": n, "param": None} for n in range(1, 101)]
    faults.append({"code": "more_errors", "message": "200 more", "line": None, "param": None})
    told.states = [a_batch("failed", errors={"object": "list", "data": faults})]
    ended = batchyard(told, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert ended.returncode == 1
    assert "100 model_not_found (first: line 1): no model 'x'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 2 and "None" not in ended.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_what_the_server_sums_up_is_printed(told: type[Told], requests: Path, tmp_path: Path) -> None:
    summary = [{"code": "context_length_exceeded", "count": 1200, "line": 17, "message": "too long"}]
    warnings = [{"code": "unknown_member", "param": "body.foo", "count": 3, "line": 2}]
    told.states = [a_batch("completed", 1, 1200, error_summary=summary, warnings=warnings, error_file_id="err")]
    ended = batchyard(told, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert "1,200 context_length_exceeded (first: line 17): too long" in ended.stderr
    assert "Warning: 3 unknown_member body.foo (first: line 2)" in ended.stderr


def test_a_server_that_is_away_for_a_while_is_waited_for(told: type[Told], requests: Path, tmp_path: Path) -> None:
    told.states = [None] * 4 + ["no application"] * 2 + [a_batch("completed", 1, output_file_id="out")]
    ended = batchyard(told, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "batch_1 is safe" in ended.stderr and "batches download batch_1 -o out.jsonl" in ended.stderr
    assert "answers again" in ended.stderr


def test_a_server_that_hangs_is_noticed_and_waited_for(
    told: type[Told], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(connection, "RETRY_SECONDS", 0.0)
    told.states = ["hangs", a_batch("completed", 1)]
    url = f"{told.url}/v1"  # type: ignore[attr-defined]
    waiting = Batch.model_validate(a_batch("validating"))
    try:
        assert follow(connection.Connection(url, ""), waiting, "later").status == "completed"
    finally:
        told.let_go.set()
    assert "is away (timed out)" in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 404])
def test_a_server_that_refuses_is_no_server_that_is_away(
    told: type[Told], requests: Path, tmp_path: Path, status: int
) -> None:
    told.states = [status]
    ended = batchyard(told, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert "batches download batch_1 -o out.jsonl" in ended.stderr


def test_a_device_or_a_pipe_gets_the_answers_and_no_error_file_beside_it(told: type[Told], tmp_path: Path) -> None:
    told.files["err"] = b'{"error": "odd"}\n'
    told.states = [a_batch("completed", 1, 1, output_file_id="out", error_file_id="err")]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "app.cli", "batches", "download", "batch_1", "-o", str(pipe)]
    url = {"BATCHYARD_SERVER": told.url}  # type: ignore[attr-defined]
    with subprocess.Popen(command, env=environment(**url), stderr=subprocess.PIPE, text=True) as download:
        assert pipe.read_bytes() == told.files["out"]
        _, said = download.communicate(timeout=60)
    assert download.returncode == 3 and "batches download batch_1 -o FILE" in said
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]
    assert batchyard(told, "batches", "download", "batch_1", "-o", os.devnull).returncode == 3
    assert Path(os.devnull).is_char_device() and not Path("/dev/null-errors").exists()


@pytest.mark.parametrize(
    "line, words",
    [
        ({"error": "broken"}, "unknown error (r): broken"),
        ({"response": {"status_code": 500, "body": "no JSON"}}, "status 500 (r)"),
        ({"response": {"status_code": 502, "body": {"error": "bad gateway"}}}, "status 502 (r): bad gateway"),
        ({"response": "odd"}, "unknown error (r)"),
    ],
)
def test_error_lines_of_other_servers_are_read_as_far_as_they_say_anything(
    told: type[Told], tmp_path: Path, line: dict[str, Any], words: str
) -> None:
    told.files["err"] = json.dumps({"custom_id": "r", **line}).encode() + b"\n"
    told.states = [a_batch("completed", 0, 1, error_file_id="err")]
    ended = batchyard(told, "batches", "download", "batch_1", "-o", "out.jsonl", cwd=tmp_path)
    assert ended.returncode == 1 and f"  {words}\n" in ended.stderr


def test_the_pace_is_of_lines_that_are_done_and_counts_no_time_in_the_queue() -> None:
    def at(seconds: float, done: int, **progress: int) -> tuple[float, float]:
        more = {"progress": {"in_engine": 0, **progress}, "usage": tokens(10 * done)}
        return pace.at(Batch.model_validate(a_batch("in_progress", done, **more)), seconds)

    pace = Pace()
    assert at(0, 0, queued_before=100) == (0, 0)
    assert at(100, 0, in_engine=8) == (0, 0)
    assert at(110, 20, in_engine=8) == (2, 20)


def tokens(output: int) -> dict[str, Any]:
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {"input_tokens": 1, "output_tokens": output, "total_tokens": output + 1, **details}


@pytest.mark.parametrize(
    "config, environ, url",
    [
        ("http_options: {port: 8123}", {}, "http://127.0.0.1:8123"),
        ("http_options: {port: 8123}", {"BATCHYARD_PORT": "9000"}, "http://127.0.0.1:9000"),
        ("http_options: {host: 0.0.0.0}", {}, "http://127.0.0.1:8000"),
        ("services: {of: another program}", {}, "http://127.0.0.1:8000"),
        (None, {"BATCHYARD_HOST": "::"}, "http://[::1]:8000"),
    ],
)
def test_without_a_server_named_it_is_the_one_that_up_would_start_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str | None, environ: dict[str, str], url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if config is not None:
        served = "applications: [{import_path: 'app.main:build'}]\n" if "http" in config else ""
        Path("local.yaml").write_text(f"{served}{config}\n")
    assert connection.local_url(environ) == url
    with pytest.raises(SettingsError, match=r"gone\.yaml cannot be read"):
        connection.local_url({**environ, "BATCHYARD_CONFIG": "gone.yaml"})


def test_ctrl_c_says_that_the_batch_goes_on_and_how_to_fetch_it(
    told: type[Told], requests: Path, tmp_path: Path
) -> None:
    told.states = [a_batch("in_progress", 1, 1)]
    command = [sys.executable, "-m", "app.cli", "run", "in.jsonl", "-o", "out.jsonl"]
    url = {"BATCHYARD_SERVER": told.url}  # type: ignore[attr-defined]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(**url), stderr=subprocess.PIPE, text=True) as run:
        assert told.looked.wait(60)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "batch_1 goes on" in said and "batchyard batches download batch_1 -o out.jsonl" in said
    assert "Traceback" not in said


def test_without_a_key_none_is_sent_and_a_given_one_is(told: type[Told], requests: Path, tmp_path: Path) -> None:
    batchyard(told, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    batchyard(told, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path, OPENAI_API_KEY="k")
    assert told.authorized == [None, None, "Bearer k", "Bearer k"]


def test_batchyard_server_is_asked_before_openai_base_url_which_is_said_where_it_decides(told: type[Told]) -> None:
    elsewhere = f"http://127.0.0.1:{free_port()}/v1"
    ours = batchyard(told, "batches", "list", OPENAI_BASE_URL=elsewhere)
    assert ours.returncode == 0 and ours.stdout.startswith("batch_1  completed") and ours.stderr == ""
    theirs = batchyard(None, "batches", "list", OPENAI_BASE_URL=elsewhere)
    assert theirs.returncode == 1 and "from OPENAI_BASE_URL" in theirs.stderr
    assert f"{elsewhere} does not answer" in theirs.stderr and "batchyard up" in theirs.stderr


def test_no_proxy_is_asked_for_a_server_on_this_machine(told: type[Told]) -> None:
    assert batchyard(told, "batches", "list", HTTP_PROXY=f"http://127.0.0.1:{free_port()}").returncode == 0


def test_a_batch_that_cannot_be_resumed_says_that_there_is_nothing_to_do(told: type[Told]) -> None:
    ended = batchyard(told, "batches", "resume", "batch_1")
    assert (ended.returncode, ended.stdout) == (0, "Batch batch_1 is completed. There is nothing to do.\n")


def test_a_finished_batch_is_fetched_by_its_id(told: type[Told], tmp_path: Path) -> None:
    assert batchyard(told, "batches", "download", "batch_1", "-o", "out.jsonl", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == told.files["out"]


def test_a_batch_that_waits_says_behind_what_and_no_line_wraps(
    told: type[Told], requests: Path, tmp_path: Path
) -> None:
    waits = a_batch("in_progress", progress={"in_engine": 0, "queued_before": 4000})
    told.states = [waits, a_batch("in_progress", 1, progress={"in_engine": 128, "queued_before": 0}), *told.states]
    ended = batchyard(told, "run", "in.jsonl", "-o", f"{'o' * 90}.jsonl", cwd=tmp_path)
    assert "batch_1: 0/0 waits behind 4,000 lines\n" in ended.stdout
    assert re.search(f"^{'o' * 90}.jsonl: 14 bytes$", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b"id,question\n1,why\n", "CSV"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b'[{"custom_id": "a"}]', "JSON array"),
        (b"{no json\n", "line 1 is not JSON"),
        (b'{"custom_id": "a"}\n', "line 1 is no request"),
    ],
)
def test_files_that_are_no_batch_files_are_told_apart(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    ended = batchyard(None, "run", "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert ended.returncode == 2 and words in ended.stderr


@pytest.mark.parametrize(
    "words", ["run", "serve", "up", "down", "status", "demo", "restarts reset"]
    + [f"batches {name}" for name in ("list", "show", "wait", "download", "cancel", "resume")],
)  # fmt: skip
def test_every_command_has_help_with_an_example(words: str) -> None:
    from typer.testing import CliRunner

    from app.cli import cli

    shown = CliRunner().invoke(cli, [*words.split(), "-h"])
    assert shown.exit_code == 0 and f"Example: batchyard {words}" in shown.output.replace("BATCHYARD_PORT=8001 ", "")
