"""Files are their owner's alone: they hold what people ask and what they are answered."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

log = structlog.get_logger()

OTHERS = stat.S_IRWXG | stat.S_IRWXO

KEPT = ("batchyard.db*", "objects", "uploads", "logs", "serve.lock")
"""What Batchyard keeps in its data folder; anything else there is somebody else's."""


def keep_new_files_private() -> None:
    """Whatever this process, and those that it starts, create from now on."""
    os.umask(OTHERS)


def keep_data_private(data: Path) -> None:
    """Makes the data folder if there is none, and closes one that others may enter, with all that Batchyard has in it.

    What lies in a folder that is closed is not looked at: nobody else gets there. Raises OSError.
    """
    data.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    mode = stat.S_IMODE(data.stat().st_mode)
    if not mode & OTHERS:
        return
    shared = bool(mode & stat.S_ISVTX)  # such as /tmp: others need it
    try:
        for path in (*([] if shared else [data]), *_kept(data)):
            close(path)
    except PermissionError as error:
        log.warning("the data folder is open to others, and only its owner can close it", path=error.filename)
        return
    if not shared:
        log.warning(
            "the data folder was open to others; now it is its owner's alone", data=str(data), was=f"{mode:04o}"
        )


def close(path: Path) -> None:
    """Nothing to do where there is no such file. Raises PermissionError for one of another user."""
    with contextlib.suppress(FileNotFoundError):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)


def _kept(data: Path) -> Iterator[Path]:
    for pattern in KEPT:
        for path in data.glob(pattern):
            yield path
            yield from (found for found in path.rglob("*") if not found.is_symlink())
