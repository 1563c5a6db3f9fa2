"""The cluster's sign of life: an answer over HTTP, whatever it says."""

import threading

import pytest

from deployments.local import cluster


def ask(monkeypatch: pytest.MonkeyPatch, answers: list[int | None]) -> tuple[bool, int]:
    """Whether it counts as silent, and after how many answers; it is stopped when there are no more."""
    left, stopping = list(answers), threading.Event()

    def status(url: str) -> int | None:
        assert url == "http://x/livez"
        if len(left) == 1:
            stopping.set()
        return left.pop(0)

    monkeypatch.setattr(cluster, "http_status", status)
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.001)
    return cluster.falls_silent("http://x", stopping), len(answers) - len(left)


def test_it_hangs_after_so_many_looks_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = [None] * cluster.SILENT_LOOKS
    assert ask(monkeypatch, [200, *silence, 200, 200]) == (True, 1 + cluster.SILENT_LOOKS)


def test_any_answer_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    nearly = [None] * (cluster.SILENT_LOOKS - 1)
    assert ask(monkeypatch, [200, *nearly, 503, *nearly, 404, None]) == (False, 2 * cluster.SILENT_LOOKS + 2)


def test_before_the_first_answer_it_still_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, [None] * 50) == (False, 50)
