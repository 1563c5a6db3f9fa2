"""How many requests a gateway works on at once."""

import asyncio

from app.api.online import OnlineAnswer
from tests.unit.fakes import FakeEngines, MakeClient, error_of
from tests.unit.waiting import until


async def test_probes_are_answered_while_all_slots_are_taken(make_client: MakeClient, engines: FakeEngines) -> None:
    client = make_client(limits={"requests_at_once": 2}, api_keys=["k"])
    key = {"authorization": "Bearer k"}
    at_work, go_on = 0, asyncio.Event()

    async def call(*request: object) -> OnlineAnswer:
        nonlocal at_work
        at_work += 1
        await go_on.wait()
        return await FakeEngines().call("good", "", b"", ())

    engines.call = call  # type: ignore[method-assign, assignment]
    body = {"model": "good", "messages": []}
    async with asyncio.TaskGroup() as group:
        chats = [group.create_task(client.post("/v1/chat/completions", json=body, headers=key)) for _ in range(2)]
        await until(lambda: at_work == 2)
        refused = await client.get("/v1/models", headers=key)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "too_many_requests_at_once")
        assert "limits.requests_at_once" in error_of(refused)["message"]
        assert (await client.get("/v1/models")).status_code == 401, "who has no key is told so, and takes no slot"
        for path in ("/livez", "/readyz", "/health", "/metrics"):
            assert (await client.get(path)).status_code == 200
        go_on.set()
    assert [chat.result().status_code for chat in chats] == [200, 200]
    assert (await client.get("/v1/models", headers=key)).status_code == 200
