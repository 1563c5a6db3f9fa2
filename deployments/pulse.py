"""Tells a core that hangs from one that is slow.

vLLM's core answers between two steps, and a step may take long: over 35 s were seen for a hundred prompts in bfloat16
on a CPU without instructions for it. What hangs (stopped, deadlocked) neither answers nor works; what is slow works.
"""

import time
from collections.abc import Callable

import psutil

LONG_LOOK_SECONDS = 5.0
"""Looks further apart than this: this process stood still, and an answer of the core may be waiting."""

WORKING_SHARE = 0.1
"""Of a core, that the engine's processes use while they work. Idle ones use a hundredth of it."""


def cpu_seconds_of_children(pid: int | None = None) -> float:
    """CPU time of the processes that this one (or `pid`) started: vLLM's core and workers."""
    total = 0.0
    for child in psutil.Process(pid).children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # it ended meanwhile
            continue
        total += times.user + times.system
    return total


class Pulse:
    """Signs of life: an answer, or work, which counts for `step_seconds` after the last answer. Times are monotonic."""

    def __init__(
        self,
        step_seconds: float,
        cpu_seconds: Callable[[], float] = cpu_seconds_of_children,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step_seconds = step_seconds
        self._cpu_seconds = cpu_seconds
        self._clock = clock
        self._answered = self._looked = self.last_sign = clock()
        self._used = cpu_seconds()

    @property
    def silent(self) -> float:
        """Seconds since the last sign of life."""
        return self._clock() - self.last_sign

    def answered(self) -> None:
        self._answered = self.last_sign = self._clock()

    def look(self, *, receiving: bool = True) -> None:
        """To be called each second or so. `receiving`: an answer of the core would have been seen since the last."""
        now, used = self._clock(), self._cpu_seconds()
        since = now - self._looked
        works = used - self._used >= WORKING_SHARE * since
        self._looked, self._used = now, used
        if not receiving or since > LONG_LOOK_SECONDS:  # time that says nothing about the core
            self.last_sign, self._answered = self.last_sign + since, self._answered + since
            return
        if works and now - self._answered < self._step_seconds:
            self.last_sign = now
