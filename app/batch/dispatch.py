"""Runs the lines of batches on the engine replicas: claim, send, record, release.

`start_shards` is one pass. A claimed shard becomes a task that sends its lines to one replica and adds the answers to
the recorder; the loops around it flush, renew the leases, and stop what was cancelled or lost.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import structlog

from app.batch.faults import TRIES, broken, pause_seconds, tell
from app.batch.lines import LineError, parse_line, requests_of
from app.batch.recorder import Recorder, Result
from app.batch.running_shard import RunningShard
from app.batch.suspects import DEATHS_AMONG_OTHERS, Beside, Group, after_death, groups
from app.errors import BatchyardError, EngineLost, ObjectMissing, ReplicaGone
from app.objects import Objects
from app.settings import Settings
from app.store import ShardClaim, Store, Usage
from app.telemetry import Alerts, alert

log = structlog.get_logger()

LINE_GONE = "This line is not in the input file any more, whose content was changed after it was validated."

APART_SECONDS = 30.0
"""How long suspects may keep other lines out of a replica before those have a turn there."""


@dataclass(frozen=True)
class Answer:
    """What vLLM said to one line: HTTP status and JSON body. `position` counts from 0 within the call."""

    position: int
    status: int
    body: bytes
    usage: Usage


@dataclass(frozen=True)
class TimedOut:
    """The line at this position took longer than the model's `line_seconds` and was aborted."""

    position: int


class Engines(Protocol):
    """The engine replicas, as the dispatcher needs them."""

    def replicas(self, model: str) -> Mapping[str, int]:
        """The model's replicas that can work now, each with the number of sequences that it runs at once."""
        ...

    def answers(
        self, model: str, replica: str, endpoint: str, bodies: Sequence[bytes], *, beside: Beside
    ) -> AsyncIterator[list[Answer | TimedOut]]:
        """Answers as they come, in any order, each position once; first none, when the lines are in the engine.

        Closing the iterator aborts the rest. `beside`: what else may be in the engine meanwhile. Raises ReplicaGone
        when the replica was lost and the lines have no part in it, else EngineLost; from then on it is not among
        `replicas` until it is known to work.
        """
        ...


class Dispatcher:
    """One owner of claims. `owner` must never be used by another process, not even after a restart.

    `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        store: Store,
        objects: Objects,
        engines: Engines,
        settings: Settings,
        owner: str,
        clock: Callable[[], float] = time.monotonic,
        alert: Alerts = alert,
    ) -> None:
        self._store = store
        self._objects = objects
        self._engines = engines
        self._settings = settings
        self._owner = owner
        self._alert = alert
        self._clock = clock
        self._recorder = Recorder(store, objects)
        self._shards: dict[tuple[str, int, int], RunningShard] = {}
        self._renewed = clock()
        self._looked_for_suspects: dict[str, float] = {}
        self._next_without_suspects: set[str] = set()
        self._fault: BaseException | None = None
        self._draining = False
        self.room_made = asyncio.Event()
        self.shard_answered = asyncio.Event()

    async def start_shards(self) -> int:
        """Starts as many shards as the healthy replicas have room for. Returns how many.

        Starts nothing while results cannot be made durable: they would pile up in memory. Raises what kept a shard from
        being given back and was not foreseen.
        """
        if self._fault is not None:
            raise self._fault
        if self._recorder.stuck:
            return 0
        if self._clock() - self._renewed > self._settings.dispatch.lease_seconds / 2:
            await self.renew()  # the ledger was away, and would give our own shards to us once more
        started = 0
        without_suspects, self._next_without_suspects = self._next_without_suspects, set()
        for model in self._settings.models:
            started += await self._start_suspects(model.id, without_suspects)
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
        self._renewed = self._clock()
        for key in sorted(running - going_on):
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

        A replica whose slots are not all taken gets a shard in any case, also one larger than its slots; one in which
        suspects are to run without other lines gets none.
        """
        queued = self._queued()
        reserved = {shard.replica for shard in self._shards.values() if shard.group.apart}
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

    async def _start_suspects(self, model: str, without: Collection[str]) -> int:
        """One shard with suspects to each replica that has none and is not among `without`."""
        now, looked = self._clock(), self._looked_for_suspects.get(model, float("-inf"))
        taken = {shard.replica for shard in self._shards.values() if shard.suspect}.union(without)
        replicas = [replica for replica in self._engines.replicas(model) if replica not in taken]
        free = sorted(replicas, key=self._queued().__getitem__)
        if not free or now - looked < self._settings.dispatch.poll_seconds:
            return 0
        claims = await self._claim(model, len(free), suspect=True)
        for claim, replica in zip(claims, free, strict=False):
            self._start(claim, replica)
        if len(claims) < len(free):
            self._looked_for_suspects[model] = now
        return len(claims)

    async def _claim(self, model: str, shards: int, *, suspect: bool = False) -> Sequence[ShardClaim]:
        if shards < 1 or self._draining:
            return []
        lease = self._settings.dispatch.lease_seconds
        running = set(self._shards) | self._recorder.claims()
        return await self._store.claim_shards(self._owner, lease, model, shards, suspect=suspect, running=running)

    def _start(self, claim: ShardClaim, replica: str) -> None:
        shard = RunningShard(claim, replica, todo=set(range(claim.count)) - claim.done, slow=set(claim.slow))
        self._shards[claim.key] = shard
        shard.task = asyncio.create_task(self._run_shard(shard), name=f"{claim.batch_id}/{claim.index}")
        shard.task.add_done_callback(self._note_fault)

    def _note_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self.room_made.set()

    async def _run_shard(self, shard: RunningShard) -> None:
        """Ends with the shard complete in the recorder, or given back."""
        claim = shard.claim
        died = went_well = False
        try:
            await self._get_answers(shard)
            went_well = True
            if not shard.todo:
                self._recorder.complete(claim)
                self.shard_answered.set()
                self.room_made.set()
                return
        except asyncio.CancelledError:
            log.info("shard stopped", batch=claim.batch_id, shard=claim.index, left=len(shard.todo))
        except EngineLost as error:
            died = not isinstance(error, ReplicaGone)
            log.warning("engine lost", batch=claim.batch_id, shard=claim.index, left=len(shard.todo), reason=str(error))
        except ObjectMissing as error:
            await self._input_gone(claim, error)
        except (BatchyardError, OSError, MemoryError) as error:
            log.warning("shard given back", batch=claim.batch_id, shard=claim.index, reason=str(error))
        except Exception:
            log.exception("shard put off", batch=claim.batch_id, shard=claim.index)
            await self._put_off(claim)
        finally:
            del self._shards[claim.key]
        await self._give_back(shard, died)
        if went_well:  # after a failure the next poll is soon enough
            self.room_made.set()

    async def _get_answers(self, shard: RunningShard) -> None:
        claim = shard.claim
        data = await self._objects.read(claim.input_key, claim.offset, claim.offset + claim.length)
        lines = list(islice(requests_of(data), claim.count))
        for position in range(len(lines), claim.count):  # valid when validated: the object was changed since
            if position in shard.todo:
                self._add(shard, [shard.changed(position, LineError("line_gone", LINE_GONE))])
        todo = [(position, line) for position, line in enumerate(lines) if position not in claim.done]
        for position, line in todo:
            try:
                shard.requests[position] = parse_line(line)
            except LineError as error:  # here as well
                self._add(shard, [shard.changed(position, error)])
        if shard.suspect:
            await self._send_in_groups(shard)
        else:
            await self._send(shard, Group(list(shard.requests)))

    async def _send_in_groups(self, shard: RunningShard) -> None:
        """Returns when all are sent, or when others are to have a turn at the replica."""
        deaths = {position: number for position, number in shard.deaths().items() if position in shard.requests}
        for group in groups(deaths, shard.slow, shard.claim.count):
            if shard.apart_since is not None and self._clock() - shard.apart_since > APART_SECONDS:
                self._next_without_suspects.add(shard.replica)
                return
            await self._send(shard, group)

    async def _send(self, shard: RunningShard, group: Group) -> None:
        """Returns when each of these lines is answered or has taken too long."""
        shard.group = group
        if not group.positions:
            return
        model, endpoint = shard.claim.model, shard.claim.endpoint
        bodies = [shard.requests[position].body for position in group.positions]
        async for news in self._engines.answers(model, shard.replica, endpoint, bodies, beside=group.beside):
            if group.apart and shard.apart_since is None:
                shard.apart_since = self._clock()
            answers = [each for each in news if isinstance(each, Answer)]
            self._add(shard, [_result(shard, group, answer) for answer in answers])
            if late := {group.positions[each.position] for each in news if isinstance(each, TimedOut)}:
                await self._note_slow(shard, late)
        if unanswered := shard.in_engine:
            raise EngineLost(f"the engine's stream ended with {len(unanswered)} lines unanswered")

    async def _note_slow(self, shard: RunningShard, late: set[int]) -> None:
        """The first time other lines may have been the reason. Without them they were not."""
        claim = shard.claim
        if shard.group.apart and late <= shard.slow:
            self._add(shard, [shard.unanswered(position, "request_timeout") for position in late])
            return
        shard.slow |= late
        shard.group = Group([each for each in shard.group.positions if each not in late], shard.group.beside)
        log.warning("lines took too long", batch=claim.batch_id, shard=claim.index, lines=len(late))
        try:
            await self._store.note_slow(claim, shard.slow)
        except BatchyardError as error:  # they are noted when the shard is given back, unless we die before
            log.warning("slow lines not noted yet", batch=claim.batch_id, shard=claim.index, reason=str(error))

    def _add(self, shard: RunningShard, results: Sequence[Result]) -> None:
        """Of two results of a line the first stands: a client may have seen it."""
        for result in results:
            if result.position in shard.todo:
                shard.todo.remove(result.position)
                self._recorder.add(shard.claim, [result])
        self.room_made.set()

    async def _input_gone(self, claim: ShardClaim, error: ObjectMissing) -> None:
        log.error("input file is gone", batch=claim.batch_id, key=claim.input_key)
        message = f"The input file's content is gone from the object store: {error}"
        fault = {"code": "input_file_gone", "message": message, "param": "input_file_id", "line": None}
        try:
            await self._store.stop_batch(claim.batch_id, fault)
        except BatchyardError as refused:
            log.warning("batch not stopped, its next shard will ask again", batch=claim.batch_id, reason=str(refused))

    async def _put_off(self, claim: ShardClaim) -> None:
        """A fault that nobody foresaw is the batch's own: others need not wait for it."""
        tell(self._alert, claim.batch_id, claim.model, "run")
        try:
            if await self._store.put_off_shards(claim.batch_id, pause_seconds) >= TRIES:
                await self._store.stop_batch(claim.batch_id, broken("run").as_dict())
        except BatchyardError as refused:
            log.warning("fault not counted, its next shard will ask again", batch=claim.batch_id, reason=str(refused))

    async def _give_back(self, shard: RunningShard, died: bool) -> None:
        """Makes durable what was answered, so that it is not run again, and frees the shard at once.

        `died`: an engine did, with the unanswered lines of the last group in it.
        """
        claim = shard.claim
        shard.slow &= shard.todo
        suspects, condemned = shard.suspects(), list[int]()
        if died:
            suspects, condemned = after_death(shard.deaths(), shard.in_engine, claim.count)
        try:
            self._recorder.add(claim, [shard.unanswered(position, "engine_lost") for position in condemned])
            await self._recorder.flush()
            if died and shard.group.alone:
                await self._blame(shard, suspects, len(condemned))
            else:
                await self._store.release(claim, suspects, shard.slow)
        except BatchyardError as error:
            log.warning("shard not given back, its lease will run out", batch=claim.batch_id, reason=str(error))
        if suspects or shard.slow:
            self._looked_for_suspects.pop(claim.model, None)

    async def _blame(self, shard: RunningShard, suspects: Mapping[int, int], condemned: int) -> None:
        """The engine died with nothing but the shard's group in it."""
        claim = shard.claim
        allowance = self._settings.dispatch.engine_losses
        excused = 1 + DEATHS_AMONG_OTHERS * condemned  # this death, and those before it that now have a culprit
        paused = await self._store.blame(claim, suspects, shard.slow, excused=excused, allowance=allowance)
        log.warning(
            "engine killed by suspect lines",
            batch=claim.batch_id,
            shard=claim.index,
            lines=len(shard.group.positions),
            condemned=condemned,
        )
        if paused:
            log.error("batch paused: its lines killed too many engines", batch=claim.batch_id, allowance=allowance)


def _result(shard: RunningShard, sent: Group, answer: Answer) -> Result:
    return shard.answered(sent.positions[answer.position], answer.status, answer.body, answer.usage)
