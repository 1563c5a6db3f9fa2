"""A vLLM replica: lines in, answers streamed out; the online endpoints; and a heartbeat that goes through the core.

vLLM's front end runs in a thread of its own (`front_end.py`). What is here runs in the replica's event loop,
and nothing of it takes long.
"""

from deployments import fail_fast, priority  # noqa: F401  # first of all: they act on import

# isort: split
import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import structlog
from ray import serve
from ray.serve.llm.deployment import LLMServer
from vllm.logger import DEFAULT_LOGGING_CONFIG

from app.batch.dispatch import Answer, TimedOut
from app.batch.suspects import Beside
from app.errors import EngineLost, ReplicaGone
from app.settings import ModelSettings
from app.telemetry import alert, start_telemetry
from deployments import media  # noqa: F401  # vLLM finds it by its name
from deployments.answers import explained
from deployments.capabilities import capabilities_of
from deployments.core_errors import CoreErrors
from deployments.front_end import WORK, FrontEnd
from deployments.guard.guard import GIB, Orders
from deployments.guard.post import post_guard
from deployments.lean_executor import with_lean_executor
from deployments.line_answers import LineAnswers
from deployments.messages import CoreDeath, Heartbeat, HttpStart
from deployments.occupancy import Call, Occupancy
from deployments.pulse import Pulse
from deployments.replica_port import keep_to_loopback
from deployments.restarts import Brakes
from deployments.short_refusals import shorten_refusals
from deployments.vllm_http import post

log = structlog.get_logger()

COALESCE_SECONDS = 0.3
"""Answers of a call are sent on together for this long: a message through Ray costs as much CPU as some lines."""

COALESCE_APART_SECONDS = 0.03
"""The same for lines that keep others out of the engine: it idles while they wait."""

BEGIN_SECONDS = 20.0
"""How long lines that may enter wait for `begin`. It takes milliseconds, or the dispatcher is gone."""

HEARTBEAT_SECONDS = 1.0

BUSY_SECONDS = 5.0
"""From here on the log says what keeps the front end busy."""


class BatchEngine(LLMServer):
    """One replica of a model. Placement, parallelism and vLLM's engine come from LLMServer."""

    async def __init__(self, llm_config: Any, model: ModelSettings, brakes: Brakes) -> None:
        priority.prefer_for_oom_kill()
        start_telemetry("engine")
        keep_to_loopback()
        self._model = model
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._occupancy = Occupancy()
        self._may_begin: dict[str, asyncio.Event] = {}
        self._core_errors = CoreErrors(DEFAULT_LOGGING_CONFIG)
        self._front_end = FrontEnd()
        async with brakes.start(self._replica, explain=self._core_errors.explain):
            await self._front_end.run(self._start(llm_config))
        self._orders = self._orders_of(brakes.database_url)
        self._guard = post_guard(self._orders, self._front_end.sheet)
        self._pulse = Pulse(model.step_seconds)
        self._monitors = [
            self._front_end.start(self._ask_core()),
            asyncio.create_task(self._look_at_core()),
        ]

    async def _start(self, llm_config: Any) -> None:
        """In the front end's thread, as all that vLLM does from then on."""
        # A folder needs no download; asking costs a worker process that imports vLLM, 10 s of each start.
        llm_config.get_or_create_callback().ctx.run_init_node = not _is_folder(llm_config)
        shorten_refusals()
        await super().__init__(llm_config, engine_cls=with_lean_executor(self._get_default_engine_class()))
        self._app = await self.__serve_build_asgi_app__()
        self._client = self._app.state.engine_client
        self._lines = LineAnswers(self._app, self._core_errors, self._model.line_seconds)
        self._capabilities = capabilities_of(self._app.state)

    async def _start_engine(self) -> None:
        """LLMServer's own also starts an actor that reports usage: seconds of start-up and a process more."""
        await self.engine.start()

    def _orders_of(self, database_url: str) -> Orders:
        return Orders(
            pid=os.getpid(),
            replica=self._replica,
            model=self._model.id,
            database_url=database_url,
            front_end_seconds=self._model.front_end_seconds,
            front_end_bytes=int(self._model.front_end_gb * GIB),
        )

    async def check_health(self) -> None:
        """Serve's health check. Raises when vLLM's core is dead or hangs; Serve then replaces the replica."""
        await super().check_health()
        if (silent := self._pulse.silent) > self._model.hang_seconds:
            name = self._model.id
            alert("hang", f"vLLM's core of model {name} hangs: its replica is replaced.", model=name)
            raise EngineLost(f"vLLM's core has neither answered nor worked for {silent:.0f} s")
        for monitor in self._monitors:
            if monitor.done():
                monitor.result()

    async def watch(self, replica: str) -> AsyncIterator[Heartbeat | CoreDeath]:
        """A heartbeat each second, for as long as vLLM's core answers or works.

        The death of the core is a message and not an error, which Serve would log with its traceback for each watcher
        and try. The stream stays open, so that it breaks with the process.
        """
        self._must_be(replica)
        beat = Heartbeat(self._client.vllm_config.scheduler_config.max_num_seqs, self._capabilities)
        seen = 0.0
        while not self._client.errored:
            if self._pulse.last_sign > seen:
                seen = self._pulse.last_sign
                yield beat
                beat = replace(beat, capabilities=None)
            await asyncio.sleep(HEARTBEAT_SECONDS)
        yield CoreDeath(f"vLLM's core is gone: {self._lines.death()}")
        await asyncio.Event().wait()

    async def _ask_core(self) -> None:
        while True:
            await self._client.is_sleeping()  # the cheapest true round trip into the core
            self._pulse.answered()
            self._core_errors.forget()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _look_at_core(self) -> None:
        """The front end receives its answers: while that is busy there are none, which is not the core's fault."""
        logged = False
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._keep_guard()
            busy = self._front_end.busy_seconds
            self._pulse.look(receiving=busy <= HEARTBEAT_SECONDS)
            if busy > HEARTBEAT_SECONDS:
                work = self._front_end.note_work()
                if busy > BUSY_SECONDS and not logged:
                    limit = self._model.front_end_seconds
                    log.warning("vLLM's front end is busy", model=self._model.id, work=work, ends_after_seconds=limit)
            logged = busy > BUSY_SECONDS

    def _keep_guard(self) -> None:
        if (code := self._guard.poll()) is not None:
            log.warning("the guard of this replica ended: here is another", model=self._model.id, exit_code=code)
            self._guard = post_guard(self._orders, self._front_end.sheet)

    async def answer_lines(
        self, endpoint: str, bodies: Sequence[bytes], beside: Beside, call: str, replica: str
    ) -> AsyncIterator[list[Answer | TimedOut]]:
        """Answers each body once, in any order, several at a time. Raises EngineLost when vLLM's core is gone.

        First comes an empty list: the lines may enter the engine, `beside` what was allowed, and do so once `begin` is
        called. Closing the stream aborts in vLLM what is not answered yet. Raises ReplicaGone when the lines never were
        in it.
        """
        self._must_be(replica)
        coalesce = COALESCE_SECONDS if beside is Beside.ANYTHING else COALESCE_APART_SECONDS
        async with self._occupancy.enter(Call.LINES, beside):
            self._must_live()
            begun = self._may_begin[call] = asyncio.Event()
            try:
                yield []
                async with asyncio.timeout(BEGIN_SECONDS):
                    await begun.wait()
            except TimeoutError as error:
                raise ReplicaGone("the dispatcher did not say that its lines may begin") from error
            finally:
                del self._may_begin[call]
            self._must_live()
            WORK.set(f"{len(bodies)} lines of a batch for {endpoint}")
            answers = self._lines.answer_each(endpoint, bodies, coalesce)
            async with contextlib.aclosing(self._front_end.stream(answers)) as parts:
                async for part in parts:
                    yield part

    async def begin(self, call: str, replica: str) -> None:
        """The lines of this call, which may enter, do so now. The caller counts them as in the engine from here on,
        whatever becomes of this process.
        """
        self._must_be(replica)
        if (begun := self._may_begin.get(call)) is not None:
            begun.set()

    async def call(
        self, path: str, body: bytes, headers: list[tuple[str, str]]
    ) -> AsyncGenerator[HttpStart | bytes, None]:
        """One online request through vLLM's own HTTP app: first an HttpStart, then the body as it comes."""
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        WORK.set(f"online request {dict(headers).get('x-request-id', 'without an id')} to {path}")
        async with (
            self._occupancy.enter(Call.ONLINE),
            contextlib.aclosing(self._front_end.stream(explained(post(self._app, path, body, raw)))) as messages,
        ):
            async for message in messages:
                yield message

    def _must_be(self, replica: str) -> None:
        """The caller counts lines by replica: a call that came here because its target is gone is refused."""
        if replica != self._replica:
            raise ReplicaGone(f"replica {replica} is gone")

    def _must_live(self) -> None:
        if self._client.errored:
            raise ReplicaGone(f"vLLM's core died while the lines waited to enter: {self._lines.death()}")


def _is_folder(llm_config: Any) -> bool:
    return os.path.isdir(llm_config.model_loading_config.model_source or "")
