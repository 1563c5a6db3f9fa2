"""/metrics."""

from collections.abc import Callable

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from app.api.metrics import GATEWAY
from app.errors import StoreUnavailable
from app.store import Store
from tests.unit.fakes import FakeHealth, Upload, client_of

Sample = tuple[str, frozenset[tuple[str, str]]]


async def scraped(client: httpx2.AsyncClient) -> dict[Sample, float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def sample(name: str, **labels: str) -> Sample:
    return f"batchyard_{name}", frozenset(labels.items())


def counted(name: str, **labels: str) -> Sample:
    return sample(name, gateway=GATEWAY, **labels)


async def test_requests_are_counted_by_route_and_not_by_path(client: httpx2.AsyncClient) -> None:
    for path in ("/v1/files/a", "/v1/files/b", "/nowhere", "/elsewhere"):
        await client.get(path)
    await client.put("/v1/files")
    await client.request("BREW", "/v1/models/a/b")
    metrics = await scraped(client)
    assert metrics[counted("http_requests_total", route="/v1/files/{file_id}", method="GET", status="404")] == 2
    assert metrics[counted("http_requests_total", route="none", method="GET", status="404")] == 2
    assert metrics[counted("http_requests_total", route="/v1/files", method="PUT", status="405")] == 1
    assert metrics[counted("http_requests_total", route="/v1/models/{model}", method="other", status="405")] == 1
    assert metrics[counted("http_request_seconds_count", route="/v1/files/{file_id}", method="GET")] == 2


async def test_queue_and_replicas_are_as_they_are_at_the_scrape(
    client: httpx2.AsyncClient, health: FakeHealth, upload: Upload
) -> None:
    file = await upload()
    body = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    await client.post("/v1/batches", json=body)
    health.set("good", 1, target=2, restarts_last_hour=3, restarts_counted=2)
    metrics = await scraped(client)
    assert metrics[sample("batches", status="validating")] == 1
    assert metrics[sample("batches", status="completed")] == 0
    assert metrics[sample("queued_lines")] == 1
    assert metrics[sample("store_up")] == 1
    assert metrics[sample("replicas_healthy", model="good")] == 1
    assert metrics[sample("replicas_target", model="good")] == 2
    assert metrics[sample("model_restarts_last_hour", model="good")] == 3
    assert metrics[sample("model_restarts_counted", model="good")] == 2


async def test_a_scrape_outlives_the_database(
    client: httpx2.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def counts() -> dict[str, int]:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "counts", counts)
    metrics = await scraped(client)
    assert metrics[sample("store_up")] == 0
    assert sample("queued_lines") not in metrics
    assert metrics[sample("replicas_healthy", model="good")] == 1


async def test_two_apps_count_for_themselves(make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app()) as one, client_of(make_app()) as other:
        await one.get("/livez")
        livez = counted("http_requests_total", route="/livez", method="GET", status="200")
        assert livez in await scraped(one)
        assert livez not in await scraped(other)
