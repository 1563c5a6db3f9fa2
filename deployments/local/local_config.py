"""What `batchyard serve` serves and where: a Serve config with the environment on top."""

import importlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.errors import SettingsError
from app.settings import Settings
from deployments.open_door import refuse_public_host


@dataclass(frozen=True)
class LocalConfig:
    """A Serve config with the environment on top."""

    path: Path
    import_path: str
    args: Mapping[str, Any]
    host: str
    port: int
    request_timeout_s: float | None
    """None: a transfer may last as long as it moves (deployments/http1.py, deployments/proxy.py)."""

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> "LocalConfig":
        """Of BATCHYARD_CONFIG, BATCHYARD_HOST and BATCHYARD_PORT. Raises SettingsError."""
        path = Path(environ.get("BATCHYARD_CONFIG", "local.yaml"))
        try:
            config = yaml.safe_load(path.read_text())
            application = config["applications"][0]
            http = config.get("http_options") or {}
            port = int(environ.get("BATCHYARD_PORT", http.get("port", 8000)))
            return cls(
                path=path,
                import_path=application["import_path"],
                args=application.get("args") or {},
                host=environ.get("BATCHYARD_HOST", http.get("host", "127.0.0.1")),
                port=port,
                request_timeout_s=http.get("request_timeout_s"),
            )
        except OSError as error:
            raise SettingsError(f"BATCHYARD_CONFIG: {path} cannot be read: {error.strerror}") from error
        except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError) as error:
            raise SettingsError(f"{path} is not a Serve config with one application: {error!r}") from error

    def application(self) -> Callable[[Mapping[str, Any]], Any]:
        module, _, name = self.import_path.partition(":")
        builder: Callable[[Mapping[str, Any]], Any] = getattr(importlib.import_module(module), name)
        return builder

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host  # IPv6
        return f"http://{host}:{self.port}"


def refuse_open_door(config: LocalConfig, settings: Settings) -> None:
    """Raises SettingsError."""
    refuse_public_host(config.host, "BATCHYARD_HOST", settings)


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
