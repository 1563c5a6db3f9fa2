"""The 33.8-hour outage again: the worker is dead, no restart is possible, and this time somebody is told."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import running
from tests.acceptance.lines import chat, chats, jsonl
from tests.acceptance.server import Server
from tests.sentry_receiver import SentryReceiver

PROMISED_SECONDS = 90
PROMPT = "Zanzibar-outage-prompt"
KEY = "sk-outage-4711"


@pytest.fixture
def sentry() -> Iterator[SentryReceiver]:
    with SentryReceiver().running() as receiver:
        yield receiver


@pytest.fixture
def server(data: Path, sentry: SentryReceiver) -> Iterator[Server]:
    """Without a restart to spend: a replica that dies stays dead."""
    server = Server(data, SENTRY_DSN=sentry.dsn, BATCHYARD_RESTARTS_PER_HOUR="0", BATCHYARD_API_KEYS=KEY)
    server.client.api_key = KEY
    yield from running(server)


def test_a_dead_worker_that_stays_dead_is_told_of_within_90_seconds(server: Server, sentry: SentryReceiver) -> None:
    batch = server.create(jsonl([chat(f"line-{n}", PROMPT, max_tokens=16, ignore_eos=True) for n in range(2000)]))
    server.follow(batch.id, lambda each: bool(each.request_counts and each.request_counts.completed > 100))
    assert not told(sentry), "the cold start and the batch are no trouble"
    [replica] = server.replicas("Engine:tiny")
    killed = time.monotonic()
    replica.kill()
    kinds = ("model_down", "restart_budget_spent")
    server.until(lambda: any(sentry.alerts(kind, model="tiny") for kind in kinds), PROMISED_SECONDS)
    first = time.monotonic() - killed
    server.until(lambda: all(sentry.alerts(kind, model="tiny") for kind in kinds), PROMISED_SECONDS - first)
    print(f"\nalert {first:.1f} s after the death, model_down {time.monotonic() - killed:.1f} s after it")
    assert told(sentry) == [(kind, "dispatcher") for kind in ("model_down", "replica_lost", "restart_budget_spent")]

    health = httpx.get(server.url + "/health", timeout=5)
    assert health.status_code == 503 and health.json()["models"][0]["restart_budget_spent"]
    assert server.status("/readyz") == 503
    refusal = server.http.post(
        "/v1/batches",
        headers={"authorization": f"Bearer {KEY}"},
        json={
            "input_file_id": server.upload(chats(1)),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    assert refusal.status_code == 503
    assert "restart_budget_spent" in refusal.json()["error"]["message"]
    assert server.client.batches.retrieve(batch.id).status == "in_progress"

    leaks = [body for body in sentry.bodies if PROMPT.encode() in body or KEY.encode() in body]
    assert sentry.bodies and not leaks


def told(sentry: SentryReceiver) -> list[tuple[str, str]]:
    """The alerts, each with the process that told it."""
    return sorted(
        (event["tags"]["kind"], event["tags"]["process"]) for event in sentry.events if "kind" in event["tags"]
    )
