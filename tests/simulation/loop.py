"""An event loop whose clock jumps to the next timer, and processes: groups of its tasks that die or freeze anywhere.

Everything that a process starts is its own, by a context variable that tasks and timers inherit. The loop does not run
what belongs to a process that is dead or frozen: no `except`, no `finally`. A process that is thawed goes on with what
came meanwhile, in the order in which it came.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

_running_process: ContextVar["Process"] = ContextVar("process")

BURIAL_STEPS = 20


class Process:
    """A group of tasks. `offset`: seconds by which its wall clock is ahead."""

    def __init__(self, loop: "SimulatedLoop", name: str) -> None:
        self._loop = loop
        self.name = name
        self.dead = False
        self.frozen = False
        self.offset = 0.0
        self.ended_well = False
        self.held: list[asyncio.Handle] = []
        self.when_dead: list[Callable[[], None]] = []

    @property
    def runs(self) -> bool:
        return not (self.dead or self.frozen)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        context = copy_context()
        context.run(_running_process.set, self)
        return self._loop.create_task(work, context=context)

    def crash(self) -> None:
        """Its memory is gone. What it sent is on its way all the same."""
        self.dead = True
        for tell in self.when_dead:
            tell()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self._loop.run_now(self.held)
        self.held = []


def current_process() -> Process | None:
    """The process that the running task belongs to; None: the world itself."""
    return _running_process.get(None)


class SimulatedLoop(asyncio.BaseEventLoop):
    """Time passes only when nothing can run, and then at once. Work for threads is done where it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self  # BaseEventLoop asks it for events, which are none here
        self._processes: list[Process] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make_task)

    def process(self, name: str) -> Process:
        self._processes.append(Process(self, name))
        return self._processes[-1]

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else: nothing will ever happen any more")
        self._now += timeout
        return []

    def run_now(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *arguments: Any) -> Any:
        done = self.create_future()
        try:
            done.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001  # raised where it is awaited
            done.set_exception(error)
        return done

    def bury(self) -> None:
        """Ends all tasks that are left, also those of the dead, when nobody looks any more."""
        for process in self._processes:
            process.dead = process.frozen = False
            self.run_now(process.held)
        for _ in range(BURIAL_STEPS):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.sleep(1))
        self.close()

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _call_soon(self, callback: Any, args: Any, context: Context | None) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def _make_task(self, loop: Any, work: Any, context: Context | None = None) -> asyncio.Task[Any]:
        task = _Task(len(self._tasks), work, loop=loop, context=context)
        self._tasks.append(task)
        return task

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a system call."""


class _Task(asyncio.Task[Any]):
    """Sets of tasks have an order that is the same in every run."""

    def __init__(self, number: int, work: Any, **options: Any) -> None:
        self._number = number
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _Handle(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        if not _held(self):
            super()._run()


class _TimerHandle(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        if not _held(self):
            super()._run()


def _held(handle: Any) -> bool:
    """Whether its process does not run; then it keeps the handle."""
    process = handle._context.get(_running_process)
    if process is None or process.runs:
        return False
    process.held.append(handle)
    return True
