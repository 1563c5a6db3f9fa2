"""The limits of the container that this process is in, as files."""

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Of version 2, where there is one."""


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # no such limit, or another kind of container
        return ""
