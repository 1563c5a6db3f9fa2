"""Whether the local cluster counts as dead: what the GCS says, and whether somebody listens; nothing of clients."""

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.local import life

ADDRESS = ("127.0.0.1", 1)
ALIVE, DEAD, SILENT = True, False, None


def look(monkeypatch: pytest.MonkeyPatch, *looks: tuple[bool | None, bool]) -> tuple[str | None, int]:
    """What each look finds: of the GCS, and whether somebody listens. Why it counts as dead, and after how many."""
    left, stopping = list(looks), threading.Event()

    def soon(ask: Callable[[], bool]) -> bool | None:
        nonlocal listening
        answer, listening = left.pop(0)
        if not left:
            stopping.set()
        return answer

    def listens(address: tuple[str, int]) -> bool:
        assert address == ADDRESS
        return listening

    listening = False
    monkeypatch.setattr(life, "_soon", soon)
    monkeypatch.setattr(life, "somebody_listens", listens)
    monkeypatch.setattr(life, "LOOK_SECONDS", 0.001)
    return life.why_dead(ADDRESS, stopping), len(looks) - len(left)


@pytest.mark.parametrize(("sign", "why"), [((SILENT, True), "GCS does not answer"), ((ALIVE, False), "nobody listens")])
def test_it_is_dead_after_so_many_bad_looks(
    monkeypatch: pytest.MonkeyPatch, sign: tuple[bool | None, bool], why: str
) -> None:
    found, after = look(monkeypatch, (ALIVE, True), *[sign] * life.BAD_LOOKS, (ALIVE, True), (ALIVE, True))
    assert found is not None and why in found
    assert after == 1 + life.BAD_LOOKS


def test_a_node_that_was_taken_for_dead_is_never_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    found, after = look(monkeypatch, (ALIVE, True), (DEAD, True), (ALIVE, True))
    assert found is not None and "raylet hangs" in found
    assert after == 2


def test_one_good_look_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    nearly = [(SILENT, True)] * (life.BAD_LOOKS - 1)
    looks = [(ALIVE, True), *nearly, (ALIVE, True), *nearly, (ALIVE, True)]
    assert look(monkeypatch, *looks) == (None, len(looks))


def test_before_the_first_good_look_it_still_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, *[(ALIVE, False)] * 50) == (None, 50)


def test_a_proxy_that_is_too_busy_to_accept_still_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        address = server.getsockname()
        for _ in range(3):  # more than the kernel keeps for a server that accepts nothing
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        with pytest.raises(TimeoutError):
            socket.create_connection(address, 0.05)
        assert life.somebody_listens(address)
    assert not life.somebody_listens(address)


def test_the_node_is_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[dict[str, Any]] = [{"NodeID": "a", "Alive": False}, {"NodeID": "b", "Alive": True}]
    monkeypatch.setattr(life.ray, "nodes", lambda: nodes)
    for own, lives in (("a", False), ("b", True)):
        context = SimpleNamespace(get_node_id=lambda own=own: own)
        monkeypatch.setattr(life.ray, "get_runtime_context", lambda context=context: context)
        assert life.node_is_alive() is lives


def test_a_question_that_hangs_counts_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "ANSWER_SECONDS", 0.01)
    never = threading.Event()
    assert life._soon(never.wait) is None
    assert life._soon(lambda: False) is False
    never.set()
