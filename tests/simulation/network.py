"""What lies between processes and all that they ask: each message takes its time, and may not arrive, or not come back.

A message whose sender dies or gives up may arrive all the same.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.trace import Trace, Violation

QUICK_SECONDS = 0.01
"""What a message takes, each way, on a good day: at most this."""


@dataclass(frozen=True)
class Message:
    """`seam`: what is asked: ledger, objects or http. `verb`: what it is asked for. `sender`: the process's name."""

    sender: str
    seam: str
    verb: str
    key: str = ""


@dataclass(frozen=True)
class Fate:
    """What becomes of a message. `refused`: it does nothing, and this error is the answer. `lost`: it does what it is
    meant to do, and this error is the answer. Seconds until it arrives, and until its answer does."""

    refused: Exception | None = None
    lost: Exception | None = None
    there: float = 0.0
    back: float = 0.0


class Meddler(Protocol):
    """Whoever says what becomes of messages."""

    def fate(self, message: Message) -> Fate | None: ...


class Network:
    """`fail` is told of what must hold and does not."""

    def __init__(self, loop: SimulatedLoop, trace: Trace, chance: Random, fail: Callable[[Violation], None]) -> None:
        self._loop = loop
        self._trace = trace
        self._chance = chance
        self._nobody = Context()
        self.meddlers: Sequence[Meddler] = ()
        self.closed = False
        self.slowness: dict[str, float] = {}
        """Seams that are slow all the time: seconds, on top of QUICK_SECONDS."""
        self._fail = fail

    def later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        """Whatever becomes of whoever asks for it."""
        self._loop.call_later(seconds, act, *arguments, context=self._nobody)

    def latency(self, seam: str = "") -> float:
        return self._chance.random() * (QUICK_SECONDS + self.slowness.get(seam, 0.0))

    async def send(self, process: Process, message: Message, work: Callable[[], Any]) -> Any:
        """Does the work at the other end. Raises what that raises, and what faults make of it."""
        if self.closed:
            raise asyncio.CancelledError
        fate = next((fate for each in self.meddlers if (fate := each.fate(message))), Fate())
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.later(self.latency(message.seam) + fate.there, self._arrive, process, message, work, fate, answer)
        return await answer

    def _arrive(
        self, process: Process, message: Message, work: Callable[[], Any], fate: Fate, answer: asyncio.Future[Any]
    ) -> None:
        if (answer.cancelled() or process.dead) and self._chance.random() < 0.5:
            self._trace.note(message.sender, "never arrives:", message.seam, message.verb)
            return
        result, error = None, fate.refused
        if error is not None:
            self._trace.note(message.sender, "is refused:", message.seam, message.verb, message.key, str(error))
        else:
            try:
                result = work()
            except Violation as violation:
                self._fail(violation)
                return
            except Exception as raised:  # noqa: BLE001  # raised at the sender
                error = raised
            if fate.lost is not None:
                self._trace.note(message.sender, "gets no answer:", message.seam, message.verb, message.key)
                error = fate.lost
        self.later(self.latency(message.seam) + fate.back, _deliver, answer, result, error)


def _deliver(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
