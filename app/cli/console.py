"""What the commands print: never wrapped, never read as markup; faults go to stderr."""

from typing import NoReturn

import typer
from rich.console import Console

OK, FAILED, PARTLY_FAILED, LEFT, INTERRUPTED = 0, 1, 3, 4, 130
"""Exit codes; 2 is wrong usage. `docs/cli.md` has the table."""

console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


def say(message: str) -> None:
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    errors.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)


def fail(message: str, code: int = FAILED) -> NoReturn:
    errors.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)
