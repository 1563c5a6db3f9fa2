"""Whether the local cluster lives. Nothing here waits where clients do, so that their load never looks like a hang.

What ends is noticed elsewhere, at once (`cluster.py`). What hangs: a raylet, which the GCS takes for dead after 35 to
70 s; the GCS, which then says nothing. And Serve's proxy may be gone for good: then nobody listens.
"""

import socket
import threading
from collections.abc import Callable

import ray

LOOK_SECONDS = 10.0
"""How often we look: at 5 ms of CPU for a look, 0.05 % of a core."""

ANSWER_SECONDS = 5.0

BAD_LOOKS = 6
"""So many in a row of silence, and the cluster is dead. Proxy and controller, when they die, are back in half of it."""


def why_dead(address: tuple[str, int], stopping: threading.Event) -> str | None:
    """Returns once the cluster that serves on `address` counts as dead, and why; or None, once `stopping` is set."""
    bad, was_up = 0, False
    while not stopping.wait(LOOK_SECONDS):
        node_lives = _soon(node_is_alive)
        if node_lives is False:  # for good: a node that was taken for dead is never taken back
            return "Ray's GCS takes this node for dead: its raylet hangs"
        fault = "Ray's GCS does not answer" if node_lives is None else _unheard(address)
        was_up = was_up or fault is None
        bad = bad + 1 if fault and was_up else 0
        if bad == BAD_LOOKS:
            return fault
    return None


def _unheard(address: tuple[str, int]) -> str | None:
    return None if somebody_listens(address) else "nobody listens where Ray Serve's proxy should"


def node_is_alive() -> bool:
    """What the GCS says of the node that this process belongs to."""
    own = ray.get_runtime_context().get_node_id()
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own)


def somebody_listens(address: tuple[str, int]) -> bool:
    """A proxy that is too busy to answer does."""
    try:
        socket.create_connection(address, ANSWER_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return True


def _soon(ask: Callable[[], bool]) -> bool | None:
    """None: no answer within ANSWER_SECONDS. A question that hangs keeps its thread, and does not keep the process."""
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return answers[0] if answers else None
