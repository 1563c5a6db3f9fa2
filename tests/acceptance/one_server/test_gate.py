"""Healthy means able to work: what a client meets from the death of an engine replica until it is back."""

import statistics
import threading
import time

import httpx

from tests.acceptance.lines import assert_each_line_once, chats
from tests.acceptance.server import Server


class Prober(threading.Thread):
    """POSTs a batch every 50 ms and notes (time, seconds taken, status)."""

    def __init__(self, server: Server, file_id: str) -> None:
        super().__init__(daemon=True)
        self._server, self._file_id = server, file_id
        self._over = threading.Event()
        self.answers: list[tuple[float, float, int]] = []
        self.refusal: httpx.Response | None = None

    def run(self) -> None:
        body = {"input_file_id": self._file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        while not self._over.wait(0.05):
            started = time.monotonic()
            answer = self._server.http.post("/v1/batches", json=body)
            self.answers.append((started, time.monotonic() - started, answer.status_code))
            if answer.status_code == 503:
                self.refusal = answer
            elif self.refusal is not None:
                return

    def end(self) -> None:
        self._over.set()
        self.join(60)


def test_kill_9_of_the_only_replica_closes_the_gate_at_once_and_loses_nothing(server: Server) -> None:
    lines = 1500
    batch = server.create(chats(lines, max_tokens=16, ignore_eos=True))
    server.follow(batch.id, lambda each: bool(each.request_counts and each.request_counts.completed > 100))
    prober = Prober(server, server.upload(chats(1)))
    prober.start()
    server.until(lambda: len(prober.answers) > 3, 10)
    [replica] = server.replicas("Engine:tiny")
    killed = time.monotonic()
    replica.kill()
    server.until(lambda: prober.refusal is not None, 10)

    assert server.status("/readyz") == 503
    assert server.status("/livez") == 200
    health = httpx.get(server.url + "/health", timeout=5)
    assert health.status_code == 503 and health.json()["status"] == "unhealthy"
    assert health.json()["models"][0]["healthy"] == 0
    assert server.content(server.upload(b"anything")) == b"anything"
    waiting = server.client.batches.retrieve(batch.id)
    assert waiting.status == "in_progress"

    server.await_ready()
    ready = time.monotonic() - killed
    prober.end()
    refused = [(at - killed, took) for at, took, status in prober.answers if status == 503]
    first = refused[0][0] + refused[0][1]
    times = [took for _, took in refused]
    print(
        f"\nkill -9 of the engine: first 503 after {first:.3f} s, {len(times)} of them, "
        f"median {statistics.median(times) * 1000:.1f} ms, "
        f"slowest {max(times) * 1000:.1f} ms, ready after {ready:.1f} s"
    )
    assert first < 1
    # Promised: 20 ms and 200 ms, which the line above shows. One scheduling hiccup of a shared host must not fail this
    # test, a hang must.
    assert statistics.median(times) < 0.060
    assert max(times) < 2
    assert {status for _, _, status in prober.answers} == {200, 503}

    assert prober.refusal is not None
    assert 1 <= float(prober.refusal.headers["retry-after"]) <= 60
    message = prober.refusal.json()["error"]["message"]
    assert "No healthy replica for model tiny" in message and "last healthy" in message

    finished = server.finished(batch.id)
    assert finished.status == "completed"
    assert finished.request_counts is not None and finished.request_counts.failed == 0
    assert_each_line_once(server, finished, [f"line-{number}" for number in range(lines)])
