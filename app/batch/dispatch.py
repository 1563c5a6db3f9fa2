"""Runs the lines of batches on the engine replicas: claim, run, record, release.

`run_once` is one pass. A claimed shard becomes a task that streams its lines to one replica and adds the answers to the
recorder; the loops around it flush, renew the leases, and stop what was cancelled or lost.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from app.batch.lines import LineError, parse_line, requests_of
from app.batch.output import answered_line, unanswered_line
from app.batch.recorder import Recorder, Result
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

    def run(self, model: str, replica: str, endpoint: str, bodies: Sequence[bytes]) -> AsyncIterator[list[Answer]]:
        """Answers as they come, in any order, each position once. Closing the iterator aborts the rest.

        Raises EngineLost; from then on the replica is not among `replicas` until it is known to work.
        """
        ...


@dataclass
class _Run:
    """A shard that runs here."""

    claim: ShardClaim
    replica: str
    left: int
    task: asyncio.Task[None] | None = field(default=None)

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
        self._runs: dict[tuple[str, int, int], _Run] = {}
        self._renewed = time.monotonic()
        self._fault: BaseException | None = None
        self.room_made = asyncio.Event()
        self.shard_answered = asyncio.Event()

    async def run_once(self) -> int:
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
        running = set(self._runs)
        claims = running | self._recorder.claims()
        going_on = await self._store.renew_shards(claims, self._settings.dispatch.lease_seconds)
        self._renewed = time.monotonic()
        for key in running - going_on:
            if (run := self._runs.get(key)) is not None:
                run.stop()

    async def close(self) -> None:
        """Stops all runs and gives their shards back, with what was finished made durable."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for run in list(self._runs.values()):
            run.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._recorder.flush()

    def _shards_wanted(self, model: str) -> Mapping[str, int]:
        """Shards to send to each replica: it gets as many lines again as it runs, so that no slot of it waits for us.

        A replica whose slots are not all taken gets a shard in any case, also one larger than its slots.
        """
        queued = Counter[str]()
        for run in self._runs.values():
            queued[run.replica] += run.left
        wanted = {}
        for replica, slots in self._engines.replicas(model).items():
            room = (2 * slots - queued[replica]) // self._settings.dispatch.shard_lines
            wanted[replica] = max(room, int(queued[replica] < slots))
        return wanted

    async def _claim(self, model: str, shards: int) -> Sequence[ShardClaim]:
        if shards < 1:
            return []
        return await self._store.claim_shards(self._owner, self._settings.dispatch.lease_seconds, model, shards)

    def _start(self, claim: ShardClaim, replica: str) -> None:
        run = _Run(claim, replica, left=claim.count - len(claim.done))
        self._runs[claim.key] = run
        run.task = asyncio.create_task(self._run(run), name=f"{claim.batch_id}/{claim.index}")
        run.task.add_done_callback(self._note_fault)

    def _note_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self.room_made.set()

    async def _run(self, run: _Run) -> None:
        """Ends with the shard complete in the recorder, or given back."""
        claim = run.claim
        lost = False
        try:
            await self._run_lines(run)
            self._recorder.complete(claim)
            self.shard_answered.set()
            self.room_made.set()  # after a failure the next poll is soon enough
            return
        except asyncio.CancelledError:
            log.info("shard stopped", batch=claim.batch_id, shard=claim.index, left=run.left)
        except EngineLost as error:
            lost = not isinstance(error, ReplicaGone)
            log.warning("engine lost", batch=claim.batch_id, shard=claim.index, left=run.left, reason=str(error))
        except ObjectMissing as error:
            await self._input_gone(claim, error)
        except BatchyardError as error:
            log.warning("shard given back", batch=claim.batch_id, shard=claim.index, reason=str(error))
        finally:
            del self._runs[claim.key]
        await self._give_back(claim, lost)

    async def _run_lines(self, run: _Run) -> None:
        claim = run.claim
        data = await self._objects.read(claim.input_key, claim.offset, claim.offset + claim.length)
        todo = [(position, line) for position, line in enumerate(requests_of(data)) if position not in claim.done]
        parsed: list[tuple[int, str, bytes]] = []
        for position, line in todo:
            try:
                request = parse_line(line)
            except LineError as error:  # valid when the batch was validated: the object was changed since
                self._add(run, [_changed_line(claim, position, error)])
            else:
                parsed.append((position, request.custom_id, request.body))
        if not parsed:
            return
        bodies = [body for _, _, body in parsed]
        async for answers in self._engines.run(claim.model, run.replica, claim.endpoint, bodies):
            self._add(run, [_result(claim, parsed[answer.position], answer) for answer in answers])
        if run.left:
            raise EngineLost(f"the engine's stream ended with {run.left} lines unanswered")

    def _add(self, run: _Run, results: Sequence[Result]) -> None:
        self._recorder.add(run.claim, results)
        run.left -= len(results)
        self.room_made.set()

    async def _input_gone(self, claim: ShardClaim, error: ObjectMissing) -> None:
        log.error("input file is gone", batch=claim.batch_id, key=claim.input_key)
        message = f"The input file's content is gone from the object store: {error}"
        await self._store.stop_batch(
            claim.batch_id, {"code": "input_file_gone", "message": message, "param": "input_file_id", "line": None}
        )

    async def _give_back(self, claim: ShardClaim, lost: bool) -> None:
        """Makes durable what was answered, so that it is not run again, and frees the shard at once."""
        try:
            await self._recorder.flush()
            await self._store.release(claim, engine_lost=lost)
        except BatchyardError as error:
            log.warning("shard not given back, its lease will run out", batch=claim.batch_id, reason=str(error))


def _result(claim: ShardClaim, line: tuple[int, str, bytes], answer: Answer) -> Result:
    position, custom_id, _ = line
    body = answered_line(claim.batch_id, claim.first_line + position, custom_id, answer.status, answer.body)
    return Result(position, body, failed=answer.status >= 400, usage=answer.usage)


def _changed_line(claim: ShardClaim, position: int, error: LineError) -> Result:
    line = unanswered_line(claim.batch_id, claim.first_line + position, "", error.code, error.message)
    return Result(position, line, failed=True)
