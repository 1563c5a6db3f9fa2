"""`batchyard serve`, and the same in the background: `up`, `down`, `status`."""

from typing import Annotated

import typer

from app.cli.console import INTERRUPTED, console, fail, say


def serve() -> None:
    """Serve on this machine until Ctrl-C.

    \b
    Config: BATCHYARD_CONFIG (default: local.yaml).
    Address: BATCHYARD_HOST (default: 127.0.0.1), BATCHYARD_PORT (8000). Data: BATCHYARD_DATA (.batchyard).
    Example: BATCHYARD_PORT=8001 batchyard serve
    """
    from deployments.local.server import serve as serve_locally

    raise typer.Exit(serve_locally())


def up(
    wait: Annotated[bool, typer.Option("--wait", help="Return only when a batch would be accepted.")] = False,
) -> None:
    """Serve in the background.

    The log is in BATCHYARD_DATA/logs (default: .batchyard/logs).

    \b
    Example: batchyard up --wait
    """
    from deployments.local.background import Background

    server = Background.load()
    with console.status("Starting") as spinner:

        def tell(step: str) -> None:
            spinner.update(step)
            say(step)

        try:
            server.up(tell)
            if wait:
                server.await_ready(tell)
        except KeyboardInterrupt:
            fail("\nThe server in the background goes on. `batchyard down` stops it.", INTERRUPTED)
        pid = server.pid
    state = "a batch would be accepted now" if wait else "models load, `batchyard status` says how far they are"
    say(f"Batchyard serves on {server.url} as process {pid}: {state}.")


def down() -> None:
    """Stop the server.

    The one of BATCHYARD_DATA, however it was started. Its batches go on at the next start.

    \b
    Example: batchyard down
    """
    from deployments.local.background import Background

    server = Background.load()
    pid = server.down()
    say(f"Nothing serves {server.data}." if pid is None else f"Stopped: process {pid} is gone.")


def status() -> None:
    """Say whether a server runs and is ready.

    The one of BATCHYARD_DATA (exit 1: none), and what its models lack.

    \b
    Example: batchyard status
    """
    from deployments.local.background import Background
    from deployments.local.probe import http_status

    server = Background.load()
    if (pid := server.pid) is None:
        fail(f"Nothing serves {server.data}. `batchyard up` starts a server.")
    ready = http_status(f"{server.url}/readyz")
    words = {200: "ready", None: "not ready: it does not answer (yet)"}.get(ready, "not ready")
    say(f"Batchyard serves on {server.url} as process {pid}: {words}.")
    for known in server.missing():
        say(f"  {known}")
