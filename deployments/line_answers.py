"""The lines of one call in vLLM: each gets an answer, whatever becomes of it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from app.batch.dispatch import Answer, TimedOut
from app.errors import EngineLost
from app.store import Usage
from deployments.answers import checked, envelope, explained, usage_of
from deployments.chat_handler import ChatHandler
from deployments.core_errors import CoreErrors
from deployments.line_clock import LineClock
from deployments.messages import HttpStart
from deployments.vllm_http import post


class LineAnswers:
    """Runs in vLLM's front end. `app` is vLLM's HTTP app; `line_seconds` the longest time that a line may take."""

    def __init__(self, app: Any, core_errors: CoreErrors, line_seconds: float) -> None:
        self._app = app
        self._client = app.state.engine_client
        self._chat = ChatHandler(app.state)
        self._core_errors = core_errors
        self._clock = LineClock(self._client.vllm_config.scheduler_config.max_num_seqs, line_seconds)

    async def answer_each(
        self, endpoint: str, bodies: Sequence[bytes], coalesce_seconds: float
    ) -> AsyncGenerator[list[Answer | TimedOut], None]:
        """Answers each body once, in any order, those of `coalesce_seconds` together. Raises EngineLost.

        Closing the stream aborts in vLLM what is not answered yet.
        """
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

    def raise_if_dead(self, cause: BaseException | None = None) -> None:
        """Raises EngineLost when vLLM's core is gone."""
        if self._client.errored:
            raise EngineLost(f"vLLM's core is gone: {self.death()}") from cause

    def death(self) -> str:
        """Why vLLM's core is gone, in its own words where it had any."""
        return self._core_errors.explain(str(self._client.dead_error))

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
            self.raise_if_dead()
            return Answer(position, 500, envelope(500, "vLLM cancelled this request, twice."), Usage())

    async def _answer(self, position: int, endpoint: str, body: bytes) -> Answer:
        try:
            answer = await self._chat.answer(body) if endpoint == "/v1/chat/completions" else None
            status, content, usage = answer or await self._answer_over_http(endpoint, body)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # recorded as the line's answer, or as the engine's death
            self.raise_if_dead(error)
            status, content, usage = 500, envelope(500, f"{type(error).__name__}: {error}"), Usage()
        if status >= 500:
            self.raise_if_dead()
        return Answer(position, status, content, usage)

    async def _answer_over_http(self, endpoint: str, body: bytes) -> tuple[int, bytes, Usage]:
        status, parts = 500, []
        headers = [(b"content-type", b"application/json")]
        async with contextlib.aclosing(explained(post(self._app, endpoint, body, headers))) as messages:
            async for message in messages:
                if isinstance(message, HttpStart):
                    status = message.status
                else:
                    parts.append(message)
        status, content, usage = checked(endpoint, status, b"".join(parts))
        return status, content, usage_of(usage)


def _is_cancelled() -> bool:
    """Whether a CancelledError that was caught is meant for this task.

    Else it is somebody else's: what the task waited for was cancelled, by a request that shared it or a bug.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
