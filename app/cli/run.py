"""`batchyard run`: a batch from upload to output file."""

from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from openai import APIConnectionError, APIError
from openai.types import Batch

from app.cli.connection import UPLOAD_SECONDS, ApiKey, Connection, ServerUrl
from app.cli.console import INTERRUPTED, LEFT, fail, say
from app.cli.fetch import fetch
from app.cli.inputs import endpoint_of
from app.cli.outputs import Outputs
from app.cli.words import exit_code

OutputFile = Annotated[
    Path, typer.Option("-o", "--output", help="Where the answers go; failed lines go to NAME-errors beside it.")
]


def run(
    input_file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Requests, one a line (JSONL).")
    ],
    output: OutputFile,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Run a batch from upload to output file.

    \b
    Example: batchyard run examples/demo.jsonl -o answers.jsonl
    Exit codes: 0 every line completed, 1 none did, 3 some failed; 4 the server stayed away, 130 Ctrl-C: it goes on.
    """
    outputs, endpoint = Outputs.of(output, input_file), endpoint_of(input_file)
    connection = Connection.of(server, api_key)
    batch = submit(connection, input_file, endpoint)
    raise typer.Exit(exit_code(fetch(connection, batch, outputs)))


def submit(connection: Connection, input_file: Path, endpoint: str) -> Batch:
    """Uploads the file, makes the batch and says its id. Ends the command in words if that fails."""
    making = False
    try:
        with input_file.open("rb") as data:
            slowly = connection.client.with_options(timeout=UPLOAD_SECONDS)
            uploaded = slowly.files.create(file=data, purpose="batch")
        making = True
        batch = connection.client.batches.create(
            input_file_id=uploaded.id,
            endpoint=endpoint,  # type: ignore[arg-type]  # the server says which it has
            completion_window="24h",
            extra_headers={"Idempotency-Key": uuid4().hex},  # the client tries again what was not answered
        )
    except KeyboardInterrupt:
        fail(f"\nStopped. {_UNKNOWN if making else 'No batch was made.'}", INTERRUPTED)
    except APIConnectionError as error:
        fail(f"{connection.words(error)} {_UNKNOWN if making else 'No batch was made.'}", LEFT if making else 1)
    except APIError as error:
        fail(f"No batch was made. {connection.words(error)}")
    say(f"{batch.id}: {input_file} at {connection.url}")
    return batch


_UNKNOWN = "Whether the batch was made is not known: `batchyard batches list` shows it."
