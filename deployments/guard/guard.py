"""Ends an engine whose front end is stuck or grows without bound, and says why it ended.

A process beside each engine replica, because in the replica nothing can be relied on to act: a request may hold
Python's lock for a minute, or take gigabytes in seconds. The guard sets a bound to both, and acts before Ray's memory
monitor and the kernel, which choose by other measures.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from deployments.guard import memory
from deployments.guard.memory import Room
from deployments.guard.sheet import Sheet

LOOK_SECONDS = 0.2

SCARCE_SHARE = 0.05
"""Of the memory: with less than this left, an engine that has grown is ended. Ray's own monitor acts at 0.02, as we set
it (deployments/environment.py), the kernel at zero, and both may end a process that has not grown."""

SCARCE_GROWTH = 2**30

RECENT_SECONDS = 30.0
"""What was seen of a lack of memory explains an end that follows within this time."""

GIB = 2**30


@dataclass(frozen=True)
class Orders:
    """What to guard, its limits, and the ledger for the reason when it ends. `pid` is that of the replica's process."""

    pid: int
    replica: str
    model: str
    database_url: str
    front_end_seconds: float
    front_end_bytes: int


@dataclass(frozen=True)
class Verdict:
    """Why the engine is ended: `reason` in our words, `work` as the front end reported it."""

    reason: str
    work: str


class Guard:
    """`look` is to be called every LOOK_SECONDS or so. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        orders: Orders,
        sheet: Sheet,
        room: Callable[[], Room] = Room.here,
        kills: Callable[[], int] = memory.kills_for_lack_of_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._orders = orders
        self._sheet = sheet
        self._room = room
        self._kills = kills
        self._clock = clock
        self._process = psutil.Process(orders.pid)
        self._front_end_at_start = self._front_end = memory.resident(self._process)
        self._core_at_start = memory.resident_of_children(self._process)
        self._kills_seen = kills()
        self._killed_at = self._scarce_at = float("-inf")
        self._looked, self._tick, self._stuck = clock(), sheet.tick, 0.0

    def look(self) -> Verdict | None:
        """Why the engine is to be ended; None: it is not. Raises psutil.NoSuchProcess when it has ended by itself."""
        reason = self._too_long() or self._too_large() or self._memory_is_gone()
        return Verdict(reason, self._sheet.work) if reason else None

    def explanation(self) -> str | None:
        """Why the engine ended by itself, as far as it can be seen from here."""
        self._count_kills()
        since = self._clock() - RECENT_SECONDS
        held = f"its front end had {self._front_end / GIB:.1f} GiB"
        if self._killed_at >= since:
            return f"the machine was out of memory, and the kernel ended a process for it; {held}"
        if self._scarce_at >= since:
            return f"the machine's memory was nearly full when it ended; {held}"
        return None

    def _too_long(self) -> str | None:
        """Counts only time in which this process ran as well: on a machine that stood still, no front end is stuck."""
        now, tick = self._clock(), self._sheet.tick
        self._stuck = 0.0 if tick != self._tick else self._stuck + min(now - self._looked, 5 * LOOK_SECONDS)
        self._looked, self._tick = now, tick
        limit = self._orders.front_end_seconds
        if self._stuck <= limit:
            return None
        return f"its front end was busy with one thing for longer than front_end_seconds ({limit:g})"

    def _too_large(self) -> str | None:
        self._front_end = memory.resident(self._process)
        if self._front_end - self._front_end_at_start <= self._orders.front_end_bytes:
            return None
        limit = self._orders.front_end_bytes / GIB
        return f"its front end grew to {self._front_end / GIB:.1f} GiB, by more than front_end_gb ({limit:g})"

    def _memory_is_gone(self) -> str | None:
        self._count_kills()
        room = self._room()
        if room.share >= SCARCE_SHARE:
            return None
        self._scarce_at = self._clock()
        core = memory.resident_of_children(self._process)
        if self._front_end - self._front_end_at_start + core - self._core_at_start < SCARCE_GROWTH:
            return None
        return (
            f"the machine had {room.available / GIB:.1f} GiB of {room.total / GIB:.1f} GiB left, and this engine had "
            f"grown to {(self._front_end + core) / GIB:.1f} GiB, {self._front_end / GIB:.1f} of it in its front end"
        )

    def _count_kills(self) -> None:
        if (kills := self._kills()) > self._kills_seen:
            self._kills_seen, self._killed_at = kills, self._clock()
