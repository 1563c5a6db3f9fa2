"""While no replica of its model is healthy, a batch is refused, with words and fast."""

import json
import time
from statistics import median
from typing import Any

import httpx2
import pytest

from app.objects import Objects
from tests.unit.fakes import FakeHealth, Upload, error_of


def line(model: object = "good", padding: str = "") -> bytes:
    body = {"messages": [padding], "model": model}
    return (
        json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}).encode() + b"\n"
    )


async def post(client: httpx2.AsyncClient, file_id: str) -> httpx2.Response:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return await client.post("/v1/batches", json=body)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "not ready since this server started"),
        ({"starting": "starting its process"}, "not ready since this server started, starting its process"),
        ({"reason": "No GPU is free."}, "not ready since this server started, No GPU is free"),
        ({"last_healthy_seconds_ago": 37.4}, "last healthy 37 s ago, restarting"),
        (
            {"last_healthy_seconds_ago": 37.4, "restarts_last_hour": 5, "restarts_counted": 2},
            "last healthy 37 s ago, restarting, 2 of 10 restarts this hour",
        ),
        (
            {"last_healthy_seconds_ago": 3.0, "restarts_counted": 1, "reason": "no such folder."},
            "last healthy 3 s ago, no such folder, 1 of 10 restarts this hour",
        ),
        (
            {"last_healthy_seconds_ago": 3.0, "restarts_counted": 10, "restarts_refill_at": 1_700_000_000.0},
            "last healthy 3 s ago, restart_budget_spent: 10 restarts this hour and 10 are allowed, the next may be at "
            "22:13:20 UTC, or at once after `batchyard restarts reset good`",
        ),
    ],
)
async def test_without_a_healthy_replica_a_batch_is_a_503_that_says_what_is_known(
    client: httpx2.AsyncClient, upload: Upload, health: FakeHealth, known: dict[str, Any], words: str
) -> None:
    file = await upload(line())
    health.set("good", 0, **known)
    answer = await post(client, file["id"])
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    error = error_of(answer)
    assert error["message"] == f"No healthy replica for model good ({words}). Cannot accept batches."
    assert (error["type"], error["code"]) == ("service_unavailable_error", "model_unavailable")
    assert (await client.get("/v1/batches")).json()["data"] == []


async def test_one_healthy_replica_of_two_is_enough(
    client: httpx2.AsyncClient, upload: Upload, health: FakeHealth
) -> None:
    file = await upload(line())
    health.set("good", 1, target=2)
    assert (await post(client, file["id"])).status_code == 200


async def test_an_adapter_lives_and_dies_with_its_model(
    client: httpx2.AsyncClient, upload: Upload, health: FakeHealth
) -> None:
    file = await upload(line("polite"))
    health.set("good", 0)
    assert (await post(client, file["id"])).status_code == 503
    health.set("good", 1)
    health.set("other/model", 0)
    assert (await post(client, file["id"])).status_code == 200


async def test_another_models_death_is_no_reason(
    client: httpx2.AsyncClient, upload: Upload, health: FakeHealth
) -> None:
    file, other = await upload(line()), await upload(line("other/model"))
    health.set("other/model", 0)
    assert (await post(client, file["id"])).status_code == 200
    assert (await post(client, other["id"])).status_code == 503


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n \r\n\n",
        b"not JSON\n" + line(),
        b'{"custom_id":"a"}\n',
        line("unknown"),
        line(7),
        line(None),
    ],
)
async def test_what_validation_will_fail_is_not_held_up(
    client: httpx2.AsyncClient, upload: Upload, health: FakeHealth, content: bytes
) -> None:
    file = await upload(content)
    health.set("good", 0)
    answer = await post(client, file["id"])
    assert (answer.status_code, answer.json()["status"]) == (200, "validating")


@pytest.mark.parametrize(
    "content",
    [
        line().rstrip(),
        b"\xef\xbb\xbf" + line(),
        b"\xef\xbb\xbf\r\n" + line(),
        b"\r\n\n  \n" + line() + b"nonsense",
        b"\n" * 70_000 + line(),
        line(padding="x" * 3_000_000) + line("unknown"),
    ],
)
async def test_the_first_line_is_found_wherever_it_is(
    client: httpx2.AsyncClient, upload: Upload, health: FakeHealth, content: bytes
) -> None:
    file = await upload(content)
    health.set("good", 0)
    assert (await post(client, file["id"])).status_code == 503


async def test_a_file_whose_content_is_gone_is_left_to_validation(
    client: httpx2.AsyncClient, upload: Upload, health: FakeHealth, objects: Objects
) -> None:
    file = await upload(line())
    await objects.delete(f"files/{file['id']}")
    health.set("good", 0)
    assert (await post(client, file["id"])).status_code == 200


async def test_what_needs_no_engine_goes_on(client: httpx2.AsyncClient, upload: Upload, health: FakeHealth) -> None:
    file = await upload(line())
    batch = (await post(client, file["id"])).json()
    health.set("good", 0)
    health.set("other/model", 0)
    await upload(line())
    for path in ("/v1/files", f"/v1/files/{file['id']}/content", "/v1/batches", f"/v1/batches/{batch['id']}/results"):
        assert (await client.get(path)).status_code == 200
    assert (await client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"])
async def test_the_same_holds_for_single_requests(client: httpx2.AsyncClient, health: FakeHealth, path: str) -> None:
    health.set("good", 0, last_healthy_seconds_ago=5)
    answer = await client.post(path, json={"model": "good"})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "model_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert error_of(answer)["message"].endswith("Cannot accept requests.")


async def test_a_refusal_is_fast(client: httpx2.AsyncClient, upload: Upload, health: FakeHealth) -> None:
    file = await upload(line() * 10_000)
    health.set("good", 0)
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        assert (await post(client, file["id"])).status_code == 503
        seconds.append(time.perf_counter() - start)
    assert median(seconds) < 0.02
