"""What is watched of a server under fire: its answers, asked all the time, and its ledger."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Self

import httpx

from tests.acceptance.ledger import Ledger
from tests.acceptance.server import Server

LOOK_SECONDS = 0.1
SETTLE_LOOKS = 3


class Prober(threading.Thread):
    """Asks a server the same thing again and again, and notes when it answered what."""

    def __init__(
        self, url: str, ask: Callable[[httpx.Client], str], good: Collection[str], seconds: float, patience: float
    ) -> None:
        super().__init__(daemon=True)
        self._http = httpx.Client(base_url=url, timeout=patience)
        self._ask, self._good, self._seconds = ask, good, seconds
        self._over = threading.Event()
        self.answers: list[tuple[float, str]] = []

    def __enter__(self) -> Self:
        self.start()
        while len(self.answers) < SETTLE_LOOKS:
            self._over.wait(self._seconds)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(60)
        self._http.close()

    def run(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                answer = self._ask(self._http)
            except httpx.HTTPError as error:
                answer = f"no answer ({type(error).__name__})"
            self.answers.append((time.monotonic(), answer))

    def first(self, after: float, *, unlike: str) -> float | None:
        """Seconds from `after` to the first answer that is not this one."""
        return next((at - after for at, answer in self.answers if at > after and answer != unlike), None)

    def good_again(self, after: float) -> float | None:
        """Seconds from `after` to the answer from which on all were good; None when none was bad."""
        bad = [at for at, answer in self.answers if at > after and answer not in self._good]
        return next((at - after for at, _ in self.answers if bad and at > bad[-1]), None)

    def bad(self, after: float) -> set[str]:
        return {answer for at, answer in self.answers if at > after} - set(self._good)

    def times_bad(self, after: float) -> int:
        """How often good answers turned into bad ones."""
        good = [True, *(answer in self._good for at, answer in self.answers if at > after)]
        return sum(before and not now for before, now in pairwise(good))

    def share_good(self) -> float:
        """The share of time: each answer stands for the seconds since the one before."""
        spans = [(at - before, answer in self._good) for (before, _), (at, answer) in pairwise(self.answers)]
        return sum(seconds for seconds, good in spans if good) / sum(seconds for seconds, _ in spans)


def health_prober(server: Server, good: Collection[str] = ("healthy", "degraded")) -> Prober:
    """/health says healthy, degraded or unhealthy; of the first two a batch is accepted."""

    def ask(http: httpx.Client) -> str:
        answer = http.get("/health")
        try:
            return str(answer.json()["status"])
        except (ValueError, KeyError):
            return f"HTTP {answer.status_code}"

    return Prober(server.url, ask, good, LOOK_SECONDS, patience=2)


class LedgerWatch(threading.Thread):
    """Reads the ledger while a batch runs: its rows of shards and segments go when the batch ends."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._ledger = ledger
        self._over = threading.Event()
        self._sent_again: dict[tuple[str, int, int], int] = {}
        self._growth: list[float] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(60)

    def run(self) -> None:
        last = -1
        while not self._over.wait(LOOK_SECONDS):
            with contextlib.suppress(sqlite3.Error):  # a fault of the disk is a fault for us as well
                self._sent_again |= self._ledger.sent_again()
                recorded = self._ledger.recorded()
                if recorded != last:
                    self._growth.append(time.monotonic())
                    last = recorded

    @property
    def twice(self) -> int:
        """Lines that were sent to an engine once more: the most that can have run twice."""
        return sum(self._sent_again.values())

    def longest_pause(self, after: float) -> float | None:
        """The longest time without a new durable answer, from the fault on."""
        moments = [after, *(at for at in self._growth if at > after)]
        return max((later - earlier for earlier, later in pairwise(moments)), default=None)
