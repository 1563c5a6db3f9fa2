"""A whole Batchyard without Ray: real SQLite, a real folder, and engines made of a function from body to answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from app.batch.dispatch import Answer, Dispatcher, TimedOut
from app.batch.lifecycle import Lifecycle
from app.batch.loops import run_loops
from app.batch.suspects import Beside
from app.capabilities import Capabilities
from app.errors import EngineLost, ReplicaGone, StoreUnavailable
from app.objects import Objects
from app.settings import ENDPOINTS, Settings
from app.store import Batch, File, Store, Usage
from deployments.occupancy import Call, Occupancy
from tests.clocks import Clock
from tests.unit.waiting import until

MODEL = "tiny"
ENDPOINT = "/v1/chat/completions"
FINAL = ("completed", "failed", "expired", "cancelled")


class _EveryName(frozenset[str]):
    def __contains__(self, name: object) -> bool:
        return True

    def issuperset(self, names: object) -> bool:
        return True


EVERYTHING = Capabilities({endpoint: _EveryName() for endpoint in ENDPOINTS})
"""Of an engine that ignores nothing."""


class FakeReplicas:
    """Replicas that answer by `reply`; `hold` keeps lines in flight, `kill` ends a replica with what is in it."""

    def __init__(self, slots: int = 8) -> None:
        self.slots = slots
        self.alive = {"r1"}
        self.seen: list[bytes] = []
        self.most_in_flight = 0
        self.in_flight = 0
        self.aborted = 0
        self.deaths = 0
        self.poison: Callable[[bytes], bool] = lambda body: False
        self.too_slow: Callable[[bytes, Beside], bool] = lambda body, beside: False
        self.sent: list[tuple[str, int, Beside]] = []
        """Each call that was in an engine: its replica, its lines, and what else might be there."""
        self.reply: Callable[[bytes], tuple[int, dict[str, Any]]] = lambda body: (200, {"echo": json.loads(body)})
        self.seconds = 0.0
        """That each call takes, however many run beside it."""
        self.open = asyncio.Event()
        self.open.set()
        self.arrived = asyncio.Event()
        self._killed: dict[str, asyncio.Event] = {}
        self._occupancy: dict[str, Occupancy] = {}

    def replicas(self, model: str) -> dict[str, int]:
        return {name: self.slots for name in sorted(self.alive)}

    def hold(self) -> None:
        self.open.clear()

    def kill(self, replica: str) -> None:
        self.alive.discard(replica)
        self._killed.setdefault(replica, asyncio.Event()).set()
        self.deaths += 1

    def restart(self, replica: str) -> None:
        """A new replica by the name of the one that was killed."""
        self._killed[replica], self._occupancy[replica] = asyncio.Event(), Occupancy()
        self.alive.add(replica)

    async def answers(
        self, model: str, replica: str, endpoint: str, bodies: Sequence[bytes], *, beside: Beside
    ) -> AsyncIterator[list[Answer | TimedOut]]:
        killed = self._killed.setdefault(replica, asyncio.Event())
        async with self._occupancy.setdefault(replica, Occupancy()).enter(Call.LINES, beside):
            if killed.is_set():
                raise ReplicaGone("killed before the lines were in it")
            self.sent.append((replica, len(bodies), beside))
            async for some in self._answer_each(replica, bodies, killed, beside):
                yield some

    async def _answer_each(
        self, replica: str, bodies: Sequence[bytes], killed: asyncio.Event, beside: Beside
    ) -> AsyncIterator[list[Answer | TimedOut]]:
        self.in_flight += len(bodies)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        left = len(bodies)
        try:
            if self.seconds:
                await self._wait_or_die(asyncio.sleep(self.seconds), killed)
            for position, body in enumerate(bodies):
                self.arrived.set()
                await self._wait_or_die(self.open.wait(), killed)
                if self.poison(body):
                    self.kill(replica)
                    self.restart(replica)
                    raise EngineLost("killed by a line")
                if self.too_slow(body, beside):
                    yield [TimedOut(position)]
                    continue
                self.seen.append(body)
                status, answer = self.reply(body)
                left -= 1
                self.in_flight -= 1
                yield [Answer(position, status, json.dumps(answer).encode(), Usage(input_tokens=2, output_tokens=3))]
        finally:
            self.in_flight -= left
            self.aborted += left

    async def _wait_or_die(self, work: Coroutine[Any, Any, Any], killed: asyncio.Event) -> None:
        waits = [asyncio.create_task(work), asyncio.create_task(killed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if killed.is_set():
            raise EngineLost("killed by the test")
        await asyncio.sleep(0)


class MortalStore:
    """The store as a process sees it: dead, it writes nothing any more."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dead = False

    def __getattr__(self, verb: str) -> Any:
        if self.dead:
            raise StoreUnavailable("this process is dead")
        return getattr(self._store, verb)


class Yard:
    def __init__(self, folder: Path, **dispatch: Any) -> None:
        self.settings = Settings.load(
            {
                "models": [{"id": MODEL, "source": "x"}],
                "data": str(folder),
                "dispatch": {"shard_lines": 4, "flush_seconds": 0.01, "poll_seconds": 0.01, **dispatch},
            },
            environ={},
        )
        self.clock = Clock()
        self.store = Store.open(self.settings.database_url, self.clock)
        self.objects = Objects(self.settings.objects_url)
        self.engines = FakeReplicas()
        self.capabilities: Capabilities | None = EVERYTHING
        """What the dispatchers have heard of the engines."""

    @asynccontextmanager
    async def dispatcher(self) -> AsyncIterator[Dispatcher]:
        """The loops of one dispatcher process; leaving the block is its sudden death: nothing is given back."""
        owner = uuid4().hex
        store: Any = MortalStore(self.store)
        dispatcher = Dispatcher(store, self.objects, self.engines, self.settings, owner)
        lifecycle = self.lifecycle(owner, store)
        loops = asyncio.create_task(run_loops(dispatcher, lifecycle, self.settings.dispatch))
        try:
            yield dispatcher
        finally:
            store.dead = True
            loops.cancel()
            await asyncio.gather(loops, return_exceptions=True)
            others = [task for task in asyncio.all_tasks() if "/" in task.get_name()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def lifecycle(self, owner: str, store: Any = None) -> Lifecycle:
        return Lifecycle(
            store or self.store,
            self.objects,
            self.settings,
            owner,
            self.clock,
            capabilities=lambda model: self.capabilities,
        )

    async def upload(self, data: bytes) -> File:
        file_id = f"file-{uuid4().hex[:24]}"
        await self.objects.put(f"files/{file_id}", data)
        file = File(file_id, "default", "batch", "in.jsonl", len(data), f"files/{file_id}", self.clock())
        return await self.store.add_file(file)

    async def create(self, data: bytes, **fields: Any) -> str:
        file = await self.upload(data)
        batch = Batch(
            id=f"batch_{uuid4().hex[:24]}",
            tenant="default",
            status="validating",
            endpoint=ENDPOINT,
            input_file_id=file.id,
            completion_window="24h",
            created_at=self.clock(),
            expires_at=self.clock() + 86_400,
            **fields,
        )
        return (await self.store.create_batch(batch, queued_lines_limit=1_000_000)).id

    async def batch(self, batch_id: str) -> Batch:
        batch = await self.store.batch("default", batch_id)
        assert batch is not None
        return batch

    async def until(self, batch_id: str, done: Callable[[Batch], bool]) -> Batch:
        """The batch as soon as `done` says so; polls the state that a client would poll."""

        async def found() -> Batch | None:
            return batch if done(batch := await self.batch(batch_id)) else None

        batch: Batch = await until(found)
        return batch

    async def finished(self, batch_id: str) -> Batch:
        return await self.until(batch_id, lambda batch: batch.status in FINAL)

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        file = await self.store.file("default", file_id)
        assert file is not None
        data = await self.objects.read(file.object_key)
        assert len(data) == file.bytes
        return [json.loads(line) for line in data.splitlines()]


def request(custom_id: str, **body: Any) -> bytes:
    line = {
        "custom_id": custom_id,
        "method": "POST",
        "url": ENDPOINT,
        "body": {"model": MODEL, "messages": [{"role": "user", "content": custom_id}], **body},
    }
    return json.dumps(line).encode()


def requests(count: int) -> bytes:
    return b"".join(request(f"line-{number}") + b"\n" for number in range(count))
