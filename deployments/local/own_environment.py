"""Secrets out of this process's environment, for good.

`os.environ.pop` keeps a variable from what is started later. /proc/PID/environ goes on showing it: that is the block of
memory that the kernel filled when the process began (proc(5); the block's place is in /proc/PID/stat).
"""

import os
from pathlib import Path

import structlog

log = structlog.get_logger()

ENV_START, ENV_END = 49, 50
"""Positions of the block's two addresses in /proc/PID/stat, from 0."""


def forget(name: str) -> None:
    """Takes a variable out of `os.environ` and overwrites its value in the kernel's block."""
    os.environ.pop(name, None)
    try:
        _overwrite(name)
    except OSError as error:  # hardened kernels may keep a process from its own memory
        log.warning("a secret stays in /proc/PID/environ, for this user and root", name=name, reason=error.strerror)


def _overwrite(name: str) -> None:
    start, end = _block()
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        block = memory.read(end - start)
        place = 0
        for entry in block.split(b"\0"):
            if entry.startswith(f"{name}=".encode()):
                memory.seek(start + place)
                memory.write(bytes(len(entry)))
            place += len(entry) + 1


def _block() -> tuple[int, int]:
    stat = Path("/proc/self/stat").read_text()
    fields = ["pid", "comm", *stat.rpartition(")")[2].split()]  # a program's name may hold anything
    return int(fields[ENV_START]), int(fields[ENV_END])
