"""What one request may ask for: each limit passes what is at it and refuses what is over, online and in a batch."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestRefused
from app.limits import check_request, check_text
from app.limits.expressions import expanded_length
from app.settings import ENDPOINTS, RequestLimits, Settings
from tests.unit.fakes import FakeEngines, error_of
from tests.unit.test_validate import file_of, line, marks, validated

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = ENDPOINTS
LIMITS = RequestLimits()
USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f"}}


def refused(endpoint: str, body: dict[str, Any], limits: RequestLimits = LIMITS) -> tuple[str, str | None, str] | None:
    """Code, param and message, as both paths use them."""
    try:
        check_text(json.dumps(body).encode(), limits)
        check_request(endpoint, body, limits)
    except RequestRefused as error:
        return error.code, error.param, str(error)
    return None


def nested(levels: int, inside: Any = 1) -> Any:
    for _ in range(levels):
        inside = [inside]
    return inside


def constrained(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}


def properties(count: int, required: int) -> dict[str, Any]:
    names = [f"p{number}" for number in range(count)]
    return {"properties": {name: {} for name in names}, "required": names[:required]}


Make = Callable[[int], dict[str, Any]]
EDGES: dict[str, tuple[str, int, str, Make]] = {
    "values": (COMPLETIONS, LIMITS.values, "values", lambda n: {"prompt": [1] * (n + 1)}),
    "objects": (CHAT, LIMITS.containers, "containers", lambda n: {"x": [[]] * (n - 2)}),
    "depth": (CHAT, LIMITS.depth, "depth", lambda n: {"x": nested(n - 1)}),
    "members": (CHAT, LIMITS.members, "members", lambda n: {"metadata": {str(each): 1 for each in range(n)}}),
    "messages": (CHAT, LIMITS.messages, "messages", lambda n: {"messages": [USER] * n}),
    "items": (RESPONSES, LIMITS.messages, "messages", lambda n: {"input": [USER] * n}),
    "parts": (
        CHAT,
        LIMITS.content_parts,
        "content_parts",
        lambda n: {"messages": [{"role": "user", "content": ["x"] * (n // 2)}] * 2},
    ),
    "tool calls": (
        CHAT,
        LIMITS.tool_calls,
        "tool_calls",
        lambda n: {"messages": [{"role": "assistant", "tool_calls": [TOOL] * n}]},
    ),
    "tools": (CHAT, LIMITS.tools, "tools", lambda n: {"tools": [TOOL] * n}),
    "tools in a namespace": (
        RESPONSES,
        LIMITS.tools,
        "tools",
        lambda n: {"tools": [{"type": "namespace", "tools": [TOOL] * (n - 1)}]},
    ),
    "prompts": (COMPLETIONS, LIMITS.prompts, "prompts", lambda n: {"prompt": ["x"] * n}),
    "inputs": (EMBEDDINGS, LIMITS.embedding_inputs, "embedding_inputs", lambda n: {"input": [[1]] * n}),
    "n": (CHAT, LIMITS.choices, "choices", lambda n: {"n": n}),
    "n as text": (CHAT, LIMITS.choices, "choices", lambda n: {"n": str(n)}),
    "best_of": (COMPLETIONS, LIMITS.choices, "choices", lambda n: {"best_of": float(n)}),
    "sequences": (COMPLETIONS, LIMITS.sequences, "sequences", lambda n: {"prompt": ["x"] * (n // 8), "n": 8}),
    "logprobs": (CHAT, 1_000_000, "logprobs", lambda n: {"top_logprobs": 9, "n": 100, "max_tokens": n / 1000}),
    "logprobs without max_tokens": (COMPLETIONS, 244, "logprobs", lambda n: {"logprobs": n - 1}),
    "logprobs of the prompt": (
        COMPLETIONS,
        1_000_000,
        "logprobs",
        lambda n: {"prompt_logprobs": 9, "n": 10, "prompt": [1] * (n // 100)},
    ),
    "echoed logprobs": (
        CHAT,
        LIMITS.logprobs,
        "logprobs",
        lambda n: {"top_logprobs": 9, "max_tokens": 0, "echo": True, "messages": [{**USER, "content": "x" * (n // 3)}]},
    ),
    "stops": (CHAT, LIMITS.stops, "stops", lambda n: {"stop": ["x"] * n}),
    "biases": (CHAT, LIMITS.token_ids, "token_ids", lambda n: {"logit_bias": {str(each): 1 for each in range(n)}}),
    "stop tokens": (CHAT, LIMITS.token_ids, "token_ids", lambda n: {"stop_token_ids": [1] * n}),
    "bad words": (CHAT, LIMITS.token_ids, "token_ids", lambda n: {"bad_words": ["x"] * n}),
    "properties": (
        CHAT,
        LIMITS.schema_properties,
        "schema_properties",
        lambda n: {"tools": [{"function": {"parameters": properties(n // 5, n // 5)}}] * 5},
    ),
    "optional properties": (
        RESPONSES,
        LIMITS.schema_optional,
        "schema_optional",
        lambda n: {"text": {"format": {"schema": properties(n, 0)}}},
    ),
    "enum": (CHAT, LIMITS.schema_choices, "schema_choices", lambda n: constrained({"enum": [1] * n})),
    "choice": (CHAT, LIMITS.schema_choices, "schema_choices", lambda n: {"structured_outputs": {"choice": ["x"] * n}}),
    "branches": (CHAT, LIMITS.schema_branches, "schema_branches", lambda n: constrained({"anyOf": [{}] * n})),
    "characters": (CHAT, LIMITS.schema_characters, "schema_characters", lambda n: constrained({"enum": ["x" * n]})),
    "schema depth": (CHAT, LIMITS.schema_depth, "schema_depth", lambda n: constrained({"default": nested(n - 3)})),
    "schema in a string": (
        COMPLETIONS,
        LIMITS.schema_choices,
        "schema_choices",
        lambda n: {"structured_outputs": {"json": json.dumps({"enum": [1] * n})}},
    ),
    "structural tag": (
        CHAT,
        LIMITS.schema_choices,
        "schema_choices",
        lambda n: {"response_format": {"type": "structural_tag", "structures": [{"schema": {"enum": [1] * n}}]}},
    ),
    "pattern": (CHAT, LIMITS.regex_characters, "regex_characters", lambda n: constrained({"pattern": "[a-z]" * n})),
    "repeats": (
        CHAT,
        LIMITS.regex_characters,
        "regex_characters",
        lambda n: constrained({"pattern": f"(a{{{n - 1}}})+"}),
    ),
    "formats": (
        CHAT,
        LIMITS.regex_characters // 32,
        "regex_characters",
        lambda n: constrained({"prefixItems": [{"format": "date"}] * n}),
    ),
    "regex": (CHAT, LIMITS.regex_characters, "regex_characters", lambda n: {"structured_outputs": {"regex": "x" * n}}),
    "grammar": (
        CHAT,
        LIMITS.grammar_characters,
        "grammar_characters",
        lambda n: {"structured_outputs": {"grammar": "x" * n}},
    ),
}


STEPS = {"values": 2, "parts": 2, "sequences": 8, "logprobs": 1000, "logprobs of the prompt": 100, "properties": 5}


@pytest.mark.parametrize("name", EDGES)
def test_what_is_at_a_limit_passes_and_what_is_over_it_is_refused_by_name(name: str) -> None:
    endpoint, limit, setting, make = EDGES[name]
    at = limit // 3 * 3 // 10 * 3 if name == "echoed logprobs" else limit
    assert refused(endpoint, make(at)) is None
    over = 4 * limit if name == "echoed logprobs" else limit + STEPS.get(name, 1)
    found = refused(endpoint, make(over))
    assert found is not None
    code, _, message = found
    assert code == "limit_exceeded"
    assert f"(requests.{setting})" in message and f"{getattr(LIMITS, setting):,}" in message


def test_the_size_of_all_schemas_together_is_limited() -> None:
    limits = RequestLimits(schema_bytes=1024)
    assert refused(CHAT, {"tools": [{"description": "x" * 900}]}, limits) is None
    found = refused(CHAT, {"tools": [{"description": "x" * 900}], "text": {"description": "x" * 900}}, limits)
    assert found is not None and "(requests.schema_bytes)" in found[2]


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("abc", 3),
        (r"\d{3}-\d{4}", 8),
        ("[a-z{}()]{2,5}x", 6),
        ("(a{100}){100}", 10_000),
        ("(ab|c(d{3})){0,2}", 14),
        ("a{9999999999999}", 999_999_999),
        ("((((", 0),
        ("a{}){b", 4),
    ],
)
def test_an_expression_counts_with_its_repeats_written_out(pattern: str, length: int) -> None:
    assert expanded_length(pattern) == length


SHAPES: dict[str, tuple[str, dict[str, Any], str]] = {
    "an empty message": (CHAT, {"messages": [USER, {}]}, "messages[1]"),
    "a message that is a text": (CHAT, {"messages": ["x"]}, "messages[0]"),
    "a message whose role is a number": (CHAT, {"messages": [{"role": 1, "content": "x"}]}, "messages[0]"),
    "a number as content": (CHAT, {"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    "a number as a part": (CHAT, {"messages": [{"role": "user", "content": ["x", 1]}]}, "messages[0].content[1]"),
    "tool calls in a text": (CHAT, {"messages": [{"role": "user", "tool_calls": "x"}]}, "messages[0].tool_calls"),
    "an empty tool call": (CHAT, {"messages": [{"role": "user", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
    "an empty item": (RESPONSES, {"input": [USER, {}]}, "input[1]"),
    "an item without role and type": (RESPONSES, {"input": [{"content": "x"}]}, "input[0]"),
    "an empty part of an output": (RESPONSES, {"input": [{"type": "x", "output": [{}]}]}, "input[0].output[0]"),
    "an empty earlier message": (RESPONSES, {"previous_input_messages": [{}]}, "previous_input_messages[0]"),
    "mixed inputs": (EMBEDDINGS, {"input": ["x", [1]]}, "input[1]"),
    "an empty input": (EMBEDDINGS, {"input": [{}]}, "input[0]"),
    "a schema that is no JSON": (CHAT, {"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_first_thing_that_no_engine_takes_is_refused_by_its_place(name: str) -> None:
    endpoint, body, place = SHAPES[name]
    found = refused(endpoint, body)
    assert found is not None
    assert found[:2] == ("invalid_type", place)


CIRCLES: list[dict[str, Any]] = [
    {"$ref": "#"},
    {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
]
ENDING: list[dict[str, Any]] = [
    {"type": "object", "properties": {"child": {"$ref": "#"}}},
    {"$defs": {"a": {"type": "string"}}, "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]},
    {"$ref": "#/$defs/missing"},
    {"$ref": "http://elsewhere"},
    {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}]},
]


@pytest.mark.parametrize("schema", CIRCLES)
def test_a_schema_that_never_ends_is_refused(schema: dict[str, Any]) -> None:
    for endpoint, body in (
        (CHAT, constrained(schema)),
        (COMPLETIONS, {"structured_outputs": {"json": json.dumps(schema)}}),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": schema}}}),
        (CHAT, {"tools": [{"function": {"name": "f", "parameters": schema}}]}),
    ):
        found = refused(endpoint, body)
        assert found is not None
        assert found[0] == "invalid_json_schema"


@pytest.mark.parametrize("schema", ENDING)
def test_a_schema_that_refers_to_itself_and_ends_passes(schema: dict[str, Any]) -> None:
    assert refused(CHAT, constrained(schema)) is None


TEXTS = st.text(max_size=20)
PARTS = st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS})
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.none() | TEXTS | st.lists(PARTS)}
)
ORDINARY = st.fixed_dictionaries(
    {"model": TEXTS, "messages": st.lists(MESSAGES, max_size=20)},
    optional={
        "n": st.integers(1, 8),
        "max_tokens": st.integers(1, 4096),
        "top_logprobs": st.integers(0, 20),
        "stop": TEXTS | st.lists(TEXTS, max_size=4),
        "metadata": st.dictionaries(TEXTS, TEXTS, max_size=16),
        "tools": st.lists(st.just(TOOL), max_size=5),
    },
)


@given(ORDINARY)
def test_ordinary_requests_pass(body: dict[str, Any]) -> None:
    assert refused(CHAT, body) is None
    assert refused(RESPONSES, {**body, "input": body["messages"]}) is None
    assert refused(EMBEDDINGS, {"input": [str(each) for each in body["messages"]]}) is None


@given(st.recursive(st.none() | st.integers() | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_any_members_are_judged_without_an_error_of_ours(value: Any) -> None:
    names = (
        "messages",
        "input",
        "prompt",
        "tools",
        "n",
        "logprobs",
        "stop",
        "logit_bias",
        "structured_outputs",
        "text",
    )
    for endpoint in ENDPOINTS:
        refused(endpoint, dict.fromkeys(names, value))


def test_texts_may_hold_any_number_of_braces_and_commas() -> None:
    limits = RequestLimits(values=1000, containers=100)
    body = {"messages": [{"role": "user", "content": '{"a": [1, 2], "\\": "\\\\"},' * 5000}]}
    assert refused(CHAT, body, limits) is None
    with pytest.raises(RequestRefused, match="objects and arrays"):
        check_text(b'{"a\\\\":[' + b"{}," * 200 + b"{}]}", limits)


SIZE = 16 * 1024 * 1024
HOSTILE = {
    "braces": b"{}," * (SIZE // 3),
    "brackets": b"[" * SIZE,
    "texts": b'"a",' * (SIZE // 4),
    "texts of braces": b'"{",' * (SIZE // 4),
    "numbers": b"1," * (SIZE // 2),
    "escapes": b'{"a":"' + b"\\n" * (SIZE // 2) + b'"}',
    "quotes": b'{"a":"' + b'\\"{' * (SIZE // 3) + b'"}',
    "one text": b'{"a":"' + b"x" * SIZE + b'"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_16_mb_are_looked_over_in_a_fifth_of_a_second_of_the_cpu(name: str) -> None:
    started = time.process_time()
    with contextlib.suppress(RequestRefused):
        check_text(HOSTILE[name], LIMITS)
    assert time.process_time() - started < 1  # 0.2 s where nothing else runs


# Both paths


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"messages": [USER], "n": 129}, "limit_exceeded", "n"),
        ({"messages": [{}]}, "invalid_type", "messages[0]"),
        ({"messages": [], "x": nested(300)}, "limit_exceeded", None),
        ({"messages": [], **constrained({"$ref": "#"})}, "invalid_json_schema", "response_format"),
    ],
)
async def test_an_online_request_is_a_400_and_a_line_has_a_fault_of_its_own(
    client: httpx2.AsyncClient, engines: FakeEngines, body: dict[str, Any], code: str, param: str | None
) -> None:
    answer = await client.post(CHAT, json={"model": "good", **body})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert engines.calls == []
    bad = line("b", **{f"body_{name}": value for name, value in body.items()})
    found = await validated(file_of(line("a"), bad, line("c")))
    assert marks(found) == [(code, 2, "body" if param is None else f"body.{param}")]
    assert found.faults[0].message == error["message"]


def test_a_limit_is_a_setting() -> None:
    settings = Settings.load({"models": [{"id": "m", "source": "x"}], "requests": {"messages": 1}}, {})
    assert refused(CHAT, {"messages": [USER]}, settings.requests) is None
    assert refused(CHAT, {"messages": [USER] * 2}, settings.requests) is not None
