"""Engine replicas: they take their time, hang, die of a line or of nothing, and start again.

A line's text says how it behaves. Its answer repeats the text and carries a number of its own, so that an answer that
took the place of another is seen.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from app.batch.dispatch import Answer, TimedOut
from app.batch.suspects import Beside
from app.capabilities import Capabilities
from app.errors import EngineLost, ReplicaGone
from app.health import ModelHealth
from app.store import Usage
from deployments.occupancy import Call, Occupancy
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

BEAT_SECONDS = 1.0
RESTART_SECONDS = 3.0
LINE_SECONDS = 0.4
"""A usual line takes up to twice this."""
POISON_SECONDS = 0.2

CAPABILITIES = Capabilities({"/v1/chat/completions": frozenset({"model", "messages"})})

News = list[Answer | TimedOut] | Exception | None
"""What a call tells; None is its end."""


@dataclass(eq=False)
class _Call:
    """Lines of one dispatcher at a replica. `left`: positions that it has not told of."""

    process: Process
    bodies: Sequence[bytes]
    beside: Beside
    left: set[int]
    entered: bool = False
    news: "asyncio.Queue[News]" = field(default_factory=asyncio.Queue)
    task: "asyncio.Task[None] | None" = None


class Replica:
    def __init__(self, engines: "Engines", model: str, name: str, slots: int) -> None:
        self._engines = engines
        self._world = engines.world
        self.model, self.name, self.slots = model, name, slots
        self.alive = True
        self.slowness = 1.0
        self.calls: list[_Call] = []
        self._occupancy = Occupancy()
        self._free = asyncio.Semaphore(slots)
        self._works = asyncio.Event()
        self._works.set()

    @property
    def hangs(self) -> bool:
        return not self._works.is_set()

    def open(self, call: _Call) -> None:
        self.calls.append(call)
        call.task = asyncio.get_running_loop().create_task(self._answer(call), context=self._engines.context)
        call.process.when_dead.append(lambda: self._world.network.later(1.0, self.close, call))

    def close(self, call: _Call) -> None:
        """Nobody waits for it any more."""
        if call in self.calls:
            self.calls.remove(call)
            assert call.task is not None
            call.task.cancel()

    def hang(self, seconds: float) -> None:
        """Nothing happens in it for so long; one that does not beat is killed after a while."""
        self._works.clear()
        self._world.network.later(seconds, self._works.set)

    def die(self, why: str, *, explained: bool = False) -> None:
        """`explained`: it is known that its lines have no part in it."""
        if not self.alive:
            return
        self.alive = False
        self._world.trace.note(self.name, "dies:", why)
        for call in list(self.calls):
            for check in self._world.checks:
                check.engine_died(self, call.bodies, call.left if call.entered else set(), why)
            innocent = explained or (call.beside is not Beside.ANYTHING and not call.entered)
            self.close(call)
            self._tell(call, ReplicaGone(why) if innocent else EngineLost(why))
        self._engines.lost(self)

    async def _answer(self, call: _Call) -> None:
        async with self._occupancy.enter(Call.LINES, call.beside):
            await self._works.wait()
            call.entered = True
            self._tell(call, [])
            tasks = [asyncio.create_task(self._line(call, position)) for position in sorted(call.left)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
            self._tell(call, None)
            self.calls.remove(call)

    async def _line(self, call: _Call, position: int) -> None:
        body = json.loads(call.bodies[position])
        text = body["messages"][0]["content"]
        async with self._free:
            if "poison" in text:
                await asyncio.sleep(POISON_SECONDS)
                self._world.network.later(0.0, self.die, f"killed by the line {text}")
                await asyncio.sleep(60)
            chance = self._engines.chance
            if "slow" in text or ("crowded" in text and call.beside is Beside.ANYTHING):
                await asyncio.sleep(self._engines.line_seconds)
                self._give(call, TimedOut(position))
                return
            await asyncio.sleep(chance.random() * 2 * LINE_SECONDS * self.slowness * (10 if "long" in text else 1))
            await self._works.wait()
        status, answer = 200, {"text": text, "try": self._engines.next_number()}
        if "refused" in text:
            status, answer = 400, {"error": {"message": f"{text} is no good", "type": "BadRequestError", "code": 400}}
        self._give(call, Answer(position, status, json.dumps(answer).encode(), Usage(3, 0, 5, 0)))

    def _give(self, call: _Call, news: Answer | TimedOut) -> None:
        call.left.discard(news.position)
        fate = self._engines.fate_of_answer(self)
        if fate == "end lost":
            for check in self._world.checks:
                check.engine_died(self, call.bodies, {*call.left, news.position}, fate)
            self._tell(call, None)
            self.close(call)
            return
        self._tell(call, [news])
        if fate == "twice" and isinstance(news, Answer):
            self._tell(call, [replace(news, body=news.body.replace(b'"try"', b'"another try"'))])

    def _tell(self, call: _Call, news: News) -> None:
        """One after the other: a stream keeps its order."""
        self._world.network.later(0.005, call.news.put_nowait, news)


class Engines:
    """All replicas, and what each process knows of them."""

    def __init__(self, world: "World", models: Sequence[str], replicas: int, slots: int, chance: Random) -> None:
        self.world = world
        self.chance = chance
        self.line_seconds = world.settings.models[0].line_seconds
        self.context = world.context
        self.answer_faults: list[tuple[str, float]] = []
        self.target = replicas
        self._models, self._slots = models, slots
        self._numbers = 0
        self._starts = 0
        self.replicas: list[Replica] = []
        self._views: list[EnginesOf] = []
        for model in models:
            for _ in range(replicas):
                self.start(model)

    def of(self, process: Process) -> "EnginesOf":
        view = EnginesOf(self, process)
        self._views.append(view)
        for replica in self.replicas:
            if replica.alive:
                self.world.network.later(self.world.network.latency(), view.sees, replica)
        return view

    def start(self, model: str) -> None:
        if self.world.over:
            return
        self._starts += 1
        replica = Replica(self, model, f"engine-{self._starts}", self._slots)
        self.replicas = [each for each in self.replicas if each.alive] + [replica]
        for view in self._views:
            self.world.network.later(self.world.network.latency(), view.sees, replica)

    def lost(self, replica: Replica) -> None:
        for view in self._views:
            self.world.network.later(self.world.network.latency(), view.misses, replica)
        self.world.network.later(RESTART_SECONDS, self.start, replica.model)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def fate_of_answer(self, replica: Replica) -> str | None:
        for what, rate in self.answer_faults:
            if self.chance.random() < rate:
                self.world.trace.fault(f"{replica.name}'s answer: {what}")
                return what
        return None

    def hang(self, replica: Replica) -> None:
        """It is killed when it has not beaten for as long as the model's settings say."""
        seconds = self.world.settings.models[0].hang_seconds
        replica.hang(1.0e9)
        for view in self._views:
            self.world.network.later(seconds + 5, view.misses, replica)
        self.world.network.later(seconds, replica.die, "it hung")


class EnginesOf:
    """As one process has them: `Engines` of the dispatcher, `Health` of the gateway."""

    def __init__(self, engines: Engines, process: Process) -> None:
        self._engines = engines
        self._process = process
        self._known: dict[str, Replica] = {}
        self._heard_of: set[str] = set()

    def sees(self, replica: Replica) -> None:
        if replica.alive:
            self._known[replica.name] = replica
            self._heard_of.add(replica.model)

    def misses(self, replica: Replica) -> None:
        self._known.pop(replica.name, None)

    def replicas(self, model: str) -> dict[str, int]:
        return {name: each.slots for name, each in sorted(self._known.items()) if each.model == model}

    async def answers(
        self, model: str, replica: str, endpoint: str, bodies: Sequence[bytes], *, beside: Beside
    ) -> AsyncIterator[list[Answer | TimedOut]]:
        at = self._known.get(replica)
        if at is None or not at.alive:
            raise (EngineLost if beside is Beside.ANYTHING else ReplicaGone)(f"{replica} is dead")
        call = _Call(self._process, bodies, beside, set(range(len(bodies))))
        at.open(call)
        for check in self._engines.world.checks:
            check.lines_sent(self._process, at)
        try:
            while (news := await call.news.get()) is not None:
                if isinstance(news, Exception):
                    raise news
                yield news
        except EngineLost:
            self._suspend(at)
            raise
        finally:
            at.close(call)

    def capabilities(self, model_id: str) -> Capabilities | None:
        return CAPABILITIES if model_id in self._heard_of else None

    def model(self, model_id: str) -> ModelHealth | None:
        return next((each for each in self.models() if each.id == model_id), None)

    def models(self) -> list[ModelHealth]:
        return [
            ModelHealth(each.id, len(self.replicas(each.id)), self._engines.target, None, 0)
            for each in self._engines.world.settings.models
        ]

    def _suspend(self, replica: Replica) -> None:
        """Until its next beat."""
        self.misses(replica)
        self._engines.world.network.later(BEAT_SECONDS, self.sees, replica)
