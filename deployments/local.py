"""One local Ray cluster that runs the application of a Serve config: what `batchyard serve` starts.

Two processes. The child starts Ray and the application and waits. The parent waits for signals and for the child, and
in the end leaves no process behind: as a child subreaper it inherits whatever its descendants orphan.
"""

import contextlib
import ctypes
import importlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import structlog
import yaml

from app.errors import SettingsError
from app.settings import Settings

log = structlog.get_logger()

GRACE_SECONDS = 15.0
"""How long the child may take to end by itself; the promise is that nothing is left after 30 s."""

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

ENVIRONMENT = {
    # An unhealthy replica is killed at once: it holds nothing that the ledger does not.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # Serve's controller looks ten times a second, 4 % of a core. Deaths reach us by streams that break, not by it.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # Ray's 15 would put gateway and dispatcher behind every other program; the engines step back by themselves.
    "RAY_worker_niceness": "0",
    # Processes that a worker started end with it.
    "RAY_process_group_cleanup_enabled": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy:middlewares",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class LocalConfig:
    """A Serve config with the environment on top."""

    path: Path
    import_path: str
    args: Mapping[str, Any]
    host: str
    port: int
    request_timeout_s: float

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
                request_timeout_s=float(http.get("request_timeout_s", 600)),
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
        return f"http://{self.host}:{self.port}"


def serve() -> int:
    """Runs until SIGINT, SIGTERM or the end of the cluster; returns the exit code. Raises SettingsError."""
    config = LocalConfig.load()
    settings = Settings.load(config.args)
    _refuse_open_door(config, settings)
    _refuse_taken_port(config)
    _adopt_orphans()
    scratch = Path(tempfile.mkdtemp(prefix="batchyard-"))  # short: Ray's sockets lie in it, 107 characters at most
    child = subprocess.Popen(
        [sys.executable, "-m", "deployments.local", str(scratch)],
        env={
            **ENVIRONMENT,
            "VLLM_RPC_BASE_PATH": str(scratch),  # vLLM's sockets, which it leaves behind when it is killed
            **os.environ,
            "BATCHYARD_DATA": str(settings.data),
        },
        start_new_session=True,  # Ctrl-C is for us: the child is told by SIGTERM
    )
    try:
        return _wait(child)
    finally:
        _end(child)
        shutil.rmtree(scratch, ignore_errors=True)


def _wait(child: subprocess.Popen[bytes]) -> int:
    class Stop(BaseException):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stop

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        code = child.wait()
        log.error("the Ray cluster ended by itself", code=code)
        return code or 1
    except Stop:
        print("Stopping.", flush=True)
        return 0


def _end(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    me = psutil.Process()
    while left := me.children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)


def _adopt_orphans() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        log.warning("orphans cannot be adopted", errno=ctypes.get_errno())


def _refuse_open_door(config: LocalConfig, settings: Settings) -> None:
    try:
        loopback = config.host == "localhost" or ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not settings.api_keys:
        raise SettingsError(
            f"BATCHYARD_HOST is {config.host}, which others can reach, and there are no API keys. "
            "Set BATCHYARD_API_KEYS (comma-separated), or serve on 127.0.0.1"
        )


def _refuse_taken_port(config: LocalConfig) -> None:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise SettingsError(
                f"{config.host}:{config.port} cannot be served on: {error.strerror}. Set BATCHYARD_PORT to a free port"
            ) from error


def run_cluster(scratch: Path) -> None:
    """The child: Ray, the application, and then waiting for SIGTERM."""
    import ray
    from ray import serve

    from deployments.placement import cpus

    def stop(number: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = LocalConfig.load()
    settings = Settings.load(config.args)
    # The application's imports (vLLM: 10 s) go on while Ray's own processes start.
    loading = threading.Thread(target=config.application)
    loading.start()
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, cpus(settings)),
        include_dashboard=True,
        dashboard_port=_free_port(),
        namespace="serve",
        _temp_dir=str(scratch),
    )
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": config.host,
                "port": config.port,
                "request_timeout_s": config.request_timeout_s,
            },
        )
        loading.join()
        application = config.application()(config.args)
        print(f"Batchyard serves on {config.url}. Models load: see {config.url}/readyz", flush=True)
        try:
            serve.run(application, name="batchyard", route_prefix="/", logging_config={"enable_access_log": False})
            print("Ready.", flush=True)
        except RuntimeError as error:  # an engine does not start: the gateway stays, and /health says why
            log.error("the application is not complete", reason=str(error))
        signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    run_cluster(Path(sys.argv[1]))
