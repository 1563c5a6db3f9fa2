"""The 33.8-hour outage again: the workers are dead, no restart is possible, and this time somebody is told."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import running
from tests.acceptance.inside import family, open_to_others, scratch
from tests.acceptance.lines import assert_each_line_once, chat, chats, jsonl
from tests.acceptance.server import Server
from tests.sentry_receiver import SentryReceiver

PROMISED_SECONDS = 90
PROMPT = "Zanzibar-outage-prompt"
KEY = "sk-outage-4711"


@pytest.fixture(scope="module")
def sentry() -> Iterator[SentryReceiver]:
    with SentryReceiver().running() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, sentry: SentryReceiver) -> Iterator[Server]:
    """Two replicas without a restart to spend: one that dies stays dead."""
    environment = {"BATCHYARD_REPLICAS": "2", "BATCHYARD_RESTARTS_PER_HOUR": "0", "BATCHYARD_API_KEYS": KEY}
    environment["BATCHYARD_HOST"] = "0.0.0.0"
    pair = Server(tmp_path_factory.mktemp("pair") / "data", SENTRY_DSN=sentry.dsn, **environment)
    for running_pair in running(pair):
        running_pair.until(lambda: pair.health()["status"] == "healthy", 120)
        yield running_pair


def prompts(count: int) -> bytes:
    return jsonl([chat(f"line-{number}", PROMPT, max_tokens=16, ignore_eos=True) for number in range(count)])


def test_a_server_for_others_shows_them_its_http_port_alone(pair: Server) -> None:
    assert open_to_others(pair).keys() == {pair.port}


def test_the_key_is_in_no_process_and_in_no_file(pair: Server) -> None:
    assert pair.client.models.list().data
    assert httpx.get(f"{pair.url}/v1/models").status_code == 401
    shown = {
        f"{process.pid} {name}": Path(f"/proc/{process.pid}/{name}").read_bytes()
        for process in family(pair)
        for name in ("environ", "cmdline")
    }
    files = (pair.log, *pair.data.rglob("*"), *scratch(pair).rglob("*"))
    shown |= {str(path): path.read_bytes() for path in files if path.is_file()}
    assert len(shown) > 30
    assert [name for name, content in shown.items() if KEY.encode() in content] == []


def test_with_one_of_two_replicas_gone_batches_are_accepted_and_health_says_degraded(
    pair: Server, sentry: SentryReceiver
) -> None:
    batch = pair.create(prompts(600))
    pair.follow(batch.id, lambda each: bool(each.request_counts and each.request_counts.completed > 20))
    assert not told(sentry), "the cold start and the batch are no trouble"
    pair.replicas("Engine:tiny")[0].kill()
    statuses = []

    def degraded() -> bool:
        statuses.append(pair.status("/readyz"))
        return pair.health()["status"] == "degraded"

    pair.until(degraded, 10)
    another = pair.create(chats(1))
    assert set(statuses) == {200}
    for each, count in ((batch, 600), (another, 1)):
        finished = pair.finished(each.id)
        assert finished.status == "completed"
        assert_each_line_once(pair, finished, [f"line-{number}" for number in range(count)])
    expected = [("replica_lost", "dispatcher"), ("restart_budget_spent", "dispatcher")]
    pair.until(lambda: len(told(sentry)) >= len(expected), PROMISED_SECONDS)
    assert told(sentry) == expected


def test_dead_workers_that_stay_dead_are_told_of_within_90_seconds(pair: Server, sentry: SentryReceiver) -> None:
    batch = pair.create(prompts(2000))
    pair.follow(batch.id, lambda each: bool(each.request_counts and each.request_counts.completed > 100))
    killed = time.monotonic()
    for replica in pair.replicas("Engine:tiny"):
        replica.kill()
    kinds = ("model_down", "restart_budget_spent")
    pair.until(lambda: all(sentry.alerts(kind, model="tiny") for kind in kinds), PROMISED_SECONDS)
    print(f"\nmodel_down {time.monotonic() - killed:.1f} s after the death")
    assert told(sentry) == [(kind, "dispatcher") for kind in ("model_down", "replica_lost", "restart_budget_spent")]

    health = httpx.get(pair.url + "/health", timeout=5)
    assert health.status_code == 503 and health.json()["models"][0]["restart_budget_spent"]
    assert pair.status("/readyz") == 503
    refusal = pair.http.post(
        "/v1/batches",
        headers={"authorization": f"Bearer {KEY}"},
        json={
            "input_file_id": pair.upload(chats(1)),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    assert refusal.status_code == 503
    assert "restart_budget_spent" in refusal.json()["error"]["message"]
    assert pair.client.batches.retrieve(batch.id).status == "in_progress"

    leaks = [body for body in sentry.bodies if PROMPT.encode() in body or KEY.encode() in body]
    assert sentry.bodies and not leaks


def told(sentry: SentryReceiver) -> list[tuple[str, str]]:
    """The alerts, each with the process that told it."""
    return sorted(
        (event["tags"]["kind"], event["tags"]["process"]) for event in sentry.events if "kind" in event["tags"]
    )
