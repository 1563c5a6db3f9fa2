"""A data folder is served by one process at a time, and everybody can learn by which."""

import fcntl
import os
import struct
from pathlib import Path
from typing import TextIO

from app.errors import SettingsError

LOCK_FILE = "serve.lock"
FLOCK = "hhqqi4x"  # struct flock on 64 bits: l_type, l_whence, l_start, l_len, l_pid


def lock_folder(data: Path) -> TextIO:
    """Locks the data folder for as long as the file is open: until this process ends, however it ends.

    Raises SettingsError if another process has it.
    """
    path = data / LOCK_FILE
    try:
        data.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
    except BlockingIOError as error:
        raise AlreadyServed(data, server_pid(data)) from error
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror}. Set BATCHYARD_DATA to a folder that can be"
        ) from error
    return file


class AlreadyServed(SettingsError):
    def __init__(self, data: Path, pid: int | None) -> None:
        super().__init__(
            f"Batchyard serves {data} already{f', as process {pid}' if pid else ''}. "
            "Stop that first (`batchyard down`), or set BATCHYARD_DATA to another folder"
        )


def server_pid(data: Path) -> int | None:
    """Who has the data folder's lock, as the kernel knows: no file can be out of date.

    Below 1: a process of another container or machine.
    """
    try:
        with (data / LOCK_FILE).open() as file:
            question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            state, *_, pid = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))
    except FileNotFoundError:
        return None
    return None if state == fcntl.F_UNLCK else int(pid)
