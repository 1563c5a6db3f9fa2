"""What `batchyard serve` serves and where: a Serve config with the environment on top."""

import importlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.errors import SettingsError
from app.settings import Settings
from deployments.local.config_file import ConfigFile, is_port
from deployments.open_door import refuse_public_host


@dataclass(frozen=True)
class LocalConfig:
    """A Serve config with the environment on top."""

    file: ConfigFile
    import_path: str
    args: Mapping[str, Any] = field(repr=False)  # it may hold keys
    host: str
    port: int
    request_timeout_s: float | None
    """None: a transfer may last as long as it moves (deployments/http1.py, deployments/proxy.py)."""

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> "LocalConfig":
        """Of BATCHYARD_CONFIG, BATCHYARD_HOST and BATCHYARD_PORT. Raises SettingsError."""
        file = ConfigFile.read(Path(environ.get("BATCHYARD_CONFIG") or "local.yaml"))
        [application] = file.content["applications"]
        http = file.content.get("http_options") or {}
        return cls(
            file=file,
            import_path=application["import_path"],
            args=application.get("args") or {},
            host=environ.get("BATCHYARD_HOST") or http.get("host", "127.0.0.1"),
            port=_port_of(environ) if environ.get("BATCHYARD_PORT") else http.get("port", 8000),
            request_timeout_s=http.get("request_timeout_s"),
        )

    def settings(self, environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises SettingsError, with file, line and field."""
        try:
            return Settings.load(self.args, environ)
        except SettingsError as error:
            raise self.file.args_error(error) from error

    def application(self) -> Callable[[Mapping[str, Any]], Any]:
        module, _, name = self.import_path.partition(":")
        builder: Callable[[Mapping[str, Any]], Any] = getattr(importlib.import_module(module), name)
        return builder

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host  # IPv6
        return f"http://{host}:{self.port}"


def _port_of(environ: Mapping[str, str]) -> int:
    port = environ["BATCHYARD_PORT"]
    if not port.isdecimal() or not is_port(int(port)):
        raise SettingsError(f"BATCHYARD_PORT is {port!r}; it must be a port number up to 65535, such as 8000")
    return int(port)


def refuse_open_door(config: LocalConfig, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
    """Raises SettingsError."""
    setting = "BATCHYARD_HOST" if environ.get("BATCHYARD_HOST") else f"{config.file.path}: http_options.host"
    refuse_public_host(config.host, setting, settings)


def refuse_taken_port(config: LocalConfig) -> None:
    """Raises SettingsError."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise SettingsError(
                f"{config.host}:{config.port} cannot be served on: {error.strerror}. Set BATCHYARD_PORT to a free port"
            ) from error
