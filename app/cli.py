"""The command `batchyard`."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.error import URLError
from urllib.request import urlopen

import typer
from openai import APIError, OpenAI
from openai.types import Batch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from app.errors import BatchyardError

POLL_SECONDS = 0.5
DEMO_FILE = Path("examples/demo.jsonl")
DEMO_OUTPUT = Path("demo-output.jsonl")
DEMO_START_SECONDS = 300
FINAL = ("completed", "failed", "expired", "cancelled")

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, help="OpenAI-compatible batch inference on your own GPUs."
)
restarts = typer.Typer(no_args_is_help=True, help="The restart budget of a model.")
batches = typer.Typer(no_args_is_help=True, help="Batches that wait for a person.")
cli.add_typer(restarts, name="restarts")
cli.add_typer(batches, name="batches")
console = Console()

BaseUrl = Annotated[str, typer.Option(envvar="OPENAI_BASE_URL", help="The server's address, with /v1.")]
ApiKey = Annotated[str, typer.Option(envvar="OPENAI_API_KEY", help="Its API key, if it wants one.", show_default=False)]


def _default_url() -> str:
    return f"http://{os.environ.get('BATCHYARD_HOST', '127.0.0.1')}:{os.environ.get('BATCHYARD_PORT', '8000')}/v1"


@cli.command()
def serve() -> None:
    """Serve BATCHYARD_CONFIG (local.yaml) on this machine until Ctrl-C."""
    from deployments.local.server import serve as serve_locally

    raise typer.Exit(serve_locally())


@cli.command()
def up() -> None:
    """Serve in the background, with the log in BATCHYARD_DATA/logs."""
    from deployments.local.background import Background

    server = Background.load()
    server.up()
    _say(f"Batchyard serves on {server.url} as process {server.pid}. Models load: see /readyz there.")
    _say(f"Log: {server.log}")


@cli.command()
def down() -> None:
    """Stop the server of BATCHYARD_DATA, however it was started."""
    from deployments.local.background import Background

    server = Background.load()
    pid = server.down()
    _say(f"Nothing serves {server.data}." if pid is None else f"Stopped: process {pid} is gone.")


@cli.command()
def status() -> None:
    """Say whether a server of BATCHYARD_DATA runs (else exit 1), and whether it is ready."""
    from deployments.local.background import Background, http_status

    server = Background.load()
    if (pid := server.pid) is None:
        _stop(f"Nothing serves {server.data}.")
    ready = "ready" if http_status(f"{server.url}/readyz") == 200 else f"not ready: {server.url}/health says why"
    _say(f"Batchyard serves on {server.url} as process {pid}: {ready}.")


@restarts.command("reset")
def reset_restarts(model: str, base_url: BaseUrl = "", api_key: ApiKey = "none") -> None:
    """Let MODEL start again at once although its restarts of this hour are used up; `cluster`: the local cluster."""
    if model == "cluster":
        _reset_cluster_restarts()
    else:
        _post(f"/admin/models/{model}/restarts/reset", base_url, api_key)
    console.print(f"{model} may start again.")


def _reset_cluster_restarts() -> None:
    """In the ledger itself: nobody serves HTTP while the cluster waits."""
    from app.settings import Settings
    from app.store import Store
    from deployments.local.folder_lock import server_pid
    from deployments.local.local_config import LocalConfig

    settings = Settings.load(LocalConfig.load().args)
    if server_pid(settings.data) is None:
        _stop(f"Nothing serves {settings.data}. Set BATCHYARD_DATA to the data folder of the server that waits.")
    store = Store.open(settings.database_url, lambda: int(time.time()))
    try:
        asyncio.run(store.reset_restarts("cluster"))
    finally:
        store.close()


@batches.command("resume")
def resume_batch(batch_id: str, base_url: BaseUrl = "", api_key: ApiKey = "none") -> None:
    """Let a paused batch go on: one whose lines killed too many engines."""
    _post(f"/admin/batches/{batch_id}/resume", base_url, api_key)
    console.print(f"{batch_id} goes on.")


def _post(path: str, base_url: str, api_key: str) -> None:
    root = (base_url or _default_url()).removesuffix("/v1")
    try:
        OpenAI(base_url=root, api_key=api_key).post(path, cast_to=object)
    except APIError as error:
        _stop(f"The server did not do it: {error}")


@cli.command()
def run(
    input_file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the output file goes.")],
    base_url: BaseUrl = "",
    api_key: ApiKey = "none",
) -> None:
    """Run a batch from upload to output file; its error file goes beside it."""
    try:
        _run(OpenAI(base_url=base_url or _default_url(), api_key=api_key), input_file, output)
    except APIError as error:
        _stop(f"The server did not take the batch: {error}")


@cli.command()
def demo() -> None:
    """Start a server, run the example batch on it, show some answers, and stop everything."""
    from deployments.local.family import end_with_parent
    from deployments.local.local_config import LocalConfig, refuse_taken_port

    config = LocalConfig.load()
    refuse_taken_port(config)  # else the batch would run on whichever server has it
    console.print("Starting Batchyard: Ray, the gateway and vLLM with SmolLM2-135M-Instruct (half a minute or so).")
    log_file = Path("demo-server.log")
    with log_file.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], stdout=log, stderr=log, preexec_fn=end_with_parent
        )
        try:
            _await_ready(config.url, server, log_file)
            batch = _run(
                OpenAI(base_url=f"{config.url}/v1", api_key=os.environ.get("BATCHYARD_API_KEYS", "none").split(",")[0]),
                DEMO_FILE,
                DEMO_OUTPUT,
            )
        finally:
            console.print("Stopping the server.")
            server.send_signal(signal.SIGTERM)
            server.wait()
    console.print_json(batch.to_json())
    _show_answers(DEMO_FILE, DEMO_OUTPUT)
    console.print(f"All answers: {DEMO_OUTPUT.resolve()}")


def _await_ready(server_url: str, server: "subprocess.Popen[bytes]", log_file: Path) -> None:
    deadline = time.monotonic() + DEMO_START_SECONDS
    with console.status("Waiting until a batch would be accepted"):
        while server.poll() is None:  # first: who answers on the port need not be this server
            if _is_ready(server_url):
                return
            if time.monotonic() > deadline:
                _stop(f"The server was not ready after {DEMO_START_SECONDS} s; {log_file} says more.")
            time.sleep(POLL_SECONDS)
    _stop(f"The server did not start; {log_file} says why:\n{log_file.read_text()[-2000:]}")


def _is_ready(server_url: str) -> bool:
    try:
        with urlopen(f"{server_url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _run(client: OpenAI, input_file: Path, output: Path) -> Batch:
    endpoint = _endpoint_of(input_file)
    with input_file.open("rb") as data:
        uploaded = client.files.create(file=data, purpose="batch")
    batch = client.batches.create(input_file_id=uploaded.id, endpoint=endpoint, completion_window="24h")
    batch = _follow(client, batch)
    if batch.errors and batch.errors.data:
        for fault in batch.errors.data:
            console.print(f"[red]line {fault.line}: {fault.code}: {fault.message}")
    errors = output.with_name(f"{output.stem}-errors{output.suffix}")
    for file_id, path in ((batch.output_file_id, output), (batch.error_file_id, errors)):
        if file_id is not None:
            client.files.content(file_id).write_to_file(path)
            console.print(f"{path}: {path.stat().st_size} bytes")
    if batch.status != "completed":
        _stop(f"The batch {batch.id} ended as {batch.status}.")
    return batch


def _endpoint_of(input_file: Path) -> Any:
    with input_file.open("rb") as lines:
        for line in lines:
            if line.strip():
                try:
                    return json.loads(line)["url"]
                except (ValueError, KeyError, TypeError):
                    break
    _stop(f"{input_file}: the first line is not a request with a url.")


def _follow(client: OpenAI, batch: Batch) -> Batch:
    columns = (
        TextColumn("{task.fields[status]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("batch", total=None, status=batch.status, rate="")
        while True:
            counts = batch.request_counts
            done = counts.completed + counts.failed if counts else 0
            rate = f"{done / max(time.monotonic() - started, 0.001):.1f} lines/s"
            progress.update(
                task, total=(counts.total if counts else 0) or None, completed=done, status=batch.status, rate=rate
            )
            if batch.status in FINAL:
                return batch
            time.sleep(POLL_SECONDS)
            batch = client.batches.retrieve(batch.id)


def _show_answers(input_file: Path, output: Path, number: int = 10) -> None:
    """Some questions from all over the file, each in one line."""
    questions = {line["custom_id"]: line["body"]["messages"][-1]["content"] for line in _lines(input_file)}
    answers = _lines(output)
    for line in answers[:: max(1, len(answers) // number)]:
        answer = line["response"]["body"]["choices"][0]["message"]["content"]
        question = questions[line["custom_id"]]
        console.print(f"[bold]{line['custom_id']}[/bold]  {' '.join(question.split())}", highlight=False)
        console.print(f"    → {' '.join(answer.split())}", highlight=False)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _say(message: str) -> None:
    console.print(message, highlight=False, soft_wrap=True)


def _stop(message: str) -> Any:
    console.print(f"[red]{message}", highlight=False)
    raise typer.Exit(1)


def main() -> None:
    try:
        cli()
    except BatchyardError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
