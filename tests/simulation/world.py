"""A whole Batchyard in one process and one thread: what is real in it, and what stands around it."""

import asyncio
import functools
import gc
import logging
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any

import structlog

from app.api.app import build_app
from app.batch.dispatch import Dispatcher
from app.batch.lifecycle import Lifecycle
from app.batch.loops import SWEEP_SECONDS, run_loops
from app.errors import BatchyardError
from app.objects import Objects
from app.settings import Settings
from tests.simulation.bucket import Bucket
from tests.simulation.chance import chance, seeded_ids
from tests.simulation.clients import Client
from tests.simulation.engines import Engines
from tests.simulation.http import Gateway
from tests.simulation.invariants import Check, Seen, every_check
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Process, SimulatedLoop, current_process
from tests.simulation.network import Network
from tests.simulation.plan import ClientPlan, Plan
from tests.simulation.trace import Trace, Violation

START = 1_700_000_000
DAY_AND_HOUR = 90_000.0
CALM_SECONDS = 600.0
"""In which every batch must have ended, once nothing goes wrong any more."""
LOOK_SECONDS = 2.0


class World:
    """One run of a plan. `violation`: what was found, if anything."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.settings = _settings(plan, folder)
        self.loop = SimulatedLoop()
        self.context = copy_context()
        self.trace = Trace(self.loop.time)
        self.over = False
        self.offset = 0.0
        self.violation: Violation | None = None
        self._failed = self.loop.create_future()
        self.loop.set_exception_handler(self._note_unhandled)
        self.network = Network(self.loop, self.trace, chance(plan.seed, "network"), self.fail)
        self.network.slowness["objects"] = plan.object_seconds
        self.seen = Seen(self)
        self.checks: list[Check] = []
        self.ledger = Ledger(self)
        self.checks = every_check(self)
        self.bucket = Bucket(self)
        self.inputs: dict[str, ClientPlan] = {}
        self.processes: list[Process] = []
        self.gateways: list[Gateway] = []
        self._dispatchers: dict[str, tuple[Dispatcher, Lifecycle, asyncio.Task[None]]] = {}
        self._chance = chance(plan.seed, "world")
        self.engines = Engines(self, plan.models, plan.replicas, plan.slots, chance(plan.seed, "engines"))
        self.clients = [Client(self, each, chance(plan.seed, f"client-{each.number}")) for each in plan.clients]

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._run())
        except Violation as violation:
            self.violation = self.violation or violation
        finally:
            self.over = self.network.closed = True
            self.loop.bury()
            asyncio.set_event_loop(None)

    def seconds(self) -> float:
        """True time, as unix seconds: by it nobody here lives."""
        return START + self.loop.time()

    def wall(self, process: Process) -> float:
        return self.seconds() + self.offset + process.offset

    def fail(self, violation: Violation) -> None:
        if self.violation is None:
            self.violation = violation
            self.trace.note("VIOLATION", str(violation))
        if not self._failed.done():
            self._failed.set_result(None)

    def processes_of(self, kind: str) -> list[Process]:
        return [each for each in self.processes if each.name.startswith(kind)]

    def crash(self, process: Process) -> None:
        process.crash()
        self._replace(process)

    def thaw(self, process: Process) -> None:
        if not process.dead:
            self.trace.note(process.name, "wakes up")
            process.thaw()

    def redeploy(self, process: Process) -> None:
        """As Serve takes a dispatcher out of service."""
        if (dispatcher := self._dispatchers.get(process.name)) is not None:
            process.start(self._end_well(process, *dispatcher))

    def pass_a_day(self) -> None:
        self.offset += DAY_AND_HOUR
        self.ledger.clocks_stepped()

    def start_dispatcher(self) -> None:
        process = self._process("dispatcher")
        process.start(self._dispatcher(process)).add_done_callback(self._note_end)

    def start_gateway(self) -> None:
        process = self._process("gateway")
        process.start(self._gateway(process)).add_done_callback(self._note_end)

    async def _run(self) -> None:
        story = self.loop.create_task(self._story())
        await asyncio.wait([story, self._failed], return_when=asyncio.FIRST_COMPLETED)
        if not self._failed.done() and (error := story.exception()) is not None:
            raise error if isinstance(error, Violation) else Violation(f"the story breaks off: {error!r}") from error

    async def _story(self) -> None:
        plan = self.plan
        for _ in range(plan.dispatchers):
            self.start_dispatcher()
        for _ in range(plan.gateways):
            self.start_gateway()
        clients = asyncio.gather(*(client.run() for client in self.clients))
        for fault in plan.faults:
            self.network.later(fault.start, fault.begin, self)
            self.network.later(fault.start + fault.seconds, fault.end, self)
        operator = self.loop.create_task(self._operate())
        await asyncio.sleep(plan.fault_seconds)
        self.trace.note("world", "nothing goes wrong from here on")
        for process in self.processes:
            if process.frozen:
                self.thaw(process)
        await self._all_end(clients)
        operator.cancel()
        self.pass_a_day()
        await asyncio.sleep(2 * SWEEP_SECONDS)
        for _ in range(int(CALM_SECONDS / SWEEP_SECONDS)):
            if not self.seen.garbage():
                break
            await asyncio.sleep(SWEEP_SECONDS)
        for check in self.checks:
            check.at_end()

    async def _all_end(self, clients: "asyncio.Future[Any]") -> None:
        until = self.loop.time() + CALM_SECONDS
        while not (clients.done() and self.seen.all_ended()):
            if clients.done():
                clients.result()
            if self.loop.time() > until:
                waiting = [client.name for client in self.clients if not client.finished]
                raise Violation(
                    f"after {CALM_SECONDS:.0f} calm seconds not all has ended: {waiting} {self.seen.open()}"
                )
            await asyncio.sleep(LOOK_SECONDS)
        clients.result()

    async def _operate(self) -> None:
        """A person resumes what is paused."""
        store = self.ledger.of(self.loop.process("operator"))
        while True:
            await asyncio.sleep(10)
            for batch_id in self.seen.paused():
                self.trace.note("operator", "resumes", batch_id)
                with suppress(BatchyardError):
                    await store.resume_batch("default", batch_id)

    def _process(self, kind: str) -> Process:
        number = len(self.processes_of(kind)) + 1
        process = self.loop.process(f"{kind}-{number}")
        self.processes.append(process)
        self.trace.note(process.name, "starts")
        return process

    def _replace(self, process: Process) -> None:
        """Serve starts another."""
        start = self.start_dispatcher if process.name.startswith("dispatcher") else self.start_gateway
        self.network.later(1 + 5 * self._chance.random(), start)

    async def _open(self, store: Any) -> Objects:
        while True:
            try:
                return await Objects.open("memory:///", store)
            except BatchyardError:
                await asyncio.sleep(1)

    async def _dispatcher(self, process: Process) -> None:
        store = self.ledger.of(process)
        objects = await self._open(store)
        engines, owner = self.engines.of(process), process.name
        dispatcher = Dispatcher(store, objects, engines, self.settings, owner, alert=self._alert, clock=self.loop.time)
        lifecycle = Lifecycle(
            store,
            objects,
            self.settings,
            owner,
            now=lambda: self.wall(process),
            aside=lambda read: read(),
            alert=self._alert,
            capabilities=engines.capabilities,
        )
        loops = asyncio.create_task(run_loops(dispatcher, lifecycle, self.settings.dispatch))
        self._dispatchers[process.name] = (dispatcher, lifecycle, loops)
        with suppress(asyncio.CancelledError):
            await loops

    async def _end_well(self, process: Process, dispatcher: Dispatcher, _: Any, loops: "asyncio.Task[None]") -> None:
        await dispatcher.drain(self.settings.dispatch.drain_seconds)
        loops.cancel()
        await asyncio.gather(loops, return_exceptions=True)
        process.ended_well = await self._closed(dispatcher)
        self.trace.note(
            process.name, "has ended", "well" if process.ended_well else "with results that it could not write"
        )
        if process.ended_well:
            for check in self.checks:
                check.ended_well(process)
        self.crash(process)

    async def _closed(self, dispatcher: Dispatcher) -> bool:
        try:
            await dispatcher.close()
        except BatchyardError:
            return False
        return True

    async def _gateway(self, process: Process) -> None:
        store = self.ledger.of(process)
        objects = await self._open(store)
        app = build_app(
            self.settings,
            store,
            objects,
            self.engines.of(process),
            _NoOnline(),
            now=lambda: int(self.wall(process)),
            batch_created=self._tell_dispatchers,
        )
        self.gateways.append(Gateway(process, app))

    def _tell_dispatchers(self) -> None:
        for name, (_, lifecycle, _) in self._dispatchers.items():
            if not self._named(name).dead:
                self.network.later(self.network.latency(), lifecycle.batch_created.set)

    def _named(self, name: str) -> Process:
        return next(each for each in self.processes if each.name == name)

    def _alert(self, kind: str, message: str, **known: object) -> None:
        self.trace.note("alert", kind, message)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        """A process that cannot start is a finding."""
        if not self.over and not task.cancelled() and (error := task.exception()) is not None:
            self.fail(Violation(f"a process ends: {error!r}"))

    def _note_unhandled(self, loop: Any, context: dict[str, Any]) -> None:
        """What a callback or a task of Batchyard's raised and nobody caught."""
        error = context.get("exception")
        if self.over or ("never retrieved" in context["message"] and not isinstance(error, Violation)):
            return
        self.fail(error if isinstance(error, Violation) else Violation(f"{context['message']}: {error!r}"))

    def note_log(self, logger: object, method: str, event: Any) -> Any:
        """A processor of structlog: what Batchyard logs is part of the story, and an unforeseen fault a finding."""
        process = current_process()
        if not self.over and process is not None:
            known = [f"{name}={value}" for name, value in event.items() if name not in ("event", "exc_info")]
            self.trace.note(process.name, f"log: {event['event']}", *known)
            if event.get("exc_info"):
                self.fail(Violation(f"{event['event']}, by a fault that nobody foresaw: {traceback.format_exc()}"))
        raise structlog.DropEvent


class _NoOnline:
    async def call(self, *asked: Any) -> Any:
        raise NotImplementedError


def simulate(plan: Plan) -> World:
    """Runs the plan to its end, or to the first violation."""
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder, _alone(plan.seed):
        world = World(plan, Path(folder))
        with world.bucket.in_place(), _logs_to(world.note_log):
            world.run()
    return world


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """What else a run depends on: ids, and when garbage is collected, which closes generators."""
    _settle()
    gc.disable()
    try:
        with seeded_ids(seed):
            yield
    finally:
        gc.enable()
        gc.collect()


@functools.cache
def _settle() -> None:
    """What is there before the first run stays, and need not be looked through after each."""
    logging.disable()
    gc.collect()
    gc.freeze()


@contextmanager
def _logs_to(processor: Callable[..., Any]) -> Iterator[None]:
    structlog.configure(processors=[processor], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.reset_defaults()


def _memory_folder() -> str | None:
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() else None


def _settings(plan: Plan, folder: Path) -> Settings:
    models = [
        {"id": model, "source": "none", "replicas": plan.replicas, "hang_seconds": 5, "line_seconds": 8}
        for model in plan.models
    ]
    dispatch = {
        "shard_lines": plan.shard_lines,
        "lease_seconds": plan.lease_seconds,
        "poll_seconds": plan.poll_seconds,
        "flush_seconds": plan.flush_seconds,
        "drain_seconds": 5,
        "engine_losses": 8,
    }
    return Settings.load({"models": models, "data": str(folder), "dispatch": dispatch}, environ={})
