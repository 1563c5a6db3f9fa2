"""Calls whose replica sends the next item when the last one was taken, so that a reader that stopped stops only itself.

Ray's worker ends the stream of an async actor by waiting, in the actor's one event loop, until the reader has
acknowledged every item (`WaitAllObjectsReported` in Ray's `_raylet.pyx`). One reader that is stopped or cannot be
reached would so stand in the way of all other calls of that replica, its health check among them. With a pace of one
item nothing is left to be acknowledged when a stream ends, and the wait before that end is not in the loop's way.

Serve offers no option for it; this file reaches below its surface, tests/unit/test_upgrade.py says when an upgrade
broke it.
"""

from types import SimpleNamespace
from typing import Any

from ray.serve._private.request_router.replica_wrapper import ActorReplicaWrapper
from ray.serve.request_router import RunningReplica

ITEMS_AHEAD = 1
"""Items of a stream that the replica may send before they are taken."""


class PacedReplica(RunningReplica):  # type: ignore[misc]  # Ray has no types
    """A replica as Serve's router calls it, with paced streams. Unary calls are streams as well, of two items."""

    def __init__(self, replica_info: Any) -> None:
        super().__init__(replica_info)
        actor = self._actor_handle
        self._actor_replica_wrapper = ActorReplicaWrapper(
            SimpleNamespace(
                handle_request=actor.handle_request,
                handle_request_streaming=_PacedMethod(actor.handle_request_streaming),
                handle_request_with_rejection=_PacedMethod(actor.handle_request_with_rejection),
            )
        )


class _PacedMethod:
    def __init__(self, method: Any) -> None:
        self._method = method

    def options(self, **options: Any) -> Any:
        return self._method.options(**options, _generator_backpressure_num_objects=ITEMS_AHEAD)
