"""What every answer has in common: envelope, ids, 404, 405, and failures that nobody foresaw."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from app.errors import EngineLost, ObjectsUnavailable, StoreUnavailable
from app.objects import Objects
from app.store import Store
from tests.unit.fakes import JSON, AddResultFile, FakeEngines, client_of, error_of, exchange


async def test_unknown_urls_are_named(client: httpx2.AsyncClient) -> None:
    for path in ("/x", "/v1", "/v1/files/", "/v1/batches/b/what", "/v1/files/a/content/b"):
        answer = await client.get(path)
        assert answer.status_code == 404
        assert error_of(answer)["message"].startswith(f"Unknown request URL: GET {path}.")
        assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/files", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/v1/files/file-1", "DELETE, GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/files/file-1/content", "GET, HEAD, OPTIONS"),
        ("PATCH", "/v1/batches", "GET, HEAD, OPTIONS, POST"),
        ("GET", "/v1/batches/b/cancel", "OPTIONS, POST"),
        ("HEAD", "/v1/chat/completions", "OPTIONS, POST"),
        ("BREW", "/health", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_405_allows_all_methods_of_the_path(
    client: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert error_of(answer)["message"] == f"Not allowed to {method} on {path}. Allowed: {allowed}."
    options = await client.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, allowed)


async def test_head_answers_like_get_without_a_body(client: httpx2.AsyncClient) -> None:
    get, head = await client.get("/v1/models"), await client.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


async def test_every_answer_has_an_id_and_its_time(client: httpx2.AsyncClient) -> None:
    answers = [await client.get("/v1/models"), await client.get("/nowhere"), await client.put("/v1/files")]
    for answer in answers:
        assert re.fullmatch("req_[0-9a-f]{32}", answer.headers["x-request-id"])
        assert int(answer.headers["openai-processing-ms"]) >= 0
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 128])
async def test_a_sane_request_id_of_the_client_is_kept(client: httpx2.AsyncClient, given: str) -> None:
    answer = await client.get("/livez", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "é", "<script>", "a\n"])
async def test_other_request_ids_are_replaced(app: Starlette, given: str) -> None:
    wire = await exchange(app, "GET", "/livez", [], headers={"x-request-id": given})
    assert dict(wire.sent[0]["headers"])[b"x-request-id"].startswith(b"req_")


class Broken(Store):
    """Every look at the batches fails with `error`."""

    error: Exception = RuntimeError("secret detail")

    async def list_batches(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error


@pytest.fixture
def broken(store: Store) -> Store:
    store.__class__ = Broken  # the same open database
    return store


async def test_what_nobody_foresaw_is_logged_and_told_without_internals(
    make_app: Callable[..., Starlette], broken: Broken
) -> None:
    with capture_logs() as logs:
        async with client_of(make_app(store=broken)) as client:
            answer = await client.get("/v1/batches", headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine"
    assert (error_of(answer)["type"], error_of(answer)["code"]) == ("server_error", "internal_error")
    assert "secret" not in answer.text
    assert [(log["event"], log["request_id"], log["exc_info"]) for log in logs] == [("request failed", "mine", True)]


async def test_a_store_that_is_away_is_a_503_with_reason(make_app: Callable[..., Starlette], broken: Broken) -> None:
    broken.error = StoreUnavailable("The database did not answer: database is locked\nmore\ndetail")
    async with client_of(make_app(store=broken)) as client:
        answer = await client.get("/v1/batches")
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    error = error_of(answer)
    assert error["message"] == "The database did not answer: database is locked"
    assert (error["type"], error["code"]) == ("service_unavailable_error", "store_unavailable")


class BrokenObjects(Objects):
    async def put(self, key: str, data: object) -> None:
        raise ObjectsUnavailable("The object store is full")

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        yield b"a part"
        raise ObjectsUnavailable("The object store went away")


async def test_an_object_store_that_is_away_is_a_503_and_keeps_no_row(
    make_app: Callable[..., Starlette], objects: Objects, client: httpx2.AsyncClient
) -> None:
    objects.__class__ = BrokenObjects
    answer = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": b"x"})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "objects_unavailable")
    assert "full" in error_of(answer)["message"]
    assert (await client.get("/v1/files")).json()["data"] == []


async def test_an_answer_that_breaks_off_is_not_ended_well(
    app: Starlette, objects: Objects, add_result_file: AddResultFile
) -> None:
    await add_result_file("file-1", b"a part and another")
    objects.__class__ = BrokenObjects
    with capture_logs() as logs:
        wire = await exchange(app, "GET", "/v1/files/file-1/content", [])
    assert (wire.status, wire.body, wire.whole) == (200, b"a part", False)
    assert wire.error is not None  # which makes the server cut the connection
    assert (logs[-1]["event"], logs[-1]["log_level"]) == ("answer cut off", "warning")


async def test_a_lost_engine_is_a_503(client: httpx2.AsyncClient, engines: FakeEngines) -> None:
    engines.parts = [EngineLost("killed")]
    answer = await client.post("/v1/completions", json={"model": "good"})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "engine_lost")
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"nope",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"input_file_id": "\\ud800"}',
        b"[]",
        b'"text"',
    ],
)
async def test_a_body_that_is_no_json_object_is_a_400(client: httpx2.AsyncClient, body: bytes) -> None:
    for path in ("/v1/batches", "/v1/embeddings"):
        answer = await client.post(path, content=body, headers=JSON)
        assert answer.status_code == 400, answer.text
        assert error_of(answer)["code"] == "invalid_json"


async def test_a_body_that_is_too_large_is_a_413_announced_or_not(client: httpx2.AsyncClient) -> None:
    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    for body in (b" " * 2_000_000, unannounced()):
        answer = await client.post("/v1/batches", content=body, headers=JSON)
        assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


async def test_a_client_that_leaves_is_neither_an_error_nor_an_answer(app: Starlette) -> None:
    with capture_logs() as logs:
        wire = await exchange(app, "POST", "/v1/batches", [b'{"input'], cut_off=True)
    assert (wire.status, wire.error) == (None, None)
    assert [log["event"] for log in logs] == ["client left"]
    metrics = await exchange(app, "GET", "/metrics", [])
    assert b',method="POST",route="/v1/batches",status="499"} 1.0' in metrics.body
