"""What vLLM's core says of its own failure: it is another process, and its parent learns no more than an exit code.

vLLM's VLLM_LOGGING_CONFIG_PATH makes the core log its errors into a file as well. That file and the one with the
configuration are in memory: a process that dies leaves nothing behind.
"""

import json
import os
import re
from copy import deepcopy
from typing import Any

VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*: .+")
"""The line of a traceback that names the exception: all others of it are indented, or chain two of them."""

KILLED = re.compile(r"Failed core proc\(s\): .*: -9\b")
"""vLLM's words in the parent. A process that is killed says nothing itself."""


class CoreErrors:
    """Listens to the cores that this process starts from now on. A configuration of the user's own is left alone."""

    def __init__(self, logging_config: dict[str, Any]) -> None:
        """`logging_config`: as vLLM would use it otherwise."""
        self._file = os.memfd_create("core-errors")
        self._forgotten = 0
        if VARIABLE in os.environ:
            return
        # Open for as long as this process: a core reads them by our pid, and whatever the core starts does so later.
        configuration = os.memfd_create("core-logging")
        os.write(configuration, json.dumps(_with_file(logging_config, _path(self._file))).encode())
        os.environ[VARIABLE] = _path(configuration)

    def explain(self, parents_words: str) -> str:
        """Why a start failed, in the core's own words where it had any."""
        if KILLED.search(parents_words):
            return "vLLM's core was killed (signal 9) while it started: most often because the machine is out of memory"
        return self.last() or parents_words

    def forget(self) -> None:
        """The core lives: whatever it has logged so far did not kill it."""
        self._forgotten = os.fstat(self._file).st_size

    def last(self) -> str | None:
        """The last exception that a core logged and we have not forgotten: class and message, in one line."""
        length = os.fstat(self._file).st_size - self._forgotten
        text = os.pread(self._file, length, self._forgotten).decode(errors="replace")
        return next((line.strip() for line in reversed(text.splitlines()) if EXCEPTION.match(line)), None)


def _path(file: int) -> str:
    return f"/proc/{os.getpid()}/fd/{file}"


def _with_file(logging_config: dict[str, Any], path: str) -> dict[str, Any]:
    config = deepcopy(logging_config)
    config["formatters"]["bare"] = {"format": "%(message)s"}
    config["handlers"]["errors"] = {
        "class": "logging.FileHandler",
        "filename": path,
        "formatter": "bare",
        "level": "ERROR",
    }
    config["loggers"]["vllm"]["handlers"].append("errors")
    return config
