"""The replicas that run, as Serve's controller tells them to every router: each process has one board of its own."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica


class Board:
    """The replicas that run, by deployment. Routers write it from their own threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[str, frozenset[str]] = {}
        self._nodes: dict[str, Mapping[str, str]] = {}
        self._listeners: list[Callable[[], object]] = []

    def listen(self, listener: Callable[[], object]) -> None:
        with self._lock:
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], object]) -> None:
        with self._lock:
            self._listeners.remove(listener)

    def running(self, deployment: str) -> frozenset[str]:
        return self._running.get(deployment, frozenset())

    def node(self, deployment: str, replica: str) -> str | None:
        """The id of the node on which it runs; None: not known, or it does not run."""
        return self._nodes.get(deployment, {}).get(replica)

    def write(self, deployment: str, replicas: frozenset[str], nodes: Mapping[str, str] | None = None) -> None:
        with self._lock:
            self._running[deployment] = replicas
            self._nodes[deployment] = nodes or {}
            listeners = list(self._listeners)
        for listener in listeners:
            listener()


board = Board()


class TrackingRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Writes the board, and sends a call with a keyword `replica` to that replica; any other to the shortest queue.

    Serve pickles this class by value into other processes, so its methods look the board up in the module.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        target = pending_request.kwargs.get("replica") if pending_request is not None else None
        named = [each for each in candidate_replicas if each.replica_id.unique_id == target]
        # A target that is gone: any replica may take the call, and refuses it, so that the caller need not wait.
        return [named or list(candidate_replicas)]

    def create_replica_wrapper(self, replica_info: Any) -> RunningReplica:
        from deployments.replicas.paced import PacedReplica

        return PacedReplica(replica_info)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._write_board()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._write_board()

    def _write_board(self) -> None:
        from deployments.replicas.board import board

        nodes = {replica_id.unique_id: replica.node_id for replica_id, replica in self.curr_replicas.items()}
        board.write(self._deployment_id.name, frozenset(nodes), {name: node for name, node in nodes.items() if node})
