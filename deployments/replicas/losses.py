"""Why a replica was lost, where something else than the lines in it is known to be the reason."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import ray
import structlog
from ray.exceptions import ActorDiedError

from app.errors import EngineLost
from deployments.replicas.watch import ReplicaWatch, cause_of

log = structlog.get_logger()

LOOK_SECONDS = 0.25

NODE_SECONDS = 3.0
"""How long after a death on another node the end of that node may become known: a node that shuts down kills what runs
there first and says goodbye to the cluster a second or two later. Only the lines of the dead replica wait meanwhile."""

UNREACHABLE_SECONDS = 60.0
"""How long it may take until a replica that cannot be reached is known to live, or to be dead: Ray calls a node that
hangs or is cut off dead after 35 to 50 s."""

FRESH_BEAT_SECONDS = 0.5
"""A heartbeat this long after the loss is a sign of life; an earlier one may have been under way when it died."""


class Losses:
    """Looks for an explanation. `node_lives` is asked with a node's id, `here` is the id of our own node."""

    def __init__(
        self,
        watch: ReplicaWatch,
        node_lives: Callable[[str], Awaitable[bool]],
        here: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._node_lives = node_lives
        self._here = here
        self._clock = clock

    async def explanation(self, model: str, replica: str, node: str | None, error: Exception) -> str | None:
        """What is known to have ended the call to this replica, on that node, besides its lines; None: nothing.

        The answer may take NODE_SECONDS, and UNREACHABLE_SECONDS while it is not even known whether the replica died.
        """
        elsewhere = node is not None and node != self._here
        dead = isinstance(error, ActorDiedError) or isinstance(cause_of(error), EngineLost)  # says it itself
        lost_at = self._clock()
        until = lost_at + UNREACHABLE_SECONDS
        while True:
            if self._watch.retired(model, replica):
                return "Serve had taken it out of service"
            if not dead and self._watch.last_beat(model, replica) > lost_at + FRESH_BEAT_SECONDS:
                return "it lives, and the connection to it broke"
            if elsewhere and node is not None and not await self._node_lives(node):
                return f"its node {node} is gone"
            if dead or not self._watch.runs(model, replica):
                dead = True
                until = min(until, self._clock() + NODE_SECONDS if elsewhere else lost_at)
            if self._clock() >= until:
                return None
            await asyncio.sleep(LOOK_SECONDS)


async def node_lives(node: str) -> bool:
    """By what Ray's GCS says. While it says nothing, nothing is known against the node."""
    try:
        nodes = await asyncio.to_thread(ray.nodes)
    except Exception as error:  # noqa: BLE001  # of Ray's many; the loss is then judged without an answer
        log.warning("Ray does not say which nodes live", reason=str(error))
        return True
    return any(each["NodeID"] == node and each["Alive"] for each in nodes)
