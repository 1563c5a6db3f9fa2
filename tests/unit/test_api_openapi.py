"""/openapi.json: it describes what is there, and OpenAI's part of it is OpenAI's."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

OPENAI = json.loads((Path(__file__).parents[1] / "openai_batch_api.json").read_bytes())


@pytest.fixture
async def described(client: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/openapi.json")
    found: dict[str, Any] = answer.json()
    return found


def test_every_route_is_described_and_no_other(described: dict[str, Any], app: Starlette) -> None:
    routes = {
        (route.path_format, method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, item in described["paths"].items() for method in item} == routes


def test_the_part_of_openai_is_unchanged(described: dict[str, Any]) -> None:
    for path, item in OPENAI["paths"].items():
        assert described["paths"][path] == item
    for name, schema in OPENAI["components"]["schemas"].items():
        assert described["components"]["schemas"][name] == schema


def test_the_version_is_ours(described: dict[str, Any]) -> None:
    assert (described["info"]["title"], described["info"]["version"]) == ("Batchyard", "0.1.0")
