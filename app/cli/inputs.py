"""What is wrong with an input file that can be seen before it is sent."""

import json
from pathlib import Path
from typing import Any

import typer

from app.batch.file_kind import HEAD_BYTES, not_json_lines
from app.batch.lines import BOM


def endpoint_of(path: Path) -> Any:
    """The `url` of the first request. Raises typer.BadParameter, in words, for what is no batch file."""
    try:
        with path.open("rb") as file:
            if kind := not_json_lines(file.read(HEAD_BYTES)):
                raise typer.BadParameter(f"{path}: {kind.message}")
            file.seek(0)
            lines = enumerate(file, start=1)
            number, line = next(((at, line) for at, line in lines if line.strip(BOM + b" \t\r\n")), (0, b""))
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from error
    if not line:
        raise typer.BadParameter(f"{path} is empty: it has no request")
    try:
        return json.loads(line.removeprefix(BOM))["url"]
    except ValueError as error:
        raise typer.BadParameter(f"{path}, line {number} is not JSON: {error}") from error
    except (KeyError, TypeError) as error:
        message = f"{path}, line {number} is no request: it must be a JSON object with custom_id, method, url and body"
        raise typer.BadParameter(message) from error
