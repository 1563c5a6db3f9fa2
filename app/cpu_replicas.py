"""How many engines each model gets on this machine's CPUs where the config does not say: `replicas: auto`.

An engine a core is the fastest choice for small models (docs/performance.md). Memory counts as a whole and not as what
is free just now: during a redeploy the old engines are still there, and every process must come to the same number.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.cgroup import CGROUP
from app.cgroup import read as cgroup_file

GIB = 2**30

PROCESS_BYTES = int(1.2 * GIB)
"""Of an engine without its weights and its cache: Python, Ray, PyTorch and vLLM in two processes, measured."""

MEMORY_SHARE = 0.8
"""Of the memory, for all engines together."""

LARGE_BYTES = 2 * GIB
"""Weights above this: each engine reads them for itself at each step, and one core alone is slow at it."""

NUMBER_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Machine:
    """What there is for engines: cores, and bytes of memory."""

    cores: int
    memory: int

    @classmethod
    def here(cls, cgroup: Path = CGROUP) -> "Machine":
        """Of this machine, or of the container that this process is in."""
        cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total
        quota, _, period = cgroup_file(cgroup / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = max(1, min(cores, int(quota) // int(period)))
        limit = cgroup_file(cgroup / "memory.max")
        return cls(cores, min(memory, int(limit)) if limit.isdigit() else memory)


@dataclass(frozen=True)
class Engine:
    """What one engine of a model takes: cores, bytes of weights as loaded, and bytes of cache.

    None: the weights are not known; vLLM takes what memory there is for its cache.
    """

    cores: int
    weights: int | None
    cache: int | None

    @property
    def memory(self) -> int:
        return (self.weights or 0) + (self.cache or 0) + PROCESS_BYTES * self.cores

    @property
    def alone(self) -> str | None:
        """Why a model has one engine however large the machine is."""
        if self.weights is None:
            return "one engine: how large its weights are is not known before they are downloaded"
        if self.weights > LARGE_BYTES:
            return f"one engine on all cores: its weights are large, {self.weights / GIB:.1f} GiB"
        if self.cache is None:
            return "one engine: without VLLM_CPU_KVCACHE_SPACE its cache takes all memory that is there"
        return None


@dataclass(frozen=True)
class Choice:
    replicas: int
    reason: str


def choose_replicas(engines: Mapping[str, Engine], machine: Machine, taken_cores: int = 0) -> dict[str, Choice]:
    """One engine for each model, then one more for each in turn for as long as there are cores and memory.

    `taken_cores`: of models whose number of engines is set.
    """
    chosen = dict.fromkeys(engines, 1)
    full = {name: words for name, engine in engines.items() if (words := engine.alone)}
    while growing := [name for name in engines if name not in full]:
        for name in growing:
            cores = machine.cores - taken_cores - sum(engines[each].cores * chosen[each] for each in engines)
            memory = machine.memory * MEMORY_SHARE - sum(engines[each].memory * chosen[each] for each in engines)
            if engines[name].cores > cores:
                full[name] = _by_cores(chosen[name], machine, others=len(engines) > 1 or taken_cores > 0)
            elif engines[name].memory > memory:
                full[name] = _by_memory(chosen[name], engines[name], machine)
            else:
                chosen[name] += 1
    return {name: Choice(chosen[name], full[name]) for name in engines}


def weights_bytes(source: str, dtype: str) -> int | None:
    """Of a model's folder, loaded as `dtype` of vLLM; None where there are no weights to measure."""
    for kind in ("*.safetensors", "*.bin", "*.pt"):
        if files := list(Path(source).glob(kind)):
            stored = NUMBER_BYTES.get(_stored_dtype(Path(source)), 2)
            growth = NUMBER_BYTES.get(dtype, stored) / stored
            return int(sum(file.stat().st_size for file in files) * growth)
    return None


def _by_cores(replicas: int, machine: Machine, *, others: bool) -> str:
    shared = f"the models share {machine.cores} cores" if others else f"there are {machine.cores} cores"
    return f"an engine a core: {shared}, and this one has {replicas} engines"


def _by_memory(replicas: int, engine: Engine, machine: Machine) -> str:
    return (
        f"as memory allows: {replicas} engines of about {engine.memory / GIB:.1f} GiB, "
        f"of {machine.memory / GIB:.1f} GiB and {machine.cores} cores"
    )


def _stored_dtype(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text())
        return str(config.get("dtype") or config.get("torch_dtype"))
    except (OSError, ValueError, AttributeError):
        return ""
