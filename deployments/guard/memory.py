"""How much memory there is, and what an engine has of it. All in bytes."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from app.cgroup import CGROUP
from app.cgroup import read as cgroup_file

VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True)
class Room:
    """Of this machine, or of the container that this process is in."""

    available: int
    total: int

    @property
    def share(self) -> float:
        return self.available / self.total

    @classmethod
    def here(cls, cgroup: Path = CGROUP) -> "Room":
        memory = psutil.virtual_memory()
        room = cls(memory.available, memory.total)
        limit = cgroup_file(cgroup / "memory.max")
        if limit.isdigit() and int(limit) < room.total:
            used = int(cgroup_file(cgroup / "memory.current") or 0) - _counted(cgroup / "memory.stat", "inactive_file")
            room = cls(min(room.available, int(limit) - used), int(limit))
        return room


def resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def resident_of_children(process: psutil.Process) -> int:
    """Of vLLM's core and its workers."""
    total = 0
    for child in process.children(recursive=True):
        try:
            total += resident(child)
        except psutil.NoSuchProcess:  # it ended meanwhile
            continue
    return total


def kills_for_lack_of_memory(cgroup: Path = CGROUP, vmstat: Path = VMSTAT) -> int:
    """How many processes the kernel has ended so far because there was no memory left."""
    return _counted(vmstat, "oom_kill") + _counted(cgroup / "memory.events", "oom_kill")


def _counted(file: Path, name: str) -> int:
    """The number beside a name in one of the kernel's lists."""
    found = dict(line.split(maxsplit=1) for line in cgroup_file(file).splitlines() if " " in line)
    return int(found.get(name, 0))
