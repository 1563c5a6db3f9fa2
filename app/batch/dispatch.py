"""Runs the lines of batches on the engine replicas: claim, send, record, release.

`start_shards` is one pass. A claimed shard becomes a task that sends its lines to one replica and adds the answers to
the recorder; the loops around it flush, renew the leases, and stop what was cancelled or lost.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from app.batch.lines import Line, LineError, parse_line, requests_of
from app.batch.output import answered_line, unanswered_line
from app.batch.recorder import Recorder, Result
from app.batch.suspects import after_death, groups, in_flight_at_a_death
from app.errors import BatchyardError, EngineLost, ObjectMissing, ReplicaGone
from app.objects import Objects
from app.settings import Settings
from app.store import ShardClaim, Store, Usage

log = structlog.get_logger()


@dataclass(frozen=True)
class Answer:
    """What vLLM said to one line: HTTP status and JSON body. `position` counts from 0 within the call."""

    position: int
    status: int
    body: bytes
    usage: Usage


class Engines(Protocol):
    """The engine replicas, as the dispatcher needs them."""

    def replicas(self, model: str) -> Mapping[str, int]:
        """The model's replicas that can work now, each with the number of sequences that it runs at once."""
        ...

    def answers(
        self, model: str, replica: str, endpoint: str, bodies: Sequence[bytes], *, alone: bool
    ) -> AsyncIterator[list[Answer]]:
        """Answers as they come, in any order, each position once. Closing the iterator aborts the rest.

        `alone`: nothing else is in the engine meanwhile. Raises ReplicaGone when the engine was lost before the lines
        were in it, else EngineLost; from then on the replica is not among `replicas` until it is known to work.
        """
        ...


@dataclass
class _RunningShard:
    """A shard that runs here."""

    claim: ShardClaim
    replica: str
    todo: set[int]
    """Positions without an answer."""
    group: list[int] = field(default_factory=list)
    """Those of them that are in the engine alone, if it is a shard with suspects."""
    requests: dict[int, Line] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    @property
    def suspect(self) -> bool:
        return bool(self.claim.suspects)

    def suspects(self) -> dict[int, int]:
        """Of what is to do, each with the number of deaths that it was in."""
        return {position: self.claim.suspects.get(position, 1) for position in self.todo}

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Dispatcher:
    """One owner of claims. `owner` must never be used by another process, not even after a restart."""

    def __init__(self, store: Store, objects: Objects, engines: Engines, settings: Settings, owner: str) -> None:
        self._store = store
        self._objects = objects
        self._engines = engines
        self._settings = settings
        self._owner = owner
        self._recorder = Recorder(store, objects)
        self._shards: dict[tuple[str, int, int], _RunningShard] = {}
        self._renewed = time.monotonic()
        self._looked_for_suspects: dict[str, float] = {}
        self._fault: BaseException | None = None
        self._draining = False
        self.room_made = asyncio.Event()
        self.shard_answered = asyncio.Event()

    async def start_shards(self) -> int:
        """Starts as many shards as the healthy replicas have room for. Returns how many.

        Starts nothing while results cannot be made durable: they would pile up in memory. Raises what ended a shard's
        task and was not foreseen.
        """
        if self._fault is not None:
            raise self._fault
        if self._recorder.stuck:
            return 0
        if time.monotonic() - self._renewed > self._settings.dispatch.lease_seconds / 2:
            await self.renew()  # the ledger was away, and would give our own shards to us once more
        started = 0
        for model in self._settings.models:
            started += await self._start_suspects(model.id)
            for replica, shards in self._shards_wanted(model.id).items():
                for claim in await self._claim(model.id, shards):
                    self._start(claim, replica)
                    started += 1
        return started

    async def flush(self) -> int:
        """Makes results durable; returns how many."""
        return await self._recorder.flush()

    async def renew(self) -> None:
        """Keeps the leases of what runs or waits to be recorded; stops what was taken away or whose batch is ending."""
        running = set(self._shards)
        claims = running | self._recorder.claims()
        going_on = await self._store.renew_shards(claims, self._settings.dispatch.lease_seconds)
        self._renewed = time.monotonic()
        for key in running - going_on:
            if (shard := self._shards.get(key)) is not None:
                shard.stop()

    async def drain(self, seconds: float) -> None:
        """Starts nothing any more, and returns when what runs has ended, at the latest after so long."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while tasks := self._tasks():  # a claim that is under way may still start one
                    await asyncio.wait(tasks)

    async def close(self) -> None:
        """Stops all runs and gives their shards back, with what was finished made durable."""
        tasks = self._tasks()
        for shard in list(self._shards.values()):
            shard.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._recorder.flush()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [shard.task for shard in self._shards.values() if shard.task is not None]

    def _shards_wanted(self, model: str) -> Mapping[str, int]:
        """Shards to send to each replica: it gets as many lines again as it runs, so that no slot of it waits for us.

        A replica whose slots are not all taken gets a shard in any case, also one larger than its slots; one that has
        suspects gets none.
        """
        queued = self._queued()
        reserved = {shard.replica for shard in self._shards.values() if shard.suspect}
        wanted = {}
        for replica, slots in self._engines.replicas(model).items():
            if replica in reserved:
                continue
            room = (2 * slots - queued[replica]) // self._settings.dispatch.shard_lines
            wanted[replica] = max(room, int(queued[replica] < slots))
        return wanted

    def _queued(self) -> Counter[str]:
        """Lines that each replica has from us."""
        queued = Counter[str]()
        for shard in self._shards.values():
            queued[shard.replica] += len(shard.todo)
        return queued

    async def _start_suspects(self, model: str) -> int:
        """A shard with suspects goes to the replica that has least to do, one at a time: the others work on."""
        now, looked = time.monotonic(), self._looked_for_suspects.get(model, float("-inf"))
        replicas = self._engines.replicas(model)
        busy = any(shard.suspect and shard.claim.model == model for shard in self._shards.values())
        if busy or not replicas or now - looked < self._settings.dispatch.poll_seconds:
            return 0
        for claim in await self._claim(model, 1, suspect=True):
            queued = self._queued()
            self._start(claim, min(replicas, key=queued.__getitem__))
            return 1
        self._looked_for_suspects[model] = now
        return 0

    async def _claim(self, model: str, shards: int, *, suspect: bool = False) -> Sequence[ShardClaim]:
        if shards < 1 or self._draining:
            return []
        lease = self._settings.dispatch.lease_seconds
        running = set(self._shards) | self._recorder.claims()
        return await self._store.claim_shards(self._owner, lease, model, shards, suspect=suspect, running=running)

    def _start(self, claim: ShardClaim, replica: str) -> None:
        shard = _RunningShard(claim, replica, todo=set(range(claim.count)) - claim.done)
        self._shards[claim.key] = shard
        shard.task = asyncio.create_task(self._run_shard(shard), name=f"{claim.batch_id}/{claim.index}")
        shard.task.add_done_callback(self._note_fault)

    def _note_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self.room_made.set()

    async def _run_shard(self, shard: _RunningShard) -> None:
        """Ends with the shard complete in the recorder, or given back."""
        claim = shard.claim
        died = False
        try:
            await self._get_answers(shard)
            self._recorder.complete(claim)
            self.shard_answered.set()
            self.room_made.set()  # after a failure the next poll is soon enough
            return
        except asyncio.CancelledError:
            log.info("shard stopped", batch=claim.batch_id, shard=claim.index, left=len(shard.todo))
        except EngineLost as error:
            died = not isinstance(error, ReplicaGone)
            log.warning("engine lost", batch=claim.batch_id, shard=claim.index, left=len(shard.todo), reason=str(error))
        except ObjectMissing as error:
            await self._input_gone(claim, error)
        except BatchyardError as error:
            log.warning("shard given back", batch=claim.batch_id, shard=claim.index, reason=str(error))
        finally:
            del self._shards[claim.key]
        await self._give_back(shard, died)

    async def _get_answers(self, shard: _RunningShard) -> None:
        claim = shard.claim
        data = await self._objects.read(claim.input_key, claim.offset, claim.offset + claim.length)
        todo = [(position, line) for position, line in enumerate(requests_of(data)) if position not in claim.done]
        for position, line in todo:
            try:
                shard.requests[position] = parse_line(line)
            except LineError as error:  # valid when the batch was validated: the object was changed since
                self._add(shard, [_changed_line(claim, position, error)])
        if not shard.suspect:
            await self._send(shard, list(shard.requests))
            return
        for group in groups(shard.suspects(), claim.count):
            shard.group = group
            await self._send(shard, group)

    async def _send(self, shard: _RunningShard, positions: Sequence[int]) -> None:
        """Returns when each of these lines is answered."""
        if not positions:
            return
        claim, bodies = shard.claim, [shard.requests[position].body for position in positions]
        async for answers in self._engines.answers(
            claim.model, shard.replica, claim.endpoint, bodies, alone=shard.suspect
        ):
            self._add(shard, [_result(shard, positions[answer.position], answer) for answer in answers])
        if unanswered := shard.todo.intersection(positions):
            raise EngineLost(f"the engine's stream ended with {len(unanswered)} lines unanswered")

    def _add(self, shard: _RunningShard, results: Sequence[Result]) -> None:
        self._recorder.add(shard.claim, results)
        shard.todo.difference_update(result.position for result in results)
        self.room_made.set()

    async def _input_gone(self, claim: ShardClaim, error: ObjectMissing) -> None:
        log.error("input file is gone", batch=claim.batch_id, key=claim.input_key)
        message = f"The input file's content is gone from the object store: {error}"
        fault = {"code": "input_file_gone", "message": message, "param": "input_file_id", "line": None}
        try:
            await self._store.stop_batch(claim.batch_id, fault)
        except BatchyardError as refused:
            log.warning("batch not stopped, its next shard will ask again", batch=claim.batch_id, reason=str(refused))

    async def _give_back(self, shard: _RunningShard, died: bool) -> None:
        """Makes durable what was answered, so that it is not run again, and frees the shard at once.

        `died`: an engine did, with the unanswered lines in it.
        """
        claim = shard.claim
        try:
            if not died:
                await self._recorder.flush()
                await self._store.release(claim)
            elif not shard.suspect:
                await self._recorder.flush()
                await self._store.release(claim, in_flight_at_a_death(shard.todo))
            else:
                await self._blame(shard)
        except BatchyardError as error:
            log.warning("shard not given back, its lease will run out", batch=claim.batch_id, reason=str(error))

    async def _blame(self, shard: _RunningShard) -> None:
        """The engine died with nothing but the shard's group in it."""
        claim = shard.claim
        suspects, condemned = after_death(shard.suspects(), shard.todo.intersection(shard.group), claim.count)
        self._recorder.add(claim, [_condemned_line(shard, position) for position in condemned])
        await self._recorder.flush()
        allowance = self._settings.dispatch.engine_losses
        paused = await self._store.blame(claim, suspects, len(condemned), allowance)
        log.warning(
            "engine killed by suspect lines",
            batch=claim.batch_id,
            shard=claim.index,
            lines=len(shard.group),
            condemned=len(condemned),
        )
        if paused:
            log.error("batch paused: its lines killed too many engines", batch=claim.batch_id, allowance=allowance)


def _result(shard: _RunningShard, position: int, answer: Answer) -> Result:
    claim, custom_id = shard.claim, shard.requests[position].custom_id
    body = answered_line(claim.batch_id, claim.first_line + position, custom_id, answer.status, answer.body)
    return Result(position, body, failed=answer.status >= 400, usage=answer.usage)


def _condemned_line(shard: _RunningShard, position: int) -> Result:
    message = "The engine died twice with nothing but this request in it."
    claim, custom_id = shard.claim, shard.requests[position].custom_id
    line = unanswered_line(claim.batch_id, claim.first_line + position, custom_id, "engine_lost", message)
    return Result(position, line, failed=True)


def _changed_line(claim: ShardClaim, position: int, error: LineError) -> Result:
    line = unanswered_line(claim.batch_id, claim.first_line + position, "", error.code, error.message)
    return Result(position, line, failed=True)
