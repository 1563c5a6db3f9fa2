"""Which pages a browser lets use the API."""

import httpx2
import pytest

from app.errors import SettingsError
from app.store import Store
from tests.unit.fakes import MakeClient, error_of

PAGE = "https://chat.example"
OTHER = "https://other.example"
ASKING = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


async def test_a_preflight_needs_no_key(make_client: MakeClient) -> None:
    client = make_client(api_keys=["k"], cors_origins=[PAGE])
    answer = await client.options("/v1/chat/completions", headers={"origin": PAGE, **ASKING})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))


async def test_pages_of_other_origins_are_refused_in_the_envelope(make_client: MakeClient) -> None:
    client = make_client(cors_origins=[PAGE])
    answer = await client.options("/v1/files", headers={"origin": OTHER, **ASKING})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in (await client.get("/v1/models", headers={"origin": OTHER})).headers


@pytest.mark.parametrize("path", ["/v1/models", "/v1/batches/unknown", "/nowhere"])
@pytest.mark.parametrize("key", ["k", "wrong"])
async def test_a_page_may_read_answers_and_errors(make_client: MakeClient, path: str, key: str) -> None:
    client = make_client(api_keys=["k"], cors_origins=[PAGE])
    answer = await client.get(path, headers={"origin": PAGE, "authorization": f"Bearer {key}"})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "Origin" in answer.headers["vary"]
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_page_may_read_the_answer_to_a_fault_that_nobody_foresaw(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(store, "list_batches", broken)
    answer = await make_client(cors_origins=[PAGE]).get("/v1/batches", headers={"origin": PAGE})
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
    assert answer.headers["access-control-allow-origin"] == PAGE


async def test_all_pages_may_where_the_setting_says_so(make_client: MakeClient) -> None:
    client = make_client(cors_origins=["*"])
    answer = await client.get("/v1/models", headers={"origin": OTHER})
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_no_page_may_unless_the_setting_says_so(client: httpx2.AsyncClient) -> None:
    for answer in (
        await client.options("/v1/files", headers={"origin": PAGE, **ASKING}),
        await client.get("/v1/models", headers={"origin": PAGE}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("wrong", ["https://chat.example/", "chat.example", "https://chat.example/page", ""])
def test_what_no_browser_sends_as_an_origin_is_refused(make_client: MakeClient, wrong: str) -> None:
    with pytest.raises(SettingsError, match="cors_origins"):
        make_client(cors_origins=[wrong])
