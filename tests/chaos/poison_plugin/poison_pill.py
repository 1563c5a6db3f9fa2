"""A vLLM plugin for tests: what a request with `"vllm_xargs": {"poison": ...}` does to the engine that runs it.

    1         kills the core in the step that runs it
    "die"     kills the front end where it validates
    "block"   keeps the front end busy for `seconds`
    "lock"    as well, with Python's lock, so that no thread of the process runs
    "eat"     takes memory in the front end until there is none, as fast as it can

vLLM finds it by the entry point in the folder beside this file, once this folder is on PYTHONPATH.
"""

import ctypes
import os
import signal
import time
from typing import Any

MEGABYTES = 64


def register() -> None:
    """vLLM calls this in each of its processes: the core's has a scheduler, the front end's a handler."""
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.v1.core.sched.scheduler import Scheduler

    schedule, create = Scheduler.schedule, OpenAIServingChat.create_chat_completion

    def deadly_schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = schedule(self, *args, **kwargs)
        for request_id in output.num_scheduled_tokens:
            sampling = self.requests[request_id].sampling_params
            if sampling is not None and (sampling.extra_args or {}).get("poison") == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return output

    async def deadly_create(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = request.vllm_xargs or {}
        if (act := ACTS.get(wanted.get("poison"))) is not None:
            act(float(wanted.get("seconds", 0)))
        return await create(self, request, *args, **kwargs)

    Scheduler.schedule = deadly_schedule
    OpenAIServingChat.create_chat_completion = deadly_create


def die(seconds: float) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lock(seconds: float) -> None:
    """A function of C that is called through PyDLL keeps the lock."""
    ctypes.PyDLL(None).usleep(ctypes.c_uint(round(seconds * 1_000_000)))


def eat(seconds: float) -> None:
    eaten = []
    while True:
        eaten.append(b"x" * (MEGABYTES * 2**20))


ACTS = {"die": die, "block": time.sleep, "lock": lock, "eat": eat}
