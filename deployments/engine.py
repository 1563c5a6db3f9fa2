"""A vLLM replica: lines in, answers streamed out; the online endpoints; and a heartbeat that goes through the core.

Everything here that reaches below the public surface of Ray Serve LLM and vLLM (the engine client and the chat
handler in the state of vLLM's HTTP app) is in this file; tests/unit/test_upgrade.py says when an upgrade broke it.
"""

from deployments import fail_fast, priority  # noqa: F401  # first of all: they act on import

# isort: split
import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.llm.deployment import LLMServer
from vllm.logger import DEFAULT_LOGGING_CONFIG

from app.batch.dispatch import Answer, TimedOut
from app.batch.suspects import Beside
from app.errors import EngineLost, ReplicaGone
from app.store import Usage
from app.telemetry import alert, start_telemetry
from deployments.answers import checked, envelope, explained
from deployments.capabilities import capabilities_of
from deployments.core_errors import CoreErrors
from deployments.line_clock import LineClock
from deployments.messages import Heartbeat, HttpStart
from deployments.occupancy import Call, Occupancy
from deployments.pulse import Pulse
from deployments.restarts import Brakes
from deployments.short_refusals import shorten_refusals

COALESCE_SECONDS = 0.3
"""Answers of a call are sent on together for this long: a message through Ray costs as much CPU as some lines."""

COALESCE_APART_SECONDS = 0.03
"""The same for lines that keep others out of the engine: it idles while they wait."""

HEAD_START_SECONDS = 0.05
"""Between the news that lines are in the engine apart from others and their start: what they do may end this process at
once, and the news must be out by then. It takes some milliseconds."""

HEARTBEAT_SECONDS = 1.0

LEAVE_SECONDS = 1.0
"""How long vLLM's HTTP app may take to notice that a client left."""

Headers = list[tuple[bytes, bytes]]


class BatchEngine(LLMServer):
    """One replica of a model. Placement, parallelism and vLLM's engine come from LLMServer."""

    async def __init__(
        self, llm_config: Any, hang_seconds: float, step_seconds: float, line_seconds: float, brakes: Brakes
    ) -> None:
        start_telemetry("engine")
        self._model = brakes.model
        self._hang_seconds = hang_seconds
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._occupancy = Occupancy()
        self._core_errors = CoreErrors(DEFAULT_LOGGING_CONFIG)
        async with brakes.start(self._replica, explain=self._core_errors.explain):
            await self._start(llm_config)
        self._clock = LineClock(self._client.vllm_config.scheduler_config.max_num_seqs, line_seconds)
        self._pulse = Pulse(step_seconds)
        self._monitors = [asyncio.create_task(self._ask_core()), asyncio.create_task(self._look_at_core())]

    async def _start(self, llm_config: Any) -> None:
        # A folder needs no download; asking costs a worker process that imports vLLM, 10 s of each start.
        llm_config.get_or_create_callback().ctx.run_init_node = not _is_folder(llm_config)
        shorten_refusals()
        await super().__init__(llm_config, engine_cls=_with_lean_executor(self._get_default_engine_class()))
        self._app = await self.__serve_build_asgi_app__()
        self._client = self._app.state.engine_client
        self._chat = ChatHandler(self._app.state)
        self._capabilities = capabilities_of(self._app.state)

    async def _start_engine(self) -> None:
        """LLMServer's own also starts an actor that reports usage: seconds of start-up and a process more."""
        await self.engine.start()

    async def check_health(self) -> None:
        """Serve's health check. Raises when vLLM's core is dead or hangs; Serve then replaces the replica."""
        await super().check_health()
        if (silent := self._pulse.silent) > self._hang_seconds:
            alert("hang", f"vLLM's core of model {self._model} hangs: its replica is replaced.", model=self._model)
            raise EngineLost(f"vLLM's core has neither answered nor worked for {silent:.0f} s")
        for monitor in self._monitors:
            if monitor.done():
                monitor.result()

    async def watch(self, replica: str) -> AsyncIterator[Heartbeat]:
        """A heartbeat each second, for as long as vLLM's core answers or works. Raises EngineLost when it is dead."""
        self._must_be(replica)
        beat = Heartbeat(self._client.vllm_config.scheduler_config.max_num_seqs, self._capabilities)
        seen = 0.0
        while True:
            self._raise_if_dead(None)
            if self._pulse.last_sign > seen:
                seen = self._pulse.last_sign
                yield beat
                beat = replace(beat, capabilities=None)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _ask_core(self) -> None:
        while True:
            await self._client.is_sleeping()  # the cheapest true round trip into the core
            self._pulse.answered()
            self._core_errors.forget()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _look_at_core(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._pulse.look()

    async def answer_lines(
        self, endpoint: str, bodies: Sequence[bytes], beside: Beside, replica: str
    ) -> AsyncIterator[list[Answer | TimedOut]]:
        """Answers each body once, in any order, several at a time. Raises EngineLost when vLLM's core is gone.

        First comes an empty list: from then on the lines are in the engine, `beside` what was allowed. Closing the
        stream aborts in vLLM what is not answered yet. Raises ReplicaGone when the lines never were in this engine.
        """
        self._must_be(replica)
        apart = beside is not Beside.ANYTHING
        coalesce = COALESCE_APART_SECONDS if apart else COALESCE_SECONDS
        async with self._occupancy.enter(Call.LINES, beside):
            if self._client.errored:
                raise ReplicaGone(f"vLLM's core died while the lines waited to enter: {self._death()}")
            yield []
            if apart:
                await asyncio.sleep(HEAD_START_SECONDS)
            async with contextlib.aclosing(self._answer_each(endpoint, bodies, coalesce)) as parts:
                async for part in parts:
                    yield part

    async def _answer_each(
        self, endpoint: str, bodies: Sequence[bytes], coalesce_seconds: float
    ) -> AsyncGenerator[list[Answer | TimedOut], None]:
        answers: asyncio.Queue[Answer | TimedOut | Exception] = asyncio.Queue()

        async def answer(position: int, body: bytes) -> None:
            try:
                answers.put_nowait(await self._answer_in_time(position, endpoint, body))
            except Exception as error:  # noqa: BLE001  # raised by the stream: the caller waits for news of each line
                answers.put_nowait(error)

        tasks = [asyncio.create_task(answer(position, body)) for position, body in enumerate(bodies)]
        left = len(tasks)
        try:
            while left:
                ready = [await answers.get()]
                if left > 1:
                    await asyncio.sleep(coalesce_seconds)
                while not answers.empty():
                    ready.append(answers.get_nowait())
                good = [each for each in ready if not isinstance(each, Exception)]
                left -= len(good)
                if good:
                    yield good
                for each in ready:
                    if isinstance(each, Exception):
                        raise each
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer_in_time(self, position: int, endpoint: str, body: bytes) -> Answer | TimedOut:
        """Whatever becomes of the line, it is answered, unless the caller cancels it. Raises EngineLost."""
        try:
            async with self._clock.limit():
                try:
                    return await self._answer(position, endpoint, body)
                except asyncio.CancelledError:
                    if _is_cancelled():
                        raise
                    return await self._answer(position, endpoint, body)  # once more: it was nothing that the line did
        except TimeoutError:
            return TimedOut(position)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            self._raise_if_dead(None)
            return Answer(position, 500, envelope(500, "vLLM cancelled this request, twice."), Usage())

    async def call(
        self, path: str, body: bytes, headers: list[tuple[str, str]]
    ) -> AsyncGenerator[HttpStart | bytes, None]:
        """One online request through vLLM's own HTTP app: first an HttpStart, then the body as it comes."""
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        async with (
            self._occupancy.enter(Call.ONLINE),
            contextlib.aclosing(explained(_http(self._app, path, body, raw))) as messages,
        ):
            async for message in messages:
                yield message

    def _must_be(self, replica: str) -> None:
        """The caller counts lines by replica: a call that came here because its target is gone is refused."""
        if replica != self._replica:
            raise ReplicaGone(f"replica {replica} is gone")

    async def _answer(self, position: int, endpoint: str, body: bytes) -> Answer:
        try:
            answer = await self._chat.answer(body) if endpoint == "/v1/chat/completions" else None
            status, content, usage = answer or await self._answer_over_http(endpoint, body)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # recorded as the line's answer, or as the engine's death
            self._raise_if_dead(error)
            status, content, usage = 500, envelope(500, f"{type(error).__name__}: {error}"), Usage()
        if status >= 500:
            self._raise_if_dead(None)
        return Answer(position, status, content, usage)

    async def _answer_over_http(self, endpoint: str, body: bytes) -> tuple[int, bytes, Usage]:
        """Through vLLM's HTTP app, in this process: all of its endpoints, validation and error bodies."""
        status, parts = 500, []
        headers = [(b"content-type", b"application/json")]
        async with contextlib.aclosing(explained(_http(self._app, endpoint, body, headers))) as messages:
            async for message in messages:
                if isinstance(message, HttpStart):
                    status = message.status
                else:
                    parts.append(message)
        status, content, usage = checked(endpoint, status, b"".join(parts))
        return status, content, _usage(usage)

    def _raise_if_dead(self, cause: BaseException | None) -> None:
        if self._client.errored:
            raise EngineLost(f"vLLM's core is gone: {self._death()}") from cause

    def _death(self) -> str:
        return self._core_errors.explain(str(self._client.dead_error))


def _is_cancelled() -> bool:
    """Whether a CancelledError that was caught is meant for this task.

    Else it is somebody else's: what the task waited for was cancelled, by a request that shared it or a bug.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_folder(llm_config: Any) -> bool:
    return os.path.isdir(llm_config.model_loading_config.model_source or "")


def _with_lean_executor(engine_class: Any) -> Any:
    """Ray Serve LLM's engine, with vLLM's worker inside the core's process on a CPU.

    Otherwise there is a process more between core and model, which spins on shared memory (docs/performance.md) and
    takes 8 s to start. Ray Serve LLM overwrites `distributed_executor_backend` of the config, so it is set behind it.
    """

    class LeanEngine(engine_class):
        def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
            parallel = config.parallel_config
            if config.device_config.device_type == "cpu" and parallel.world_size == 1:
                from vllm.v1.executor.uniproc_executor import UniProcExecutor

                parallel.distributed_executor_backend = UniProcExecutor
            return super()._start_async_llm_engine(arguments, config, placement_group)

    return LeanEngine


class ChatHandler:
    """The short way for the endpoint of most batches: vLLM's chat handler, without HTTP round it.

    It answers only what goes well. Whatever does not is left to vLLM's HTTP app, so that errors are in its own words.
    """

    def __init__(self, state: Any) -> None:
        from pydantic import ValidationError
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
        from vllm.exceptions import VLLMError

        self._handler = getattr(state, "openai_serving_chat", None)
        self._request_class = ChatCompletionRequest
        self._response_class = ChatCompletionResponse
        self._refusals = (ValidationError, ValueError, TypeError, VLLMError)

    async def answer(self, body: bytes) -> tuple[int, bytes, Usage] | None:
        if self._handler is None:
            return None
        try:
            request = self._request_class.model_validate(json.loads(body))
            response = await self._handler.create_chat_completion(request)
        except self._refusals:
            return None
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # vLLM answers a cancelled request with an error response
        if not isinstance(response, self._response_class):
            return None
        return 200, response.model_dump_json().encode(), _usage(response.usage.model_dump())


async def _http(app: Any, path: str, body: bytes, headers: Headers) -> AsyncGenerator[HttpStart | bytes, None]:
    """A POST to an ASGI app in this process. Closing the generator is a client that leaves: it ends the request."""
    messages: asyncio.Queue[Any] = asyncio.Queue(maxsize=16)
    left = asyncio.Event()
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await left.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def serve() -> None:
        try:
            await app(_scope(path, body, headers), receive, messages.put)
        finally:
            if not left.is_set():
                await messages.put(None)

    task = asyncio.create_task(serve())
    try:
        while (message := await messages.get()) is not None:
            if message["type"] == "http.response.start":
                pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
                yield HttpStart(message["status"], pairs)
            elif message.get("body"):
                yield message["body"]
        await task
    finally:
        # vLLM runs its handlers in tasks of their own, which end when the client leaves and not when we cancel ours.
        left.set()
        await asyncio.wait([task], timeout=LEAVE_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _scope(path: str, body: bytes, headers: Headers) -> dict[str, Any]:
    kept = [(name, value) for name, value in headers if name not in (b"content-length", b"host", b"authorization")]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*kept, (b"host", b"engine"), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 0),
        "server": ("engine", 80),
        "state": {},
    }


def _usage(usage: dict[str, Any] | None) -> Usage:
    """vLLM's usage of one answer (chat, completion, embedding or responses) in the terms of the batch object."""
    if not usage:
        return Usage()
    prompt_details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    output_details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return Usage(
        input_tokens=usage.get("prompt_tokens") or usage.get("input_tokens") or 0,
        cached_tokens=prompt_details.get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or usage.get("output_tokens") or 0,
        reasoning_tokens=output_details.get("reasoning_tokens") or 0,
    )
