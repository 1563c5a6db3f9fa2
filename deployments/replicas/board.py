"""The replicas that run, as Serve's controller tells them to every router: each process has one board of its own."""

from collections.abc import Callable
from threading import Lock

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica


class Board:
    """The replicas that run, by deployment. Routers write it from their own threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[str, frozenset[str]] = {}
        self._listeners: list[Callable[[], object]] = []

    def listen(self, listener: Callable[[], object]) -> None:
        with self._lock:
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], object]) -> None:
        with self._lock:
            self._listeners.remove(listener)

    def running(self, deployment: str) -> frozenset[str]:
        return self._running.get(deployment, frozenset())

    def write(self, deployment: str, replicas: frozenset[str]) -> None:
        with self._lock:
            self._running[deployment] = replicas
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

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._write_board()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._write_board()

    def _write_board(self) -> None:
        from deployments.replicas.board import board

        running = frozenset(replica_id.unique_id for replica_id in self.curr_replicas)
        board.write(self._deployment_id.name, running)
