"""A server without keys is for this machine's own users, and not for the pages that their browsers show."""

import json

import httpx2
import pytest

from tests.unit.fakes import JSON, MakeClient, error_of

PAGE = "https://page.example"
FORM = {"content-type": "application/x-www-form-urlencoded"}
HERE = ("localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:80", "127.8.9.1:8000", "[::1]", "[::1]:8000")
ELSEWHERE = ("page.example", "localhost.page.example", "127.0.0.1.page.example:8000", "10.0.0.1", "[::2]", "", "[", "0")


@pytest.mark.parametrize("host", HERE)
async def test_it_is_asked_by_a_name_of_this_machine(client: httpx2.AsyncClient, host: str) -> None:
    assert (await client.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ELSEWHERE)
async def test_a_name_that_a_page_rebound_is_refused(client: httpx2.AsyncClient, host: str) -> None:
    for path in ("/v1/models", "/health", "/metrics"):
        answer = await client.get(path, headers={"host": host})
        assert (answer.status_code, error_of(answer)["code"]) == (421, "host_not_allowed")


async def test_one_good_name_does_not_hide_another(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/v1/models", headers=[("host", "localhost"), ("host", "page.example")])
    assert answer.status_code == 421


@pytest.mark.parametrize("origin", [PAGE, "null", "file://", "http://localhost.page.example", "http://10.0.0.1"])
async def test_pages_of_other_sites_are_refused(client: httpx2.AsyncClient, origin: str) -> None:
    headers = {**JSON, "origin": origin}
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/batches"), ("DELETE", "/v1/files/file-1")):
        answer = await client.request(method, path, headers=headers)
        assert (answer.status_code, error_of(answer)["code"]) == (403, "origin_not_allowed")


async def test_a_page_that_sends_a_form_with_a_file_is_refused(client: httpx2.AsyncClient) -> None:
    for headers in ({"origin": PAGE}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
        answer = await client.post(
            "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"{}\n")}, headers=headers
        )
        assert (answer.status_code, error_of(answer)["code"]) == (403, "origin_not_allowed")
    assert (await client.get("/v1/files")).json()["data"] == []


async def test_pages_of_this_machine_and_those_that_the_config_names_may_use_it(make_client: MakeClient) -> None:
    client = make_client(cors_origins=[PAGE])
    for origin in (PAGE, "http://localhost:3000", "http://127.0.0.1:8000", "https://[::1]"):
        headers = {"origin": origin, "sec-fetch-site": "cross-site"}
        answer = await client.post("/v1/chat/completions", json={"model": "good"}, headers=headers)
        assert answer.status_code == 200
    anybody = make_client(cors_origins=["*"])
    assert (await anybody.get("/v1/models", headers={"origin": "null"})).status_code == 200


async def test_a_link_from_another_site_may_be_followed(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/health", headers={"sec-fetch-site": "cross-site"})).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_taken_as_what_it_is(client: httpx2.AsyncClient, kind: str) -> None:
    body = json.dumps({"model": "good"}).encode()
    answer = await client.post("/v1/chat/completions", content=body, headers={"content-type": kind})
    assert answer.status_code == 200


@pytest.mark.parametrize("kind", [*FORM.values(), "text/plain", "multipart/form-data; boundary=b", "", None])
async def test_what_a_form_may_send_is_refused_with_what_to_write(client: httpx2.AsyncClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = await client.post("/v1/chat/completions", content=b'{"model": "good"}', headers=headers)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (415, "unsupported_content_type")
    assert "-H 'Content-Type: application/json'" in error["message"]


async def test_without_a_body_no_content_type_is_needed(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/v1/batches/batch_none/cancel")).status_code == 404


async def test_with_keys_none_of_this_is_asked(make_client: MakeClient) -> None:
    client = make_client(api_keys=["k"])
    headers = {"authorization": "Bearer k", "host": "batch.example", "origin": PAGE, **FORM}
    answer = await client.post("/v1/chat/completions", content=b'{"model": "good"}', headers=headers)
    assert answer.status_code == 200
