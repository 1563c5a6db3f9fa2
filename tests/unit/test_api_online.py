"""Single requests: passed to an engine as they came, and its answer passed back as it comes."""

import asyncio
import json
from collections.abc import Callable

import httpx2
import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from app.capabilities import Capabilities
from app.errors import EngineLost
from tests.unit.fakes import JSON, FakeEngines, MakeClient, client_of, error_of, exchange

CHAT = "/v1/chat/completions"
EVENTS = (("Content-Type", "text/event-stream; charset=utf-8"),)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses"])
async def test_a_request_reaches_the_engine_byte_for_byte(
    client: httpx2.AsyncClient, engines: FakeEngines, path: str
) -> None:
    body = b' {"model" : "other/model", "n": 1.10, "n": 1e2, "u": "\\u0041"}\n'
    headers = {"x-mine": "1", "authorization": "Bearer k", "x-request-id": "id-1", "connection": "close", **JSON}
    answer = await client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"ok": True})
    ((model, called, sent, passed),) = engines.calls
    assert (model, called, sent) == ("other/model", path, body)
    assert passed["x-mine"] == "1"
    assert passed["x-request-id"] == "id-1"
    assert not passed.keys() & {"authorization", "host", "content-length", "connection"}


async def test_an_adapter_is_run_by_its_models_engine(client: httpx2.AsyncClient, engines: FakeEngines) -> None:
    assert (await client.post(CHAT, json={"model": "polite"})).status_code == 200
    ((model, _, sent, _),) = engines.calls
    assert (model, json.loads(sent)) == ("good", {"model": "polite"})


async def test_an_engines_error_comes_through(client: httpx2.AsyncClient, engines: FakeEngines) -> None:
    engines.status, engines.parts = 400, [b'{"error":{"message":"too long"}}']
    engines.headers = (("content-type", "application/json"), ("x-own", "1"), ("Transfer-Encoding", "chunked"))
    answer = await client.post(CHAT, json={"model": "good"})
    assert (answer.status_code, answer.json()) == (400, {"error": {"message": "too long"}})
    assert answer.headers["x-own"] == "1"
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["x-request-id"].startswith("req_")


async def test_what_the_engine_says_of_other_origins_is_not_passed_on(
    client: httpx2.AsyncClient, engines: FakeEngines
) -> None:
    engines.headers = (("content-type", "application/json"), ("Access-Control-Allow-Origin", "*"))
    answer = await client.post(CHAT, json={"model": "good"}, headers={"origin": "http://localhost:3000"})
    assert answer.json() == {"ok": True}
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({}, 400, "model", "missing_required_parameter"),
        ({"model": None}, 400, "model", "missing_required_parameter"),
        ({"model": ""}, 400, "model", "invalid_value"),
        ({"model": 7}, 400, "model", "invalid_type"),
        ({"model": "unknown"}, 404, "model", "model_not_found"),
    ],
)
async def test_a_request_must_name_a_model_of_ours(
    client: httpx2.AsyncClient, engines: FakeEngines, body: object, status: int, param: str, code: str
) -> None:
    answer = await client.post(CHAT, json=body)
    assert (answer.status_code, error_of(answer)["param"], error_of(answer)["code"]) == (status, param, code)
    assert engines.calls == []


async def asked(make_app: Callable[..., Starlette], path: str, body: object) -> httpx2.Response:
    """Of models that chat, complete and know the member `foo` there."""
    known = frozenset({"model", "foo"})
    app = make_app(capabilities=lambda model: Capabilities({CHAT: known, "/v1/completions": known}))
    async with client_of(app) as client:
        return await client.post(path, json=body)


async def test_an_endpoint_that_the_model_lacks_is_refused_with_those_that_it_has(
    make_app: Callable[..., Starlette], engines: FakeEngines
) -> None:
    answer = await asked(make_app, "/v1/embeddings", {"model": "polite", "input": "x"})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (404, "endpoint_not_supported", "model")
    assert error["message"] == f"Model polite does not serve /v1/embeddings. It serves {CHAT}, /v1/completions."
    assert engines.calls == []


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        (CHAT, "guided_json", '`structured_outputs: {"json": …}`'),
        (CHAT, "extra_body", "at the top level of the body"),
        ("/v1/completions", "max_completion_tokens", "`max_tokens`"),
    ],
)
async def test_a_member_that_the_engine_would_ignore_is_refused_where_its_meaning_is_known(
    make_app: Callable[..., Starlette], engines: FakeEngines, path: str, name: str, message: str
) -> None:
    answer = await asked(make_app, path, {"model": "good", name: {"x": 1}})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", name)
    assert message in error["message"]
    assert engines.calls == []


@pytest.mark.parametrize("name", ["foo", "bar"])
async def test_other_members_pass_known_to_the_engine_or_not(make_app: Callable[..., Starlette], name: str) -> None:
    assert (await asked(make_app, CHAT, {"model": "good", name: 1, "guided_json": None})).status_code == 200


async def test_a_body_over_the_limit_is_a_413_that_names_it(make_client: MakeClient) -> None:
    client = make_client(limits={"line_bytes": 2000})
    answer = await client.post(CHAT, json={"model": "good", "x": "x" * 2000})
    assert answer.status_code == 413
    assert "2000 bytes allowed (limits.line_bytes)" in error_of(answer)["message"]


async def test_events_pass_one_by_one_as_they_are_made(app: Starlette, engines: FakeEngines) -> None:
    engines.headers, engines.parts = EVENTS, [b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"]
    wire = await exchange(app, "POST", CHAT, [b'{"model":"good","stream":true}'])
    assert dict(wire.sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert [message["body"] for message in wire.sent[1:]] == [*engines.parts, b""]
    assert engines.closed


async def test_an_engine_lost_among_events_is_told_by_a_last_event(app: Starlette, engines: FakeEngines) -> None:
    engines.headers, engines.parts = EVENTS, [b"data: 1\n\n", EngineLost("killed")]
    with capture_logs() as logs:
        wire = await exchange(app, "POST", CHAT, [b'{"model":"good","stream":true}'])
    first, last = wire.body.removesuffix(b"\n\n").split(b"\n\n")
    assert (wire.status, wire.whole, first) == (200, True, b"data: 1")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_lost"
    assert [(log["event"], log["reason"]) for log in logs] == [("engine lost in a stream", "killed")]


@pytest.mark.parametrize("headers", [EVENTS, ()])
async def test_an_engine_lost_before_the_first_byte_is_a_503(
    client: httpx2.AsyncClient, engines: FakeEngines, headers: tuple[tuple[str, str], ...]
) -> None:
    engines.headers, engines.parts = headers, [EngineLost("killed")]
    answer = await client.post(CHAT, json={"model": "good", "stream": True})
    assert (answer.status_code, error_of(answer)["code"], answer.headers["retry-after"]) == (503, "engine_lost", "5")
    assert engines.closed


async def test_an_engine_lost_within_another_body_cuts_the_connection(app: Starlette, engines: FakeEngines) -> None:
    engines.parts = [b'{"half":', EngineLost("killed")]
    with capture_logs():
        wire = await exchange(app, "POST", CHAT, [b'{"model":"good"}'])
    assert (wire.status, wire.whole) == (200, False)
    assert wire.error is not None


async def test_an_engine_stops_when_its_client_leaves(app: Starlette, engines: FakeEngines) -> None:
    engines.headers, engines.parts = EVENTS, [b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"]
    wire = await exchange(app, "POST", CHAT, [b'{"model":"good","stream":true}'], leaves_after=2)
    assert (len(wire.sent), wire.error) == (2, None)
    assert engines.closed


async def test_an_engine_stops_when_its_request_is_cancelled(app: Starlette, engines: FakeEngines) -> None:
    engines.headers, engines.parts = EVENTS, [b"data: 1\n\n"] * 2
    sending = asyncio.Event()

    async def send(message: object) -> None:
        sending.set()
        await asyncio.Event().wait()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b'{"model":"good"}'}

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "query_string": b""}
    scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
    request = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
    await sending.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert engines.closed
