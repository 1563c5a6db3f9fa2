"""Which engine replicas can work, as this process knows it: the one place that gate, health and dispatcher ask.

Two sources, both pushed, none polled. Serve's controller tells every router which replicas run, and the router tells
the board. And a stream of heartbeats from each of them says that it can work: it breaks within milliseconds
when the process dies, and falls silent when vLLM's core hangs. A replica is healthy between its first beat and either.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from app.capabilities import Capabilities
from app.errors import EngineLost
from app.health import ModelHealth
from app.settings import ModelSettings
from app.store import Restarts
from deployments.messages import CoreDeath, Heartbeat
from deployments.placement import Finding
from deployments.replicas.board import board

log = structlog.get_logger()

SILENCE_MARGIN_SECONDS = 5.0
"""A replica silent for its model's `silence_seconds` and this is not healthy. By then its own health check has called
the core hung, or its guard has ended it."""

REWATCH_SECONDS = 0.2

FIRST_LOOK_SECONDS = 3.0
"""How long a new process may take to hear of replicas that work: twice what was seen on two busy cores."""

DEPARTURE_SECONDS = 1.0
"""How long the stream of a replica that left the board may take to break. A killed one breaks within milliseconds, and
counts as lost; that of one that Serve takes out of service stays open, and would hold up its graceful end."""


@dataclass
class _Replica:
    """A replica that beats, or did."""

    max_num_seqs: int
    last_beat: float
    suspended: bool = False


@dataclass
class _Model:
    settings: ModelSettings
    handle: DeploymentHandle
    deployment: str
    alive: dict[str, _Replica] = field(default_factory=dict)
    watches: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    """Replicas that Serve took out of service on purpose."""
    last_healthy: float | None = None
    last_complete: float | None = None
    capabilities: Capabilities | None = None


class ReplicaWatch:
    """Watches the replicas of all models from this process. `clock` is monotonic, in seconds.

    `restarts`, `finding`: what else is known of a model. `lost` is told the model, the replica and why.
    """

    def __init__(
        self,
        models: Sequence[ModelSettings],
        handles: Mapping[str, DeploymentHandle],
        restarts: Callable[[str], Restarts] = lambda model: Restarts(),
        budget: int = 0,
        finding: Callable[[str], Finding] = lambda model: Finding(),
        lost: Callable[[str, str, str], object] = lambda model, replica, reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = {
            model.id: _Model(model, handles[model.id], handles[model.id].deployment_name) for model in models
        }
        self._restarts = restarts
        self._budget = budget
        self._finding = finding
        self._tell_loss = lost
        self._clock = clock
        self._changed = asyncio.Event()
        self._beaten = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled: a watch for each replica on the board."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._changed.set)

        board.listen(wake)
        first_calls = [asyncio.create_task(self._first_call(model)) for model in self._models.values()]
        try:
            while True:
                self._changed.clear()
                for model in self._models.values():
                    self._watch_new(model)
                await self._changed.wait()
        finally:
            board.unlisten(wake)
            watches = [watch for model in self._models.values() for watch in model.watches.values()]
            for task in [*first_calls, *watches, *self._leaving]:
                task.cancel()

    async def first_look(self) -> None:
        """Returns once every model is known to work, or at the latest when one that does would have been heard of.

        Who answered before would call models dead that work.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_SECONDS):
                while not all(self.replicas(model_id) for model_id in self._models):
                    self._beaten.clear()
                    await self._beaten.wait()

    def replicas(self, model_id: str) -> dict[str, int]:
        """The healthy replicas, each with the number of sequences that its vLLM runs at once."""
        model = self._models[model_id]
        running = board.running(model.deployment)
        return {name: slots for name, slots in self._beating(model).items() if name in running}

    def model(self, model_id: str) -> ModelHealth | None:
        model = self._models.get(model_id)
        if model is None:
            return None
        # One that is taken out of service stands in for its successor, which is on the board before its first beat is.
        healthy, now = len(self.replicas(model_id)) or len(self._beating(model)), self._clock()
        self._note(model, healthy)
        restarts = self._restarts(model_id)
        reason = self._why_missing(model, restarts) if healthy < model.settings.replicas else None
        return ModelHealth(
            id=model_id,
            healthy=healthy,
            target=model.settings.replicas,
            last_healthy_seconds_ago=None if model.last_healthy is None else round(now - model.last_healthy, 1),
            restarts_last_hour=restarts.last_hour,
            restarts_counted=restarts.counted,
            reason=reason,
            restart_budget=self._budget,
            restarts_refill_at=restarts.refills_at,
            starting=_first_start(model, restarts) if reason is None else None,
            replicas_reason=model.settings.replicas_reason,
        )

    def _why_missing(self, model: _Model, restarts: Restarts) -> str | None:
        """One reason: what no start can mend, else why the newest one failed, else Serve's words.

        A failure from before all replicas were healthy is over.
        """
        failure, age = restarts.failure, restarts.failure_age
        if age is not None and model.last_complete is not None and age > self._clock() - model.last_complete:
            failure = None
        finding = self._finding(model.settings.id)
        return finding.shortage or failure or finding.trouble

    def models(self) -> list[ModelHealth]:
        return [health for model_id in self._models if (health := self.model(model_id)) is not None]

    def capabilities(self, model_id: str) -> Capabilities | None:
        """As the last of its replicas told that came up; None while none has."""
        return self._models[model_id].capabilities

    def _beating(self, model: _Model) -> dict[str, int]:
        """Also those that left the board less than DEPARTURE_SECONDS ago and whose stream is not broken."""
        since = self._clock() - model.settings.silence_seconds - SILENCE_MARGIN_SECONDS
        return {
            name: replica.max_num_seqs
            for name, replica in model.alive.items()
            if not replica.suspended and replica.last_beat >= since
        }

    def suspend(self, model_id: str, replica: str) -> None:
        """Lines were lost in this replica: it counts as healthy again from its next beat, if one comes."""
        if (found := self._models[model_id].alive.get(replica)) is not None:
            found.suspended = True

    def runs(self, model_id: str, replica: str) -> bool:
        """Serve's controller lists it, and no call of this process found it dead."""
        return replica in board.running(self._models[model_id].deployment)

    def retired(self, model_id: str, replica: str) -> bool:
        """Serve took it out of service on purpose, as in a redeploy: it had left the board before its stream broke."""
        return replica in self._models[model_id].retired

    def last_beat(self, model_id: str, replica: str) -> float:
        """When it beat last, by the clock; minus infinity: its stream is broken."""
        found = self._models[model_id].alive.get(replica)
        return float("-inf") if found is None else found.last_beat

    def node(self, model_id: str, replica: str) -> str | None:
        return board.node(self._models[model_id].deployment, replica)

    async def _first_call(self, model: _Model) -> None:
        """A handle has a router, and the board its writer, only from its first call; what that answers is not asked."""
        await asyncio.gather(model.handle.check_health.remote(), return_exceptions=True)

    def _watch_new(self, model: _Model) -> None:
        running = board.running(model.deployment)
        for name in running - set(model.watches):
            model.watches[name] = asyncio.create_task(self._watch(model, name), name=f"watch {name}")
        for name in set(model.watches) - running:
            departure = asyncio.create_task(self._depart(model, name), name=f"departure of {name}")
            self._leaving.add(departure)
            departure.add_done_callback(self._leaving.discard)

    async def _depart(self, model: _Model, name: str) -> None:
        watch = model.watches.pop(name)
        try:
            await asyncio.wait([watch], timeout=DEPARTURE_SECONDS)
            found = model.alive.get(name)
            if found is not None and self._clock() - found.last_beat < model.settings.hang_seconds / 2:
                model.retired.add(name)  # its stream did not break and it was not silent: neither killed nor hung
        finally:
            watch.cancel()

    async def _watch(self, model: _Model, name: str) -> None:
        """Until cancelled."""
        while True:
            stream = None
            try:
                stream = model.handle.options(stream=True).watch.remote(replica=name)
                async for message in stream:
                    if isinstance(message, CoreDeath):
                        self._lost(model, name, EngineLost(message.reason))
                    else:
                        self._beat(model, name, message)
            except asyncio.CancelledError:
                if stream is not None:
                    stream.cancel()
                model.alive.pop(name, None)
                raise
            except Exception as error:  # noqa: BLE001  # whatever broke the stream, the replica is not known to work
                self._lost(model, name, error)
            await asyncio.sleep(REWATCH_SECONDS)

    def _beat(self, model: _Model, name: str, beat: Heartbeat) -> None:
        if name not in model.alive:
            log.info("replica healthy", model=model.settings.id, replica=name)
        model.alive[name] = _Replica(beat.max_num_seqs, self._clock())
        model.capabilities = beat.capabilities or model.capabilities
        self._note(model, len(self._beating(model)))
        self._beaten.set()

    def _note(self, model: _Model, healthy: int) -> None:
        now = self._clock()
        if healthy:
            model.last_healthy = now
        if healthy >= model.settings.replicas:
            model.last_complete = now

    def _lost(self, model: _Model, name: str, error: Exception) -> None:
        if model.alive.pop(name, None) is not None:
            reason = one_line(error)
            log.warning("replica lost", model=model.settings.id, replica=name, reason=reason)
            self._tell_loss(model.settings.id, name, reason)


def _first_start(model: _Model, restarts: Restarts) -> str | None:
    """What a model is at that has not been healthy in this deploy and none of whose starts has ended; else None."""
    if model.last_healthy is not None or restarts.failure is not None or not restarts.all_planned:
        return None
    if (age := restarts.newest_start_age) is None:
        return "starting its process"
    return f"loading the model for {age:.0f} s" if age <= model.settings.start_seconds else None


def cause_of(error: BaseException) -> BaseException:
    """What a replica raised: Ray wraps it and adds its traceback."""
    return error.cause if isinstance(error, RayTaskError) and error.cause is not None else error


def one_line(error: BaseException) -> str:
    """The error in one line; what a replica raised in its own words."""
    error = cause_of(error)
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
