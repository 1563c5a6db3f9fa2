"""What a person does once the watchdog has stopped."""

import httpx2

from app.store import Batch, Store
from tests.unit.fakes import MakeClient, Upload, error_of


async def test_a_reset_lifts_the_models_budget(client: httpx2.AsyncClient, store: Store) -> None:
    for starter in ("first", "second"):
        await store.ask_to_start("good", starter, deploy="d", planned=1, budget=1)
    assert (await store.restarts("good", 1)).refills_at is not None
    answer = await client.post("/admin/models/good/restarts/reset")
    assert (answer.status_code, answer.json()) == (200, {"model": "good", "restart_budget": 10})
    assert (await store.restarts("good", 1)).refills_at is None


async def test_where_no_restart_counts_a_reset_says_that_there_is_nothing_to_do(
    client: httpx2.AsyncClient, store: Store
) -> None:
    await store.ask_to_start("good", "first", deploy="d", planned=1, budget=1)
    answer = await client.post("/admin/models/good/restarts/reset")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert error_of(answer)["code"] == "nothing_to_do"
    assert error_of(answer)["message"] == (
        "None of the 10 restarts an hour of model good is used. There is nothing to do."
    )


async def test_a_budget_of_none_cannot_be_lifted(make_client: MakeClient) -> None:
    answer = await make_client(restarts_per_hour=0).post("/admin/models/good/restarts/reset")
    assert answer.status_code == 409
    assert "restarts_per_hour is 0" in error_of(answer)["message"]


async def test_a_model_that_is_not_served_has_no_budget(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/admin/models/other/restarts/reset")
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found"


async def paused_batch(store: Store, file_id: str) -> str:
    batch = Batch("batch_1", "default", "in_progress", "/v1/x", file_id, "24h", 0, 2**40, engine_losses=9, paused_at=1)
    return (await store.create_batch(batch, queued_lines_limit=10)).id


async def test_a_paused_batch_says_so_until_it_is_resumed(
    client: httpx2.AsyncClient, store: Store, upload: Upload
) -> None:
    batch_id = await paused_batch(store, (await upload())["id"])
    [error] = (await client.get(f"/v1/batches/{batch_id}")).json()["errors"]["data"]
    assert error["code"] == "batch_paused"
    answer = await client.post(f"/admin/batches/{batch_id}/resume")
    assert (answer.status_code, answer.json()["errors"]) == (200, None)
    batch = await store.batch("default", batch_id)
    assert batch is not None and (batch.paused_at, batch.engine_losses) == (None, 0)


async def test_a_batch_that_is_not_paused_cannot_be_resumed(
    client: httpx2.AsyncClient, store: Store, upload: Upload
) -> None:
    batch_id = await paused_batch(store, (await upload())["id"])
    await client.post(f"/admin/batches/{batch_id}/resume")
    answer = await client.post(f"/admin/batches/{batch_id}/resume")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "nothing_to_do")
    assert error_of(answer)["message"] == "Batch batch_1 is not paused, it is in_progress. There is nothing to do."


async def test_a_batch_that_is_not_there_cannot_be_resumed(client: httpx2.AsyncClient) -> None:
    assert error_of(await client.post("/admin/batches/batch_9/resume"))["param"] == "id"


async def test_both_want_a_key_where_there_are_keys(make_client: MakeClient) -> None:
    client = make_client(api_keys=["k"])
    for path in ("/admin/models/good/restarts/reset", "/admin/batches/batch_9/resume"):
        assert (await client.post(path)).status_code == 401
