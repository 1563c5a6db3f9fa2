"""The type of number in which a model runs fastest on this machine's CPUs."""

from collections.abc import Collection
from pathlib import Path

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def fast_dtype() -> str:
    """As vLLM's `dtype`. Without instructions for bfloat16 it is emulated, five times slower than float32."""
    return dtype_for(_flags(Path("/proc/cpuinfo").read_text()))


def dtype_for(flags: Collection[str]) -> str:
    return "float32" if BFLOAT16_FLAGS.isdisjoint(flags) else "bfloat16"


def _flags(cpuinfo: str) -> frozenset[str]:
    """What the kernel says that a CPU can do: `flags` of x86, `Features` of ARM."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()
