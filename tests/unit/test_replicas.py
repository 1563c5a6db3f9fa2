"""Who counts as healthy, lost or taken away: the watch over fake handles, with Serve's board written by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from app.batch.suspects import Beside
from app.capabilities import Capabilities
from app.errors import EngineLost, ReplicaGone
from app.health import ModelHealth
from app.settings import ModelSettings
from app.store import Restarts
from deployments.messages import CoreDeath, Heartbeat
from deployments.placement import Finding
from deployments.replicas import losses as losses_module
from deployments.replicas import watch as watch_module
from deployments.replicas.board import board
from deployments.replicas.engines import RayEngines
from deployments.replicas.losses import Losses
from deployments.replicas.watch import ReplicaWatch
from tests.unit.waiting import until

ENGINE = "Engine:tiny"


class Stream:
    """What a replica's `watch` streams: the test puts heartbeats and errors into it."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = False

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        item = await self.items.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment's handle, as far as watch and engines use it."""

    deployment_name = ENGINE

    def __init__(self) -> None:
        self.streams: dict[str, list[Stream]] = {}
        self.run_error: Exception = EngineLost("broken")
        self.entered = True
        self.begun: list[str] = []
        self.dies_at_begin: Exception | None = None

    def options(self, stream: bool) -> "Handle":
        return self

    @property
    def watch(self) -> Any:
        return self._Method(lambda replica: self.streams.setdefault(replica, []).append(Stream()) or self.last(replica))

    @property
    def check_health(self) -> Any:
        return self._Method(lambda: asyncio.sleep(0))

    @property
    def answer_lines(self) -> Any:
        def broken(endpoint: str, bodies: Any, beside: Beside, call: str, replica: str) -> Stream:
            stream = Stream()
            if self.entered:
                stream.items.put_nowait([])
            stream.items.put_nowait(self.run_error)
            return stream

        return self._Method(broken)

    @property
    def begin(self) -> Any:
        async def begin(call: str, replica: str) -> None:
            self.begun.append(replica)
            if self.dies_at_begin is not None:
                raise self.dies_at_begin

        return self._Method(begin)

    def last(self, replica: str) -> Stream:
        return self.streams[replica][-1]

    class _Method:
        def __init__(self, call: Any) -> None:
            self.remote = call


class Scene:
    def __init__(self, hang_seconds: float = 30, front_end_seconds: float = 30) -> None:
        self.now = 1000.0
        self.handle: Any = Handle()
        settings = ModelSettings(id="tiny", source="x", hang_seconds=hang_seconds, front_end_seconds=front_end_seconds)
        self.lost: list[str] = []
        self.reason = ""
        self.restarts = Restarts()
        self.finding = Finding()
        self.nodes = {"here", "elsewhere"}
        self.nodes_asked = 0
        self.watch = ReplicaWatch(
            [settings],
            {"tiny": self.handle},
            restarts=lambda model: self.restarts,
            finding=lambda model: self.finding,
            lost=self._note_loss,
            clock=self._clock,
        )

    def _note_loss(self, model: str, replica: str, reason: str) -> None:
        self.lost.append(replica)
        self.reason = reason

    async def beat(self, name: str) -> None:
        await until(lambda: name in self.handle.streams)
        self.handle.last(name).items.put_nowait(Heartbeat(8))
        await until(lambda: name in self.watch.replicas("tiny"))

    async def loss(self, name: str, beside: Beside = Beside.ANYTHING) -> EngineLost:
        """What is raised to a dispatcher whose lines were sent to this replica."""
        engines = RayEngines(self.watch, {"tiny": self.handle}, Losses(self.watch, self._lives, "here", self._clock))
        with pytest.raises(EngineLost) as caught:
            async for answers in engines.answers("tiny", name, "/v1/x", [b"{}"], beside=beside):
                assert answers == [], "nothing was answered"
        return caught.value

    async def _lives(self, node: str) -> bool:
        self.nodes_asked += 1
        return node in self.nodes

    def _clock(self) -> float:
        return self.now

    @property
    def health(self) -> ModelHealth:
        found = self.watch.model("tiny")
        assert found is not None
        return found

    @property
    def healthy(self) -> set[str]:
        return set(self.watch.replicas("tiny"))

    @property
    def losses(self) -> int:
        return len(self.lost)


@asynccontextmanager
async def running(scene: Scene, *names: str) -> AsyncIterator[Scene]:
    board.write(ENGINE, frozenset(names))
    task = asyncio.create_task(scene.watch.run())
    try:
        for name in names:
            await scene.beat(name)
        yield scene
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        board.write(ENGINE, frozenset())


async def test_the_first_look_ends_with_the_first_beat() -> None:
    async with running(Scene()) as scene:
        look = asyncio.create_task(scene.watch.first_look())
        board.write(ENGINE, frozenset({"a"}))
        await asyncio.sleep(0)
        assert not look.done()
        await scene.beat("a")
        await asyncio.wait_for(look, 1)


async def test_the_first_look_does_not_wait_for_a_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "FIRST_LOOK_SECONDS", 0.01)
    async with running(Scene()) as scene:
        await asyncio.wait_for(scene.watch.first_look(), 1)
        assert not scene.healthy


async def test_what_a_model_can_do_is_known_from_its_first_beat_and_after_its_replica_is_lost() -> None:
    chatting = Capabilities({"/v1/chat/completions": frozenset({"model"})})
    async with running(Scene(), "a") as scene:
        assert scene.watch.capabilities("tiny") is None
        scene.handle.last("a").items.put_nowait(Heartbeat(8, chatting))
        scene.handle.last("a").items.put_nowait(Heartbeat(8))
        scene.handle.last("a").items.put_nowait(ConnectionError("killed"))
        await until(lambda: not scene.healthy)
        assert scene.watch.capabilities("tiny") == chatting


async def test_a_replica_whose_stream_breaks_is_lost_at_once_and_counts_once() -> None:
    async with running(Scene(), "a", "b") as scene:
        scene.handle.last("a").items.put_nowait(ConnectionError("killed"))
        await until(lambda: scene.healthy == {"b"})
        assert scene.losses == 1
        board.write(ENGINE, frozenset({"b"}))
        await asyncio.sleep(0)
        assert scene.losses == 1


async def test_a_core_that_is_dead_is_a_loss_in_its_own_words_and_is_not_asked_again() -> None:
    async with running(Scene(), "a") as scene:
        scene.handle.last("a").items.put_nowait(CoreDeath("vLLM's core is gone: no memory"))
        await until(lambda: scene.losses)
        assert scene.reason == "EngineLost: vLLM's core is gone: no memory"
        await asyncio.sleep(2 * watch_module.REWATCH_SECONDS)
        assert (len(scene.handle.streams["a"]), scene.healthy) == (1, set())
        scene.handle.last("a").items.put_nowait(ConnectionError("killed"))
        await until(lambda: len(scene.handle.streams["a"]) == 2)
        assert scene.losses == 1


async def test_what_a_replica_raised_is_told_in_its_own_words_and_not_in_rays() -> None:
    raised = RayTaskError("watch", "Traceback: much of it", EngineLost("vLLM's core is gone: no memory"))
    async with running(Scene(), "a") as scene:
        scene.handle.last("a").items.put_nowait(raised.as_instanceof_cause())
        await until(lambda: scene.losses)
        assert scene.reason == "EngineLost: vLLM's core is gone: no memory"


async def test_a_kill_that_the_board_knows_before_the_stream_breaks_counts_too() -> None:
    async with running(Scene(), "a", "b") as scene:
        board.write(ENGINE, frozenset({"b"}))
        await until(lambda: scene.healthy == {"b"})
        scene.handle.last("a").items.put_nowait(ConnectionError("killed"))
        await until(lambda: scene.losses == 1)


async def test_a_replica_that_serve_takes_away_is_no_loss_and_its_stream_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "DEPARTURE_SECONDS", 0.05)
    async with running(Scene(), "a", "b") as scene:
        board.write(ENGINE, frozenset({"b"}))
        await until(lambda: scene.handle.last("a").cancelled)
        assert (scene.healthy, scene.losses) == ({"b"}, 0)


async def test_a_replica_out_of_service_stands_in_until_its_successor_beats_and_gets_no_lines() -> None:
    async with running(Scene(), "old") as scene:
        board.write(ENGINE, frozenset({"new"}))
        await until(lambda: "new" in scene.handle.streams)
        assert scene.healthy == set()
        health = scene.watch.model("tiny")
        assert health is not None and health.healthy == 1
        scene.handle.last("old").items.put_nowait(ConnectionError("killed"))
        await until(lambda: scene.losses == 1)
        health = scene.watch.model("tiny")
        assert health is not None and health.healthy == 0


async def test_a_replica_that_beats_again_is_healthy_again() -> None:
    async with running(Scene(), "a") as scene:
        scene.handle.last("a").items.put_nowait(ConnectionError("a hiccup"))
        await until(lambda: scene.losses == 1)
        await until(lambda: len(scene.handle.streams["a"]) == 2)
        await scene.beat("a")
        assert scene.losses == 1


async def test_a_name_that_leaves_the_board_and_comes_back_is_watched_again() -> None:
    async with running(Scene(), "a") as scene:
        board.write(ENGINE, frozenset())
        scene.handle.last("a").items.put_nowait(ConnectionError("gone"))
        await until(lambda: scene.healthy == set())
        await until(lambda: len(scene.handle.streams["a"]) == 2)  # the watch has tried again
        seen = len(scene.handle.streams["a"])
        board.write(ENGINE, frozenset({"a"}))
        await until(lambda: len(scene.handle.streams["a"]) > seen)
        await scene.beat("a")


@pytest.mark.parametrize(
    ("hang_seconds", "front_end_seconds", "silent", "healthy"),
    [(30, 30, 34, True), (30, 30, 36, False), (60, 30, 36, True), (30, 60, 36, True)],
)
async def test_a_silent_replica_is_healthy_for_as_long_as_its_core_or_its_front_end_may_take(
    hang_seconds: float, front_end_seconds: float, silent: float, healthy: bool
) -> None:
    async with running(Scene(hang_seconds, front_end_seconds), "a") as scene:
        scene.now += silent
        assert bool(scene.healthy) is healthy


def test_of_all_that_is_known_one_reason_is_told_the_newest_cause() -> None:
    scene = Scene()
    scene.finding = Finding(trouble="its replicas do not start: KeyError")
    assert scene.health.reason == "its replicas do not start: KeyError"
    scene.restarts = Restarts(failure="the folder of model tiny is not there: /x", failure_age=3)
    assert scene.health.reason == "the folder of model tiny is not there: /x"
    scene.finding = Finding(shortage="it needs 1 GPU", trouble="its replicas do not start: KeyError")
    assert scene.health.reason == "it needs 1 GPU"


async def test_a_failure_from_before_the_model_was_healthy_is_no_reason() -> None:
    async with running(Scene(), "a") as scene:
        scene.restarts = Restarts(failure="no memory", failure_age=30)
        scene.handle.last("a").items.put_nowait(ConnectionError("killed"))
        await until(lambda: scene.losses == 1)
        scene.now += 10
        assert scene.health.reason is None
        scene.restarts = Restarts(failure="no memory", failure_age=8)
        assert scene.health.reason == "no memory"


def test_a_model_that_loads_for_the_first_time_is_starting() -> None:
    scene = Scene()
    assert (scene.health.state, scene.health.starting) == ("starting", "starting its process")
    scene.restarts = Restarts(newest_start_age=12.4)
    assert (scene.health.state, scene.health.starting) == ("starting", "loading the model for 12 s")


@pytest.mark.parametrize(
    "known",
    [
        Restarts(newest_start_age=3, failure="no memory", failure_age=9),
        Restarts(newest_start_age=3, all_planned=False),
        Restarts(newest_start_age=1801),
    ],
    ids=["a start failed", "this is not the first start", "it is over start_seconds"],
)
def test_a_model_whose_first_start_has_ended_is_unhealthy(known: Restarts) -> None:
    scene = Scene()
    scene.restarts = known
    assert (scene.health.state, scene.health.starting) == ("unhealthy", None)


def test_a_model_that_lacks_something_is_not_starting() -> None:
    scene = Scene()
    scene.finding = Finding(shortage="it needs 1 GPU")
    assert (scene.health.state, scene.health.starting) == ("unhealthy", None)


async def test_a_model_that_was_healthy_is_not_starting() -> None:
    async with running(Scene(), "a") as scene:
        scene.handle.last("a").items.put_nowait(ConnectionError("killed"))
        await until(lambda: scene.losses == 1)
        assert (scene.health.state, scene.health.starting) == ("unhealthy", None)


DIED = ActorDiedError()
REFUSED = RayTaskError("answer_lines", "", ReplicaGone("refused")).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "entered", "beside", "raised"),
    [
        (ReplicaGone("refused"), False, Beside.ANYTHING, ReplicaGone),
        (REFUSED, False, Beside.ANYTHING, ReplicaGone),
        (DIED, False, Beside.ANYTHING, ReplicaGone),
        (DIED, False, Beside.NOTHING, ReplicaGone),
        (DIED, False, Beside.ONLINE, ReplicaGone),
        (DIED, True, Beside.ANYTHING, EngineLost),
        (DIED, True, Beside.NOTHING, EngineLost),
        (DIED, True, Beside.ONLINE, EngineLost),
        (RayTaskError("answer_lines", "", EngineLost("dead")).as_instanceof_cause(), True, Beside.ANYTHING, EngineLost),
    ],
)
async def test_lines_have_a_part_in_a_loss_from_when_they_were_told_to_enter_unless_they_were_refused(
    error: Exception, entered: bool, beside: Beside, raised: type[EngineLost]
) -> None:
    async with running(Scene(), "a") as scene:
        scene.handle.run_error, scene.handle.entered = error, entered
        assert type(await scene.loss("a", beside)) is raised


@pytest.mark.parametrize("beside", Beside)
async def test_lines_that_kill_as_they_enter_have_a_part_in_it_though_nothing_is_heard_of_them(beside: Beside) -> None:
    """As one whose validation holds up the whole process: not even the answer to `begin` gets out."""
    async with running(Scene(), "a") as scene:
        scene.handle.dies_at_begin = DIED
        assert type(await scene.loss("a", beside)) is EngineLost
        assert scene.handle.begun == ["a"]


async def test_a_replica_that_lost_lines_is_not_used_until_it_beats_again() -> None:
    async with running(Scene(), "a") as scene:
        scene.handle.run_error = DIED
        await scene.loss("a")
        assert scene.watch.replicas("tiny") == {}
        await scene.beat("a")
        assert scene.watch.replicas("tiny") == {"a": 8}


async def test_lines_of_a_node_that_went_have_no_part_in_it_even_if_that_is_known_later() -> None:
    async with running(Scene(), "a") as scene:
        board.write(ENGINE, frozenset({"a"}), {"a": "elsewhere"})
        scene.handle.run_error = DIED
        loss = asyncio.create_task(scene.loss("a"))
        await until(lambda: scene.nodes_asked > 1)
        assert not loss.done()
        scene.nodes.discard("elsewhere")
        assert type(await loss) is ReplicaGone


async def test_a_death_on_a_node_that_lives_is_that_of_its_lines() -> None:
    async with running(Scene(), "a") as scene:
        board.write(ENGINE, frozenset({"a"}), {"a": "elsewhere"})
        scene.handle.run_error = DIED
        loss = asyncio.create_task(scene.loss("a"))
        await until(lambda: scene.nodes_asked)
        scene.now += losses_module.NODE_SECONDS
        assert type(await loss) is EngineLost


async def test_lines_of_a_replica_that_serve_had_taken_out_of_service_have_no_part_in_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "DEPARTURE_SECONDS", 0.01)
    async with running(Scene(), "a") as scene:
        board.write(ENGINE, frozenset())
        await until(lambda: scene.handle.last("a").cancelled)
        scene.handle.run_error = DIED
        assert type(await scene.loss("a")) is ReplicaGone


async def test_lines_of_a_replica_that_serve_took_away_because_it_hung_have_a_part_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "DEPARTURE_SECONDS", 0.01)
    async with running(Scene(), "a") as scene:
        scene.now += 31
        board.write(ENGINE, frozenset())
        await until(lambda: scene.handle.last("a").cancelled)
        scene.handle.run_error = DIED
        assert type(await scene.loss("a")) is EngineLost


@pytest.mark.parametrize(
    "error",
    [
        ActorUnavailableError("connection reset", None),
        RayTaskError("answer_lines", "", OSError("no space left for the answers")).as_instanceof_cause(),
    ],
    ids=["the connection broke", "the replica met an error and not its core"],
)
async def test_lines_of_a_replica_that_lives_on_have_no_part_in_the_end_of_their_call(error: Exception) -> None:
    async with running(Scene(), "a") as scene:
        scene.handle.run_error = error
        loss = asyncio.create_task(scene.loss("a"))
        await until(lambda: not scene.healthy)
        await scene.beat("a")
        await asyncio.sleep(losses_module.LOOK_SECONDS)
        assert not loss.done(), "the beat may have been under way when it died"
        scene.now += 1
        await scene.beat("a")
        assert type(await loss) is ReplicaGone


async def test_a_replica_that_cannot_be_reached_and_leaves_the_board_is_dead() -> None:
    async with running(Scene(), "a") as scene:
        scene.handle.run_error = ActorUnavailableError("connection reset", None)
        loss = asyncio.create_task(scene.loss("a"))
        await until(lambda: not scene.healthy)
        scene.handle.last("a").items.put_nowait(ConnectionError("killed"))
        board.write(ENGINE, frozenset())
        assert type(await loss) is EngineLost
