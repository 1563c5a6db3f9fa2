"""`batchyard serve` in the background: `batchyard up`, `down` and `status`. One for each data folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.errors import BatchyardError
from app.file_modes import keep_new_files_private
from deployments.local.checks import checked_settings
from deployments.local.folder_lock import LOCK_FILE, AlreadyServed, server_pid
from deployments.local.local_config import LocalConfig, refuse_taken_port
from deployments.local.log_file import LogOfThisStart, log_file, make_room
from deployments.local.probe import http_json, http_status

LAST_LINES = 20
POLL_SECONDS = 0.2

STOP_SECONDS = 60
"""`batchyard serve` promises to be gone within 30 s of a signal."""


class BackgroundError(BatchyardError):
    """The server in the background did not start, or does not stop."""


@dataclass(frozen=True)
class Background:
    """The server of one data folder, whoever started it."""

    config: LocalConfig
    data: Path

    @classmethod
    def load(cls) -> "Background":
        """As `batchyard serve` reads them. Raises SettingsError."""
        config = LocalConfig.load()
        return cls(config, config.settings().data)

    @property
    def log(self) -> Path:
        return log_file(self.data)

    @property
    def url(self) -> str:
        """Where it serves, as it said itself: our environment may be another."""
        return (self.data / LOCK_FILE).read_text()

    @property
    def pid(self) -> int | None:
        """None: nothing runs. Raises BackgroundError for one that cannot be seen from here."""
        pid = server_pid(self.data)
        if pid is not None and pid < 1:
            raise BackgroundError(
                f"{self.data} is served from another container or machine: stop it, and ask for its state, there"
            )
        return pid

    def up(self, tell: Callable[[str], None] = lambda step: None) -> None:
        """Starts it, and returns when it answers; `tell` hears what the start is at.

        Raises SettingsError and BackgroundError.
        """
        if (pid := self.pid) is not None:
            raise AlreadyServed(self.data, pid)
        checked_settings(self.config)  # here, and not in a log
        refuse_taken_port(self.config)  # else the answer could be another server's
        keep_new_files_private()
        make_room(self.log)
        start = LogOfThisStart(self.log)
        server = self._start()
        tell(f"Starting on {self.config.url}. Log: {self.log}")
        while server.poll() is None:
            for step in start.new_steps():
                tell(f"Starting: {step}")
            if http_status(f"{self.config.url}/livez") == 200:  # Ray answers 404 before the gateway is there
                return
            time.sleep(POLL_SECONDS)
        lines = start.text().splitlines()[-LAST_LINES:]
        raise BackgroundError("\n".join([*lines, f"The server did not start: {self.log} says why, and ends as above."]))

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:  # to append: what makes it short (log_file.py) counts on it
            return subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "BATCHYARD_DATA": str(self.data)},
                start_new_session=True,  # it outlives the terminal
            )

    def await_ready(self, tell: Callable[[str], None]) -> None:
        """Returns once a batch would be accepted; `tell` hears what that waits for, each time it is something new.

        Raises BackgroundError when the server ends.
        """
        told = None
        while http_status(f"{self.config.url}/readyz") != 200:
            if self.pid is None:
                raise BackgroundError(f"The server ended while its models loaded: {self.log} says why")
            if (waiting := "; ".join(self.missing())) and waiting != told:
                tell(waiting)
                told = waiting
            time.sleep(POLL_SECONDS)

    def missing(self) -> list[str]:
        """Of each model that has too few replicas, what is known of them, and what else is wrong."""
        health = http_json(f"{self.url}/health") or {}
        reasons = [str(reason)] if (reason := health.get("reason")) else []
        return reasons + [_in_words(model) for model in health.get("models", []) if model["healthy"] < model["target"]]

    def down(self) -> int | None:
        """Stops it, and returns its pid when it is gone; None: nothing ran. Raises BackgroundError."""
        if (pid := self.pid) is None:
            return None
        try:
            server = psutil.Process(pid)
            server.terminate()
            server.wait(STOP_SECONDS)
        except psutil.NoSuchProcess:
            pass
        except psutil.AccessDenied as error:
            raise BackgroundError(f"Process {pid} is another user's: stop it as that user or as root") from error
        except psutil.TimeoutExpired as error:
            raise BackgroundError(
                f"Process {pid} is still there {STOP_SECONDS} s after SIGTERM. "
                f"`kill -9 {pid}` is safe: results are durable, and what it started ends by itself"
            ) from error
        return pid


def _in_words(model: dict[str, Any]) -> str:
    """`tiny: starting, 0 of 1 replicas healthy: the engine loads its weights`"""
    why = model.get("starting") or model.get("reason")
    known = f"{model['id']}: {model['state']}, {model['healthy']} of {model['target']} replicas healthy"
    return f"{known}: {why}" if why else known
