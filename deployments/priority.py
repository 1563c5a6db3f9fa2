"""Importing this lowers the process's priority, where the environment asks for it.

On a machine without GPU the model computes on the cores that all need: gateway and dispatcher must go first, or they
would answer late just when they have to say 503, while a replica loads. Ray lets no hook run in one deployment's
workers only, so the engine's module imports this before the seconds of vLLM's own imports.
"""

import os

VARIABLE = "BATCHYARD_ENGINE_NICENESS"

if niceness := os.environ.get(VARIABLE):
    os.nice(int(niceness))
