"""A batch object's `error_summary`: why lines failed, from what their lines of the error file say."""

import json
from typing import Any

import pytest

from app.api.batches import batch_object
from app.batch.failures import failure_of
from app.batch.lines import QUOTED_CHARACTERS
from app.batch.output import answered_line, unanswered_line
from app.store import ErrorSummary, Failure
from app.store.failures import LISTED_KINDS, OTHER
from tests.unit.yard import Yard, request, requests


def answered(status: int, body: Any) -> bytes:
    return answered_line("batch_1", 7, "line-7", status, json.dumps(body).encode())


VLLM = {"error": {"message": "too long", "type": "BadRequestError", "param": "input_tokens", "code": 400}}
OPENAI = {"error": {"message": "no", "type": "server_error", "param": None, "code": "bad_thing"}}
FAILURES = {
    "vLLM's error, whose code is the status": (answered(400, VLLM), "BadRequestError", "input_tokens", "too long"),
    "an error with a code": (answered(502, OPENAI), "bad_thing", None, "no"),
    "an error that says nothing": (answered(418, {"error": {}}), "http_418", None, ""),
    "an answer without an error": (answered(500, []), "http_500", None, ""),
    "a line that was not run": (
        unanswered_line("batch_1", 7, "line-7", "batch_expired", "over"),
        "batch_expired",
        None,
        "over",
    ),
}


@pytest.mark.parametrize("line", [b"x\n", b"[]\n", b"{}\n", b'{"response":null,"error":null,"custom_id":"a"}\n'])
def test_a_line_that_was_damaged_is_counted_and_stops_nothing(line: bytes) -> None:
    assert failure_of(7, line).code == "unreadable"


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_read_from_its_line(name: str) -> None:
    line, code, param, message = FAILURES[name]
    assert failure_of(7, line) == Failure(code, param, 7, "line-7", message)


def test_what_a_failure_says_is_cut() -> None:
    long = "x" * 100_000
    error = {"error": {"message": long, "type": long, "param": long, "code": None}}
    failure = failure_of(1, answered_line("batch_1", 1, long, 400, json.dumps(error).encode()))
    for text in (failure.code, failure.param, failure.custom_id, failure.message):
        assert text is not None and len(text) <= QUOTED_CHARACTERS + 1


def test_of_many_codes_the_first_are_listed_and_the_rest_counted_together() -> None:
    summary = ErrorSummary()
    for number in range(100):
        summary.add(Failure(f"code-{number}", None, number + 1, "", ""))
    entries = ErrorSummary(summary.entries()).entries()
    assert len(entries) == LISTED_KINDS + 1
    assert (entries[0]["code"], entries[0]["count"], entries[0]["line"]) == (OTHER, 80, 21)


async def test_a_finished_batch_tells_its_failures_by_code_without_a_download(yard: Yard) -> None:
    yard.engines.reply = lambda body: (400, VLLM) if b"line-1" in body else (200, {})
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(requests(20)))
    assert batch_object(batch)["error_summary"] == [
        {
            "code": "BadRequestError",
            "param": "input_tokens",
            "count": 11,
            "line": 2,
            "custom_id": "line-1",
            "message": "too long",
        }
    ]
    assert batch.failed == 11


async def test_lines_that_never_ran_are_in_the_summary_too(yard: Yard) -> None:
    yard.engines.hold()
    async with yard.dispatcher():
        batch_id = await yard.create(requests(9))
        await yard.until(batch_id, lambda batch: batch.status == "in_progress")
        await yard.store.cancel_batch("default", batch_id)
        batch = await yard.finished(batch_id)
    assert batch.error_summary is not None
    assert [(each["code"], each["count"], each["line"]) for each in batch.error_summary] == [("batch_cancelled", 9, 1)]


async def test_a_batch_without_a_failed_line_has_no_summary(yard: Yard) -> None:
    async with yard.dispatcher():
        batch = await yard.finished(await yard.create(request("a")))
    assert batch.error_summary is None
