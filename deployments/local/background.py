"""`batchyard serve` in the background: `batchyard up`, `down` and `status`. One for each data folder."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import psutil

from app.errors import BatchyardError
from app.settings import Settings
from deployments.local.folder_lock import LOCK_FILE, AlreadyServed, server_pid
from deployments.local.local_config import LocalConfig, refuse_taken_port

LOG_BYTES = 64 * 1024 * 1024
"""A log larger than this makes room for a new one at the next start; the one before it is kept."""

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
        return cls(config, Settings.load(config.args).data)

    @property
    def log(self) -> Path:
        return self.data / "logs" / "serve.log"

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

    def up(self) -> None:
        """Starts it, and returns when it answers. Raises SettingsError and BackgroundError."""
        if (pid := self.pid) is not None:
            raise AlreadyServed(self.data, pid)
        refuse_taken_port(self.config)  # else the answer could be another server's
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_name("serve.log.1"))
        with self.log.open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "BATCHYARD_DATA": str(self.data)},
                start_new_session=True,  # it outlives the terminal
            )
        while server.poll() is None:
            if http_status(f"{self.config.url}/livez") == 200:  # Ray answers 404 before the gateway is there
                return
            time.sleep(POLL_SECONDS)
        lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        raise BackgroundError("\n".join([*lines, f"The server did not start: {self.log} says why, and ends as above."]))

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


DIRECT = build_opener(ProxyHandler({}))
"""Not by a proxy that the environment names: it would answer in place of a server on this machine."""


def http_status(url: str) -> int | None:
    """None when nobody answers within 5 s."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return None
