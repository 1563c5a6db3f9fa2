"""`batchyard restarts`: what counts against a model's restarts."""

import asyncio
import time
from typing import Annotated

import typer

from app.cli.batches import post_or_nothing_to_do
from app.cli.connection import ApiKey, Connection, ServerUrl
from app.cli.console import fail, say

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The restart budget of a model.")


@group.callback()
def about() -> None:
    """The restart budget of a model, and of the local cluster."""


@group.command()
def reset(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its id; `cluster`: the local cluster.")],
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Let MODEL start again at once.

    Its restarts of this hour, which may be used up, no longer count.

    \b
    Example: batchyard restarts reset SmolLM2-135M-Instruct
    """
    done = f"{model} may start again."
    if model != "cluster":
        post_or_nothing_to_do(Connection.of(server, api_key), f"/admin/models/{model}/restarts/reset", done)
        return
    say(done if _reset_cluster() else "There is nothing to do: no restart of the cluster counts.")


def _reset_cluster() -> bool:
    """In the ledger itself: nobody serves HTTP while the cluster waits. Whether any restart counted."""
    from app.store import Store
    from deployments.local.folder_lock import server_pid
    from deployments.local.local_config import LocalConfig

    settings = LocalConfig.load().settings()
    if server_pid(settings.data) is None:
        fail(f"Nothing serves {settings.data}. Set BATCHYARD_DATA to the data folder of the server that waits.")
    store = Store.open(settings.database_url, lambda: int(time.time()))
    try:
        return asyncio.run(store.reset_restarts("cluster"))
    finally:
        store.close()
