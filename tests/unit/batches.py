"""Batches as the tests of the API make them."""

from typing import Any

import httpx2

from app.store import Batch, BatchClaim, ShardPlan, Store

CHAT = "/v1/chat/completions"
LINE = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"good"}}\n'


def wanted(file_id: str, **members: Any) -> dict[str, Any]:
    return {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **members}


async def create(client: httpx2.AsyncClient, file_id: str, **members: Any) -> dict[str, Any]:
    answer = await client.post("/v1/batches", json=wanted(file_id, **members))
    assert answer.status_code == 200, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


async def claimed(store: Store) -> BatchClaim:
    claim = await store.claim_new_batch("owner", 60)
    assert claim is not None
    return claim


async def started(store: Store, lines: int = 2) -> Batch:
    """Takes the oldest new batch through validation."""
    claim = await claimed(store)
    assert await store.start_batch(claim, "good", [ShardPlan(0, 10, 1, lines)])
    return claim.batch
