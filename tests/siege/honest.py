"""A client that does nothing wrong: it asks the same few things again and again, and notes how long each took."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import httpx

from tests.acceptance.lines import chats
from tests.acceptance.server import Server
from tests.siege.attack import BATCHES, CHAT, FILES, chat_body

ONLINE = "online"
LARGE = "large online"
UPLOAD = "upload"
BATCH = "batch"

SECONDS = {ONLINE: 0.25, LARGE: 1.0, "models": 0.25, "livez": 0.25, "list": 0.5, UPLOAD: 1.0, BATCH: 3.0}
"""Each kind of request, and how long it rests between two."""

GOALS = {kind: 1.0 if kind in (ONLINE, LARGE) else 0.2 for kind in SECONDS}
"""Seconds that an attack may add to the slowest answer of a quiet server."""

PATIENCE = 150.0
RETRY_SECONDS = 1.0
"""After a refusal or a broken connection, unless Retry-After is shorter. It is part of the answer's time."""

SETTLE_SECONDS = 3.0
"""In which it learns how fast the server is in peace."""

BATCH_LINES = 5
UPLOAD_BYTES = 1_000_000
LARGE_BYTES = 100_000
"""Of a body that is small to the engine: the rest is blanks."""

RETRIED = (429, 503)


@dataclass
class Ask:
    """One request until its good answer, refusals and repeats included. `took` None: it still waits."""

    kind: str
    begun: float
    took: float | None = None
    wrong: str = ""
    """An answer that no honest client should get, which ends it as well."""

    def seconds(self, now: float) -> float:
        return now - self.begun if self.took is None else self.took


class Honest:
    """Entered, it has been served for a few seconds. A thread a kind, so that none waits for another."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = chats(BATCH_LINES)
        self._file_id = server.upload(self._data)
        self._over = threading.Event()
        self._asks: list[Ask] = []
        self._refusals: list[tuple[float, str]] = []
        self.batches: list[str] = []

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=[kind], daemon=True) for kind in SECONDS]
        for thread in self._threads:
            thread.start()
        self._server.until(lambda: {each.kind for each in self._asks if each.took is not None} == set(SECONDS), 60)
        time.sleep(SETTLE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def slowest(self, kind: str, since: float) -> float:
        """Seconds of the slowest request that was under way at `since` or later; 0: none."""
        now = time.monotonic()
        return max((each.seconds(now) for each in self._since(since) if each.kind == kind), default=0.0)

    def slowest_of_all(self, since: float = 0.0) -> dict[str, float]:
        return {kind: round(self.slowest(kind, since), 3) for kind in SECONDS}

    def refused(self, since: float) -> Counter[str]:
        return Counter(words for at, words in list(self._refusals) if at >= since)

    def wrong(self, since: float) -> set[str]:
        return {f"{each.kind}: {each.wrong}" for each in self._since(since) if each.wrong}

    def well_since(self, moment: float, limits: dict[str, float]) -> bool:
        """Of each kind a request that began after `moment` was answered within its limit, and none waits longer."""
        now = time.monotonic()
        later = [each for each in list(self._asks) if each.begun >= moment and not each.wrong]
        late = any(each.seconds(now) > limits[each.kind] for each in later if each.took is None)
        last = {each.kind: each for each in later if each.took is not None}
        return not late and all(kind in last and last[kind].seconds(now) <= limits[kind] for kind in SECONDS)

    def again(self, moment: float, limits: dict[str, float]) -> float:
        """Seconds from `moment` to the end of the last request that took longer than its limit; 0: none did."""
        slow = [each for each in self._since(moment) if each.seconds(time.monotonic()) > limits[each.kind]]
        return max((each.begun + each.seconds(time.monotonic()) - moment for each in slow), default=0.0)

    def _since(self, moment: float) -> list[Ask]:
        now = time.monotonic()
        return [each for each in list(self._asks) if each.begun + each.seconds(now) >= moment]

    def _run(self, kind: str) -> None:
        headers = dict(self._server.http.headers)
        with httpx.Client(base_url=self._server.url, headers=headers, timeout=PATIENCE) as http:
            send = self._sender(kind, http)
            while not self._over.is_set():
                self._ask(kind, send)
                self._over.wait(SECONDS[kind])

    def _ask(self, kind: str, send: Callable[[], httpx.Response]) -> None:
        self._asks.append(ask := Ask(kind, time.monotonic()))
        while not self._over.is_set():
            answer, words, wait = None, "", RETRY_SECONDS
            try:
                answer = send()
                words = str(answer.status_code)
                wait = min(float(answer.headers.get("retry-after", RETRY_SECONDS)), RETRY_SECONDS)
            except httpx.HTTPError as error:
                words = type(error).__name__
            if answer is not None and answer.status_code not in RETRIED:
                ask.wrong = "" if answer.is_success else f"{words} {answer.text[:200]}"
                ask.took = time.monotonic() - ask.begun
                if answer.is_success and kind == BATCH:
                    self.batches.append(answer.json()["id"])
                return
            self._refusals.append((time.monotonic(), f"{kind} {words}"))
            self._over.wait(wait)

    def _sender(self, kind: str, http: httpx.Client) -> Callable[[], httpx.Response]:
        upload = {"file": ("honest.bin", b"x" * UPLOAD_BYTES)}
        batch = {"input_file_id": self._file_id, "endpoint": CHAT, "completion_window": "24h"}
        large = json.dumps(chat_body()).encode().ljust(LARGE_BYTES)
        kind_of_body = {"content-type": "application/json"}
        return {
            ONLINE: lambda: http.post(CHAT, json=chat_body()),
            LARGE: lambda: http.post(CHAT, content=large, headers=kind_of_body),
            "models": lambda: http.get("/v1/models"),
            "livez": lambda: http.get("/livez"),
            "list": lambda: http.get(BATCHES, params={"limit": 20}),
            UPLOAD: lambda: http.post(FILES, data={"purpose": "user_data"}, files=upload),
            BATCH: lambda: http.post(BATCHES, json=batch),
        }[kind]


def quiet(server: Server, seconds: float) -> dict[str, float]:
    """The slowest answer of each kind, in seconds, while nobody attacks."""
    with Honest(server) as honest:
        time.sleep(seconds)
        return honest.slowest_of_all(time.monotonic() - seconds)
