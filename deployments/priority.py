"""Importing this lowers the process's priority, where the environment asks for it.

On a machine without GPU the model computes on the cores that all need: gateway and dispatcher must go first, or they
would answer late just when they have to say 503, while a replica loads. Ray lets no hook run in one deployment's
workers only, so the engine's module imports this before the seconds of vLLM's own imports.
"""

import contextlib
import os

OOM_SCORE = 1000
"""Of an engine's processes: by it the kernel chooses what to kill when there is no memory left. Of all that Batchyard
and Ray run, engines have most of the memory, and losing one costs least."""

VARIABLE = "BATCHYARD_ENGINE_NICENESS"

if niceness := os.environ.get(VARIABLE):
    os.nice(int(niceness))


def prefer_for_oom_kill() -> None:
    """Out of memory, the kernel kills this process, or one that it starts from now on, before Batchyard's others."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:  # a kernel or container without
        if int(file.read()) < OOM_SCORE:
            file.write(str(OOM_SCORE))
