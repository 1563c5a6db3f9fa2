"""vLLM's answers over HTTP: what is good, what is an error, and what a client is told besides."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deployments import short_refusals
from deployments.answers import ERROR_BYTES, KINDS, checked, explained
from deployments.messages import HttpStart

NO_GOOD = {
    "bytes of embeddings": b"\x00\x80\xff\x3f" * 8,
    "nothing": b"",
    "an array": b"[]",
    "an object of another kind": b'{"object": "model"}',
    "an error that came as a 200": b'{"error": {"message": "oops"}}',
}


@pytest.mark.parametrize("endpoint", KINDS)
@pytest.mark.parametrize("name", NO_GOOD)
def test_a_200_without_an_object_of_the_endpoints_kind_is_a_502(endpoint: str, name: str) -> None:
    status, content, usage = checked(endpoint, 200, NO_GOOD[name])
    error = json.loads(content)["error"]
    assert (status, usage, error["type"]) == (502, None, "server_error")
    assert endpoint in error["message"] and KINDS[endpoint] in error["message"]


@pytest.mark.parametrize("endpoint", KINDS)
def test_a_good_answer_is_passed_on_byte_for_byte_with_its_usage(endpoint: str) -> None:
    content = json.dumps({"object": KINDS[endpoint], "usage": {"prompt_tokens": 3}}).encode()
    assert checked(endpoint, 200, content) == (200, content, {"prompt_tokens": 3})


def test_an_error_keeps_its_status_and_its_envelope() -> None:
    content = b'{"error": {"message": "too long", "code": 400}}'
    assert checked("/v1/completions", 400, content) == (400, content, None)


def test_an_error_without_an_envelope_gets_one() -> None:
    status, content, _ = checked("/v1/embeddings", 404, b'{"detail":"Not Found"}')
    assert (status, json.loads(content)["error"]["message"]) == (404, '/v1/embeddings: {"detail":"Not Found"}')


async def answer(status: int, *parts: bytes) -> AsyncGenerator[HttpStart | bytes, None]:
    length = str(sum(map(len, parts)))
    yield HttpStart(status, [("content-type", "application/json"), ("content-length", length)])
    for part in parts:
        yield part


async def told(status: int, message: str) -> tuple[HttpStart, dict[str, Any]]:
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    start, *parts = [each async for each in explained(answer(status, body[:9], body[9:]))]
    assert isinstance(start, HttpStart)
    content = b"".join(part for part in parts if isinstance(part, bytes))
    assert dict(start.headers)["content-length"] == str(len(content))
    return start, json.loads(content)["error"]


@pytest.mark.parametrize("engine_says", ["--enable-auto-tool-choice and --tool-call-parser to be set"])
async def test_a_400_for_want_of_a_tool_parser_says_which_settings_of_ours_give_one(engine_says: str) -> None:
    start, error = await told(400, f'"auto" tool choice requires {engine_says}')
    assert start.status == 400
    assert error["message"].startswith(f'"auto" tool choice requires {engine_says}. In Batchyard')
    assert "`enable_auto_tool_choice: true` and `tool_call_parser: NAME`" in error["message"]


@pytest.mark.parametrize("status", [400, 200])
async def test_any_other_answer_is_as_vllm_gave_it(status: int) -> None:
    start, error = await told(status, "too long")
    assert (start.status, error["message"]) == (status, "too long")


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_a_long_error_is_cut_and_says_so(status: int) -> None:
    start, error = await told(status, '"\u00fc' * ERROR_BYTES)
    assert (start.status, len(json.dumps(error)) <= ERROR_BYTES) == (status, True)
    assert error["message"].endswith("(cut: the engine's error is longer than 16384 bytes)")


async def test_an_error_of_a_line_is_no_longer() -> None:
    body = json.dumps({"error": {"message": "x" * 10_000_000}}).encode()
    status, content, _ = checked("/v1/responses", 400, body)
    assert (status, len(content) <= ERROR_BYTES, b"(cut: " in content) == (400, True, True)


async def test_a_long_answer_that_is_no_error_is_whole() -> None:
    start, error = await told(200, "x" * (2 * ERROR_BYTES))
    assert (start.status, len(error["message"])) == (200, 2 * ERROR_BYTES)


def test_what_pydantic_repeats_of_a_request_is_its_beginning() -> None:
    fault = {"loc": ("body",), "msg": "m" * 100_000, "input": {"x": ["y" * 100_000] * 1000}, "ctx": {"error": 1}}
    told = short_refusals.short(fault)
    assert (told["loc"], told["ctx"], len(str(told)) < 6_000) == (("body",), {"error": 1}, True)
