"""A vLLM plugin for tests: a request with `"vllm_xargs": {"poison": 1}` kills the core in the step that runs it.

vLLM finds it by the entry point in the folder beside this file, once this folder is on PYTHONPATH.
"""

import os
import signal
from typing import Any


def register() -> None:
    """vLLM calls this in each of its processes; only the core's has a scheduler that schedules."""
    from vllm.v1.core.sched.scheduler import Scheduler

    schedule = Scheduler.schedule

    def deadly(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = schedule(self, *args, **kwargs)
        for request_id in output.num_scheduled_tokens:
            sampling = self.requests[request_id].sampling_params
            if sampling is not None and "poison" in (sampling.extra_args or {}):
                os.kill(os.getpid(), signal.SIGKILL)
        return output

    Scheduler.schedule = deadly
