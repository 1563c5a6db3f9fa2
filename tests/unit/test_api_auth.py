"""Who is let in."""

import httpx2
import pytest

from tests.unit.fakes import MakeClient

NONE_GIVEN = "This server needs an API key, and none was given."

KEYS = {"api_keys": ["first-key", "zweiter-schlüssel"]}


@pytest.mark.parametrize(
    "header",
    [
        "Bearer first-key",
        "bearer first-key",
        "Bearer  first-key ",
        "Bearer zweiter-schlüssel".encode(),
    ],
)
async def test_a_known_key_is_let_in(make_client: MakeClient, header: str | bytes) -> None:
    client = make_client(**KEYS)
    answer = await client.get("/v1/models", headers=[(b"authorization", _bytes(header))])
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, NONE_GIVEN),
        ("", NONE_GIVEN),
        ("Bearer", NONE_GIVEN),
        ("Bearer  ", NONE_GIVEN),
        ("Bearer none", NONE_GIVEN),
        ("Bearer EMPTY", NONE_GIVEN),
        ("Basic first-key", NONE_GIVEN),
        ("Bearer wrong", "Incorrect API key"),
        ("Bearer first-key2", "Incorrect API key"),
        (b"Bearer \xa0first-key\xa0", "Incorrect API key"),
        ("Bearer first-key,zweiter-schlüssel".encode(), "Incorrect API key"),
        (b"Bearer \xff\xfe", "Incorrect API key"),
    ],
)
async def test_others_are_turned_away(make_client: MakeClient, header: str | bytes | None, words: str) -> None:
    client = make_client(**KEYS)
    headers = [] if header is None else [(b"authorization", _bytes(header))]
    for path in ("/v1/models", "/v1/files", "/nowhere", "/docs"):
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "x-request-id" in answer.headers
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert error["message"].startswith(words)


async def test_a_key_that_reads_like_none_is_a_key(make_client: MakeClient) -> None:
    client = make_client(api_keys=["none"])
    assert (await client.get("/v1/models", headers={"authorization": "Bearer none"})).status_code == 200


async def test_probes_need_no_key(make_client: MakeClient) -> None:
    client = make_client(**KEYS)
    for path in ("/livez", "/readyz", "/health", "/metrics", "/openapi.json"):
        assert (await client.get(path)).status_code == 200


async def test_without_keys_everybody_may_come_in(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/v1/models")).status_code == 200


def _bytes(header: str | bytes) -> bytes:
    return header if isinstance(header, bytes) else header.encode()
