"""From a batch on the server to its files here, whatever happens in between."""

from pathlib import Path

from openai import APIError
from openai.types import Batch

from app.cli.connection import Connection, ServerAway, patiently
from app.cli.console import INTERRUPTED, LEFT, fail, say, warn
from app.cli.follow import follow
from app.cli.outputs import Outputs, is_stream, write_whole
from app.cli.words import ending, faults_of, warnings_of


def fetch(connection: Connection, batch: Batch, outputs: Outputs | None) -> Batch:
    """Follows the batch to its end, writes its files and says how it went. However that fails, it names the batch.

    Without `outputs` nothing is written.
    """
    later = f"batchyard batches download {batch.id} -o {outputs.answers if outputs else 'OUTPUT'}"
    try:
        batch = follow(connection, batch, later)
        if outputs is not None:
            _write(connection, batch, outputs)
    except KeyboardInterrupt:
        fail(f"\n{batch.id} goes on at the server. Its results: {later}", INTERRUPTED)
    except ServerAway:
        fail(f"{connection.url} stays away. {batch.id} goes on when it is back. Its results: {later}", LEFT)
    except APIError as error:
        fail(f"{connection.words(error)}\n{batch.id} is unaffected. Its results: {later}")
    except OSError as error:
        fail(f"{error.filename or 'The output'}: {error.strerror}. The results stay at the server: {later}")
    _report(batch, outputs)
    return batch


def _write(connection: Connection, batch: Batch, outputs: Outputs) -> None:
    """Both files as they are at the server: one of an earlier run does not stay beside them.

    A batch that failed before a line ran has neither, and leaves everything as it is.
    """
    files = ((batch.output_file_id, outputs.answers), (batch.error_file_id, outputs.faults))
    if not any(file_id for file_id, _ in files):
        return
    for file_id, path in files:
        if path is None:
            continue
        if file_id is not None:
            write_whole(path, lambda part, file_id=file_id: _download(connection, file_id, part))  # type: ignore[misc]
        elif not is_stream(path):
            path.unlink(missing_ok=True)


def _download(connection: Connection, file_id: str, path: Path) -> None:
    def once() -> None:
        with connection.once.files.with_streaming_response.content(file_id) as answer:
            answer.stream_to_file(path)

    patiently(
        once,
        lambda why: warn(f"The download of {file_id} broke off ({why}); it is tried again."),
        lambda: None,
    )


def _report(batch: Batch, outputs: Outputs | None) -> None:
    for warning in warnings_of(batch):
        warn(warning)
    say(ending(batch))
    error_file = outputs.faults if outputs and batch.error_file_id else None
    for fault in faults_of(batch, error_file):
        warn(f"  {fault}")
    if outputs is None:
        return
    if batch.output_file_id is not None and not is_stream(outputs.answers):
        say(f"{outputs.answers}: {outputs.answers.stat().st_size:,} bytes")
    if error_file is not None:
        say(f"{error_file}: {error_file.stat().st_size:,} bytes")
    elif batch.error_file_id is not None:
        warn(f"The failed lines are not beside {outputs.answers}: batchyard batches download {batch.id} -o FILE")
