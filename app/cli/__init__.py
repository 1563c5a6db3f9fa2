"""The command `batchyard`, a file a group of commands.

What stands under `deployments` is imported inside the commands that need it, and nothing here imports Ray or vLLM: the
commands of a client start in half a second, and work where neither is installed.
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from app.cli import batches, demo, restarts, run, server
from app.errors import BatchyardError

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its boxes break lines even when the output is piped
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batchyard {version('batchyard')}")
        raise typer.Exit


@cli.callback()
def about(
    show: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """OpenAI-compatible batch inference on your own GPUs.

    \b
    Example: batchyard up --wait && batchyard run examples/demo.jsonl -o answers.jsonl
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some lines failed, 4 server away (the batch goes on), 130 Ctrl-C.
    """


cli.command()(run.run)
cli.add_typer(batches.group, name="batches")
cli.command()(server.serve)
cli.command()(server.up)
cli.command()(server.down)
cli.command()(server.status)
cli.add_typer(restarts.group, name="restarts")
cli.command()(demo.demo)


def main() -> None:
    try:
        cli()
    except BatchyardError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
