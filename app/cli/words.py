"""A batch in words: where it is, what its lines met, how it ended."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai.types import Batch

from app.cli.console import FAILED, OK, PARTLY_FAILED

FINAL = ("completed", "failed", "expired", "cancelled")
GROUPS = 5
"""Kinds of faults that are listed; the rest are counted."""


def counts_of(batch: Batch) -> tuple[int, int, int]:
    """Completed, failed, total."""
    counts = batch.request_counts
    return (counts.completed, counts.failed, counts.total) if counts else (0, 0, 0)


def exit_code(batch: Batch) -> int:
    """Of a batch that has ended."""
    completed, failed, _ = counts_of(batch)
    if not completed:
        return FAILED
    return OK if batch.status == "completed" and not failed else PARTLY_FAILED


def ending(batch: Batch) -> str:
    completed, failed, total = counts_of(batch)
    began, ended = batch.created_at, next((at for name in FINAL if (at := getattr(batch, f"{name}_at"))), None)
    took = f", {ended - began} s" if ended is not None else ""
    if not total:
        return f"{batch.id} {batch.status}: no line was run{took}"
    return f"{batch.id} {batch.status}: {completed:,} completed, {failed:,} failed{took}"


def standing(batch: Batch) -> str:
    """What the batch waits for or is at, while it has not ended."""
    if any(fault.code == "batch_paused" for fault in _errors(batch)):
        return "paused: its lines killed too many engines"
    running, before = in_engine(batch), (extension(batch, "progress") or {}).get("queued_before", 0)
    if batch.status != "in_progress" or not (running or before):
        return batch.status
    if running:
        return f"{running:,} {_lines(running)} in the engine"
    return f"waits behind {before:,} {_lines(before)}"


def in_engine(batch: Batch) -> int:
    """Lines of it that are in an engine, where the server says so."""
    return int((extension(batch, "progress") or {}).get("in_engine", 0))


def warnings_of(batch: Batch) -> Iterator[str]:
    for each in extension(batch, "warnings") or []:
        yield f"Warning: {_group(each)}"


def faults_of(batch: Batch, error_file: Path | None = None) -> Iterator[str]:
    """Why lines failed or the file was refused, equal faults together.

    `error_file`: the batch's, for a server whose batches have no summary.
    """
    groups = _grouped({"code": each.code, "message": each.message, "line": each.line} for each in _errors(batch))
    if not groups:
        groups = extension(batch, "error_summary") or []
    if not groups and error_file is not None:
        groups = _grouped(_line_faults(error_file))
    for group in groups[:GROUPS]:
        yield _group(group)
    if rest := sum(group["count"] for group in groups[GROUPS:]):
        yield f"and {rest:,} of other kinds"


def extension(batch: Batch, name: str) -> Any:
    """A member that OpenAI's batch object does not have."""
    return (batch.model_extra or {}).get(name)


def _errors(batch: Batch) -> list[Any]:
    return list(batch.errors.data or []) if batch.errors else []


def _grouped(faults: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """By code, the first of each standing for it; the most frequent first."""
    groups: dict[str, dict[str, Any]] = {}
    for fault in faults:
        groups.setdefault(fault["code"], {**fault, "count": 0})["count"] += 1
    return sorted(groups.values(), key=lambda group: -group["count"])


def _group(group: dict[str, Any]) -> str:
    """`12 context_length_exceeded (first: line 17): message`, as far as it is known."""
    number = f"{group['count']:,} " if group.get("count", 1) > 1 else ""
    of = f" {group['param']}" if group.get("param") else ""
    where = f"line {group['line']}" if group.get("line") else group.get("custom_id")
    first = f" ({'first: ' if number else ''}{where})" if where else ""
    message = f": {' '.join(str(group['message']).split())}" if group.get("message") else ""
    return f"{number}{group['code']}{of}{first}{message}"


def _line_faults(error_file: Path) -> Iterator[dict[str, Any]]:
    """What each line of an error file met. Lines that are no JSON object count as well."""
    with error_file.open("rb") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            yield _line_fault(found if isinstance(found, dict) else {})


def _line_fault(line: dict[str, Any]) -> dict[str, Any]:
    """The error is the line's own, or in the body of the answer to it; some servers have it as a mere text."""
    response = _mapping(line.get("response"))
    error = line.get("error") or _mapping(response.get("body")).get("error")
    code = _mapping(error).get("code")
    if not code or isinstance(code, int):  # vLLM's code is the status again
        status = response.get("status_code")
        code = f"status {status}" if status else "unknown error"
    message = error.get("message") if isinstance(error, dict) else error
    return {"code": str(code), "message": message, "custom_id": line.get("custom_id")}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _lines(number: int) -> str:
    return "line" if number == 1 else "lines"


@dataclass
class Pace:
    """How fast a batch goes, since the first look at which lines of it ran: its time in the queue does not count."""

    _first: tuple[float, int, int] | None = None

    def at(self, batch: Batch, now: float) -> tuple[float, float]:
        """Lines a second, and tokens of their answers; `now` is monotonic. 0 while nothing is known.

        Both are of lines that are done: of what is still in the engine nobody knows the tokens.
        """
        completed, failed, _ = counts_of(batch)
        tokens = batch.usage.output_tokens if batch.usage else 0
        if self._first is None and batch.status == "in_progress" and (completed + failed or in_engine(batch)):
            self._first = (now, completed + failed, tokens)
        if self._first is None or now <= self._first[0]:
            return 0.0, 0.0
        since, lines_then, tokens_then = self._first
        return (completed + failed - lines_then) / (now - since), (tokens - tokens_then) / (now - since)
