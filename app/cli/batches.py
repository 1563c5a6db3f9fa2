"""`batchyard batches`: the batches of a server."""

import time
from typing import Annotated

import typer
from openai import APIStatusError
from openai.types import Batch

from app.cli.connection import ApiKey, Connection, ServerUrl, answers
from app.cli.console import OK, console, say
from app.cli.fetch import fetch
from app.cli.outputs import Outputs
from app.cli.run import OutputFile
from app.cli.words import FINAL, counts_of, ending, exit_code

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, look up, follow, fetch and stop batches.")

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id, as printed by `run` and `list`.")]


@group.command("list")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, the newest first.")] = 20,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """List the newest batches.

    Id, state, lines done of all, failed lines, time of creation, model.

    \b
    Example: batchyard batches list --limit 5
    """
    connection = Connection.of(server, api_key)
    with answers(connection):
        found = connection.client.batches.list(limit=limit).data
    for batch in found:
        say(_row(batch))
    if not found:
        say(f"{connection.url} has no batches.")


def _row(batch: Batch) -> str:
    completed, failed, total = counts_of(batch)
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(batch.created_at))
    done = f"{completed + failed}/{total}"
    return f"{batch.id}  {batch.status:<11}  {done:>13}  {failed:>6} failed  {made}  {batch.model or ''}".rstrip()


@group.command()
def show(batch_id: BatchId, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Show a batch as JSON, as the API has it.

    \b
    Example: batchyard batches show batch_0123456789abcdef01234567
    """
    batch = _found(Connection.of(server, api_key), batch_id)
    console.print_json(batch.to_json())


@group.command()
def wait(batch_id: BatchId, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Follow a batch to its end. Exits as `run` does.

    \b
    Example: batchyard batches wait batch_0123456789abcdef01234567
    """
    connection = Connection.of(server, api_key)
    raise typer.Exit(exit_code(fetch(connection, _found(connection, batch_id), None)))


@group.command()
def download(batch_id: BatchId, output: OutputFile, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Fetch the files of a batch.

    Once it has ended: it waits for that. Exits as `run` does.

    \b
    Example: batchyard batches download batch_0123456789abcdef01234567 -o answers.jsonl
    """
    outputs = Outputs.of(output)
    connection = Connection.of(server, api_key)
    raise typer.Exit(exit_code(fetch(connection, _found(connection, batch_id), outputs)))


@group.command()
def cancel(batch_id: BatchId, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Stop a batch; what was answered stays.

    \b
    Example: batchyard batches cancel batch_0123456789abcdef01234567
    """
    connection = Connection.of(server, api_key)
    with answers(connection):
        batch = connection.client.batches.cancel(batch_id)
    if batch.status in FINAL:
        say(f"There is nothing to do. {ending(batch)}")
        return
    say(f"{batch.id} {batch.status}. What was answered: batchyard batches download {batch.id} -o OUTPUT")


@group.command()
def resume(batch_id: BatchId, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Let a paused batch go on.

    One that was paused because its lines killed too many engines.

    \b
    Example: batchyard batches resume batch_0123456789abcdef01234567
    """
    connection = Connection.of(server, api_key)
    post_or_nothing_to_do(connection, f"/admin/batches/{batch_id}/resume", f"{batch_id} goes on.")


def post_or_nothing_to_do(connection: Connection, path: str, done: str) -> None:
    """Says `done`, or the server's words where it has nothing to do (409)."""
    with answers(connection):
        try:
            connection.post(path)
        except APIStatusError as error:
            if error.status_code != 409:
                raise
            say(connection.words(error).removeprefix(f"{connection.url}: "))
            raise typer.Exit(OK) from error
    say(done)


def _found(connection: Connection, batch_id: str) -> Batch:
    with answers(connection):
        return connection.client.batches.retrieve(batch_id)
