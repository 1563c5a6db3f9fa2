"""/v1/batches: create, list, look up, cancel, results; the gate has a file of its own."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from app.store import Batch, SegmentDraft, Store, Usage
from tests.unit.batches import CHAT, LINE, claimed, create, started, wanted
from tests.unit.fakes import JSON, START, Clock, MakeClient, Upload, client_of, error_of


async def test_a_new_batch_has_every_member(client: httpx2.AsyncClient, upload: Upload) -> None:
    file = await upload(LINE)
    batch = await create(client, file["id"], metadata={"k": "v"}, output_expires_after=_after(7200))
    assert len(batch["id"]) == len("batch_") + 24
    assert batch == {
        "id": batch["id"],
        "object": "batch",
        "endpoint": CHAT,
        "model": None,
        "errors": None,
        "input_file_id": file["id"],
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": START,
        "in_progress_at": None,
        "expires_at": START + 86400,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": None,
        "metadata": {"k": "v"},
        "warnings": None,
        "error_summary": None,
    }
    assert (await client.get(f"/v1/batches/{batch['id']}")).json() == batch


async def test_the_wish_for_the_outputs_time_reaches_the_store(
    client: httpx2.AsyncClient, upload: Upload, store: Store
) -> None:
    await create(client, (await upload(LINE))["id"], output_expires_after=_after(7200.0))
    assert (await claimed(store)).batch.output_expires_after == 7200


async def test_an_optional_member_that_is_null_is_absent(client: httpx2.AsyncClient, upload: Upload) -> None:
    file = (await upload(LINE))["id"]
    key = {"idempotency-key": "k"}
    wanted = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    first = await client.post("/v1/batches", json=wanted, headers=key)
    nulls = {**wanted, "metadata": None, "output_expires_after": None}
    again = await client.post("/v1/batches", json=nulls, headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()


async def test_a_running_batch_shows_model_counts_and_usage(
    client: httpx2.AsyncClient, upload: Upload, store: Store
) -> None:
    batch = await create(client, (await upload(LINE))["id"])
    await started(store)
    claims = await store.claim_shards("owner", 60, "good", 1)
    usage = Usage(input_tokens=10, cached_tokens=4, output_tokens=5, reasoning_tokens=2)
    await store.record([SegmentDraft(claims[0], "key", 0, 1, (0, 1), frozenset({1}), usage)])
    shown = (await client.get(f"/v1/batches/{batch['id']}")).json()
    assert (shown["status"], shown["model"], shown["in_progress_at"]) == ("in_progress", "good", START)
    assert shown["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert shown["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }


@pytest.mark.parametrize("fault", ["unknown file", "wrong purpose", "deleted file"])
async def test_a_batch_without_a_usable_file_has_failed_at_once(
    client: httpx2.AsyncClient, upload: Upload, fault: str, store: Store
) -> None:
    file_id = "file-unknown"
    if fault != "unknown file":
        file_id = (await upload(LINE, purpose="vision" if fault == "wrong purpose" else "batch"))["id"]
    if fault == "deleted file":
        await client.delete(f"/v1/files/{file_id}")
    batch = await create(client, file_id)
    assert (batch["status"], batch["failed_at"]) == ("failed", START)
    (error,) = batch["errors"]["data"]
    assert batch["errors"]["object"] == "list"
    assert (error["code"], error["param"], error["line"]) == ("invalid_request", "file_id", None)
    assert file_id in error["message"]
    assert (await client.get(f"/v1/batches/{batch['id']}")).json() == batch
    assert await store.claim_new_batch("owner", 60) is None


def _after(seconds: object, anchor: object = "created_at") -> dict[str, object]:
    return {"anchor": anchor, "seconds": seconds}


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"endpoint": "/v1/nonsense"}, "endpoint", "invalid_value"),
        ({"endpoint": ""}, "endpoint", "invalid_value"),
        ({"endpoint": "/v1/moderations"}, "endpoint", "invalid_value"),
        ({"endpoint": "/v1/images/generations"}, "endpoint", "invalid_value"),
        ({"endpoint": None}, "endpoint", "invalid_type"),
        ({"endpoint": 7}, "endpoint", "invalid_type"),
        ({"completion_window": "1h"}, "completion_window", "invalid_value"),
        ({"completion_window": "48h"}, "completion_window", "invalid_value"),
        ({"completion_window": ""}, "completion_window", "invalid_value"),
        ({"completion_window": 24}, "completion_window", "invalid_type"),
        ({"input_file_id": ""}, "input_file_id", "invalid_value"),
        ({"input_file_id": "f" * 65}, "input_file_id", "invalid_value"),
        ({"input_file_id": ["file-1"]}, "input_file_id", "invalid_type"),
        ({"metadata": []}, "metadata", "invalid_type"),
        ({"metadata": "text"}, "metadata", "invalid_type"),
        ({"metadata": {"k": 7}}, "metadata.k", "invalid_type"),
        ({"metadata": {"k": None}}, "metadata.k", "invalid_type"),
        ({"metadata": {"k": True}}, "metadata.k", "invalid_type"),
        ({"metadata": {"k": {}}}, "metadata.k", "invalid_type"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 64, "string_above_max_length"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "object_above_max_properties"),
        ({"output_expires_after": 3600}, "output_expires_after", "invalid_type"),
        ({"output_expires_after": {}}, "output_expires_after.anchor", "missing_required_parameter"),
        ({"output_expires_after": _after(3600, "x")}, "output_expires_after.anchor", "invalid_value"),
        (
            {"output_expires_after": {"anchor": "created_at"}},
            "output_expires_after.seconds",
            "missing_required_parameter",
        ),
        ({"output_expires_after": _after(3599)}, "output_expires_after.seconds", "invalid_value"),
        ({"output_expires_after": _after(2592001)}, "output_expires_after.seconds", "invalid_value"),
        ({"output_expires_after": _after("3600")}, "output_expires_after.seconds", "invalid_type"),
        ({"output_expires_after": _after(True)}, "output_expires_after.seconds", "invalid_type"),
        ({"output_expires_after": _after(3600.5)}, "output_expires_after.seconds", "invalid_type"),
        (
            {"output_expires_after": {**_after(3600), "from": 1}},
            "output_expires_after.from",
            "unknown_parameter",
        ),
        ({"priority": 1}, "priority", "unknown_parameter"),
    ],
)
async def test_a_wrong_request_is_a_400_that_names_the_member(
    client: httpx2.AsyncClient, members: dict[str, Any], param: str, code: str
) -> None:
    answer = await client.post("/v1/batches", json=wanted("file-1", **members))
    assert (answer.status_code, error_of(answer)["param"], error_of(answer)["code"]) == (400, param, code)
    assert (await client.get("/v1/batches")).json()["data"] == []


@pytest.mark.parametrize("member", ["input_file_id", "endpoint", "completion_window"])
async def test_a_missing_member_is_a_400(client: httpx2.AsyncClient, member: str) -> None:
    body = {name: value for name, value in wanted("file-1").items() if name != member}
    error = error_of(await client.post("/v1/batches", json=body))
    assert error["message"] == f"Missing required parameter: '{member}'."
    assert (error["param"], error["code"]) == (member, "missing_required_parameter")


async def test_a_wrong_endpoint_is_told_the_right_ones(client: httpx2.AsyncClient) -> None:
    error = error_of(await client.post("/v1/batches", json=wanted("file-1", endpoint="/v1/videos")))
    assert error["message"] == (
        "Invalid endpoint: '/v1/videos'. Supported values: "
        "'/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/responses'."
    )


async def test_the_most_that_metadata_may_hold(client: httpx2.AsyncClient, upload: Upload) -> None:
    metadata = {f"{number:02}" + "ü" * 62: "😀" * 512 for number in range(16)}
    assert (await create(client, (await upload(LINE))["id"], metadata=metadata))["metadata"] == metadata
    assert (await create(client, (await upload(LINE))["id"], metadata=None))["metadata"] is None
    assert (await create(client, (await upload(LINE))["id"], metadata={}))["metadata"] == {}


async def test_a_full_queue_is_a_429_that_names_the_limit(
    make_client: MakeClient, client: httpx2.AsyncClient, upload: Upload, store: Store
) -> None:
    file = await upload(LINE)
    await create(client, file["id"])
    await started(store, lines=7)
    answer = await make_client(limits={"queued_lines": 7}).post("/v1/batches", json=wanted(file["id"]))
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    assert "7 lines" in error["message"] and "limits.queued_lines" in error["message"]


async def test_batches_that_come_faster_than_they_are_validated_fill_the_queue_too(
    make_client: MakeClient, upload: Upload
) -> None:
    file, client = await upload(3 * LINE), make_client(limits={"queued_lines": 5})
    answers = [(await client.post("/v1/batches", json=wanted(file["id"]))).status_code for _ in range(3)]
    assert answers == [200, 200, 429]


# Idempotency-Key


async def test_the_same_key_and_body_give_the_same_batch_as_it_is_now(
    client: httpx2.AsyncClient, upload: Upload, store: Store
) -> None:
    file = await upload(LINE)
    headers = {"idempotency-key": "k"}
    body = wanted(file["id"], metadata={"a": "1", "b": "2"})
    first = await client.post("/v1/batches", json=body, headers=headers)
    await started(store)
    in_other_words = json.dumps({**dict(reversed(body.items())), "metadata": {"b": "2", "a": "1"}}, indent=4)
    again = await client.post("/v1/batches", content=in_other_words, headers={**headers, **JSON})
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["status"] == "in_progress"
    assert len((await client.get("/v1/batches")).json()["data"]) == 1


async def test_a_replay_needs_neither_the_file_nor_a_healthy_replica(
    client: httpx2.AsyncClient, upload: Upload, health: Any, clock: Clock
) -> None:
    file = await upload(LINE)
    headers = {"idempotency-key": "k"}
    first = await client.post("/v1/batches", json=wanted(file["id"]), headers=headers)
    health.set("good", 0)
    clock.now += 40 * 86400
    assert (await client.post("/v1/batches", json=wanted(file["id"]), headers=headers)).json() == first.json()


async def test_the_same_key_with_another_body_is_a_409(client: httpx2.AsyncClient, upload: Upload) -> None:
    file = await upload(LINE)
    headers = {"idempotency-key": "k"}
    await client.post("/v1/batches", json=wanted(file["id"]), headers=headers)
    answer = await client.post("/v1/batches", json=wanted(file["id"], metadata={"k": "v"}), headers=headers)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert error_of(answer)["code"] == "idempotency_conflict"


async def test_one_request_sent_twice_at_once_makes_one_batch(client: httpx2.AsyncClient, upload: Upload) -> None:
    file = await upload(LINE)
    answers = await asyncio.gather(
        *(client.post("/v1/batches", json=wanted(file["id"]), headers={"idempotency-key": "k"}) for _ in range(5))
    )
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_a_refused_batch_leaves_its_key_free(client: httpx2.AsyncClient, upload: Upload, health: Any) -> None:
    file, headers = await upload(LINE), {"idempotency-key": "k"}
    health.set("good", 0)
    assert (await client.post("/v1/batches", json=wanted(file["id"]), headers=headers)).status_code == 503
    health.set("good", 1)
    assert (await client.post("/v1/batches", json=wanted(file["id"]), headers=headers)).status_code == 200


# Lists


async def test_batches_are_listed_newest_first_in_pages(client: httpx2.AsyncClient) -> None:
    ids = [(await create(client, "file-unknown"))["id"] for _ in range(25)][::-1]
    first = (await client.get("/v1/batches")).json()
    assert [batch["id"] for batch in first["data"]] == ids[:20]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[19], True)
    rest = (await client.get("/v1/batches", params={"after": ids[19], "limit": 100})).json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == (ids[20:], False)
    none = (await client.get("/v1/batches", params={"after": "batch_unknown"})).json()
    assert none == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize("limit", ["0", "-1", "101", "x", ""])
async def test_a_limit_out_of_range_is_a_400(client: httpx2.AsyncClient, limit: str) -> None:
    answer = await client.get("/v1/batches", params={"limit": limit})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "limit")


# Cancel


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/batches/{}"), ("POST", "/v1/batches/{}/cancel"), ("GET", "/v1/batches/{}/results")],
)
@pytest.mark.parametrize("batch_id", ["batch_unknown", "x", "%00"])
async def test_an_unknown_batch_is_a_404(client: httpx2.AsyncClient, method: str, path: str, batch_id: str) -> None:
    answer = await client.request(method, path.format(batch_id))
    assert (answer.status_code, error_of(answer)["param"]) == (404, "id")
    assert error_of(answer)["message"].startswith("No batch found with id '")


async def test_a_batch_may_be_cancelled_again_and_again(
    client: httpx2.AsyncClient, upload: Upload, store: Store
) -> None:
    batch = await create(client, (await upload(LINE))["id"])
    path = f"/v1/batches/{batch['id']}/cancel"
    # As the openai client sends it: a JSON body that is not there.
    answer = await client.post(path, headers={"content-type": "application/json", "content-length": "0"})
    assert (answer.status_code, answer.json()["status"], answer.json()["cancelling_at"]) == (200, "cancelling", START)
    assert (await client.post(path)).json() == answer.json()
    claim = await store.claim_ended_batch("owner", 60)
    assert claim is not None and await store.finish_batch(claim, None, None)
    answer = await client.post(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


@pytest.mark.parametrize("status", ["completed", "failed", "expired"])
async def test_a_finished_batch_cannot_be_cancelled(client: httpx2.AsyncClient, store: Store, status: str) -> None:
    await store.create_batch(
        Batch("batch_1", "default", status, CHAT, "file-1", "24h", START, START + 86400), queued_lines_limit=1
    )
    answer = await client.post("/v1/batches/batch_1/cancel")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    error = error_of(answer)
    assert error["message"] == f"Cannot cancel a batch with status '{status}'."
    assert (error["type"], error["code"]) == ("invalid_request_error", None)


async def test_each_new_batch_is_told_once(make_app: Callable[..., Starlette], upload: Upload) -> None:
    told: list[bool] = []
    file_id = (await upload(LINE))["id"]
    async with client_of(make_app(batch_created=lambda: told.append(True))) as client:
        for _ in range(2):
            answer = await client.post("/v1/batches", json=wanted(file_id), headers={"idempotency-key": "once"})
            assert answer.status_code == 200
    assert told == [True]
