"""One local Ray cluster that runs the application of a Serve config: what `batchyard serve` starts.

Two processes. The child starts Ray and the application and waits. The parent waits for signals and for the child. When
the child ends, for whatever reason, the parent leaves no process behind: as a child subreaper it inherits whatever its
descendants orphan. Then it starts the cluster again, within brakes. If the parent is killed, a socket to the child
breaks, and the child ends everything in its place.
"""

import contextlib
import ctypes
import fcntl
import importlib
import ipaddress
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import psutil
import structlog
import yaml

from app.errors import SettingsError
from app.settings import Settings
from app.telemetry import alert, start_telemetry
from deployments.restarts import ClusterBrake, ledger_asker

log = structlog.get_logger()

GRACE_SECONDS = 15.0
"""How long the child may take to end by itself; the promise is that nothing is left after 30 s."""

STOP_CHILD = signal.SIGUSR1
"""Not SIGTERM: in a process that is connected to Ray, Ray's handler of it aborts three seconds later."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, STOP_CHILD)

AWAITED_SIGNALS = (signal.SIGCHLD, *STOP_SIGNALS)
"""The parent blocks them for good and takes them where it waits: none can interrupt it while it cleans up."""

PILLARS = ("gcs_server", "raylet")
"""Ray's processes that a cluster does not outlive and that nothing starts again."""

LOCK_FILE = "serve.lock"
FLOCK = "hhqqi4x"  # struct flock on 64 bits: l_type, l_whence, l_start, l_len, l_pid

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
    # A dead proxy is replaced after three failed looks; at Ray's 10 s between them nobody answers for half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
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
    """Runs until SIGINT or SIGTERM, and starts the cluster again when it is lost; returns the exit code.

    A cluster that never was up is not started again. Raises SettingsError.
    """
    config = LocalConfig.load()
    settings = Settings.load(config.args)
    start_telemetry("server")
    _refuse_open_door(config, settings)
    with lock_folder(settings.data) as lock:
        refuse_taken_port(config)
        print(config.url, end="", file=lock, flush=True)  # for whoever wants to know where we are
        _adopt_orphans()
        signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED_SIGNALS)
        brake = ClusterBrake(ledger_asker(settings), rest)
        was_up = False
        while True:
            end = _run_child(settings)
            was_up = was_up or end.was_up
            if end.code is None:
                return 0
            if not was_up:
                log.error("the Ray cluster did not start; what is above says why", code=end.code)
                return end.code or 1
            alert("cluster_lost", "The local Ray cluster is lost; it starts again, within brakes.", code=end.code)
            if not brake.release():
                return 0


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


def rest(seconds: float) -> bool:
    """Waits for so long; whether a signal says stop."""
    return signal.sigtimedwait(STOP_SIGNALS, seconds) is not None


@dataclass(frozen=True)
class End:
    """Of a child: its exit code, or None if a signal said stop; and whether its cluster ever was up."""

    code: int | None
    was_up: bool


def _run_child(settings: Settings) -> End:
    """The life of one cluster, after which nothing is left of it."""
    scratch = tempfile.mkdtemp(prefix="batchyard-")  # short: Ray's sockets lie in it, 107 characters at most
    lifeline, stdin = socket.socketpair()  # this end is open in this process alone, until it ends, however it ends
    with lifeline:
        try:
            with stdin:
                child = _start_child(scratch, stdin, settings)
            code = _outlive(child)
            if code is None:
                print("Stopping.", flush=True)
                _stop_children()
        finally:
            _leave_nothing(scratch)
        return End(code, was_up=bool(lifeline.recv(1)))


def _start_child(scratch: str, stdin: socket.socket, settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.local", scratch],
        stdin=stdin.fileno(),
        env={
            **ENVIRONMENT,
            "VLLM_RPC_BASE_PATH": scratch,  # vLLM's sockets, which it leaves behind when it is killed
            **os.environ,
            "BATCHYARD_DATA": str(settings.data),
        },
        start_new_session=True,  # Ctrl-C is for us: the child is told by STOP_CHILD
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED_SIGNALS),  # we have no threads here
    )


def _outlive(child: subprocess.Popen[bytes]) -> int | None:
    """Waits for the child's end: its exit code; or for a signal that says stop: None.

    Meanwhile reaps the adopted orphans, which would stay zombies for as long as we run.
    """
    while child.returncode is None:
        if signal.sigwait(AWAITED_SIGNALS) in STOP_SIGNALS:
            return None
        pid = -1
        while pid != 0 and child.returncode is None:  # one SIGCHLD may stand for many ends
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child.pid:
                child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode


def _stop_children() -> None:
    """Asks, and gives time."""
    children = psutil.Process().children()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(STOP_CHILD)
    psutil.wait_procs(children, timeout=GRACE_SECONDS)


def _leave_nothing(scratch: str) -> None:
    me = psutil.Process()
    while left := me.children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)
    shutil.rmtree(scratch, ignore_errors=True)


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


def run_child(scratch: str) -> None:
    """The child's whole life."""
    start_telemetry("cluster")
    try:
        _on_stop_signals(_stop)
        threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
        run_cluster(scratch)
    finally:
        _leave_nothing(scratch)


def _on_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    _on_stop_signals(signal.SIG_IGN)  # one is enough: a second must not interrupt the end
    raise SystemExit(0)


def _end_with_parent(scratch: str) -> None:
    with contextlib.suppress(ConnectionResetError):  # it had not read what we wrote
        os.read(0, 1)  # the parent writes nothing: this returns when it is gone
    _adopt_orphans()
    os.kill(os.getpid(), STOP_CHILD)
    time.sleep(GRACE_SECONDS)  # the main thread ends the process meanwhile, unless Ray holds it up
    _leave_nothing(scratch)
    os._exit(1)


def run_cluster(scratch: str) -> None:
    """Ray, the application, and then waiting for a signal, or for the end of the cluster."""
    import ray
    from ray import serve

    from deployments.placement import cpus

    config = LocalConfig.load()
    settings = Settings.load(config.args)
    # The application's imports (vLLM: 10 s) go on while Ray's own processes start.
    loading = threading.Thread(target=config.application)
    loading.start()
    stopping = threading.Event()
    try:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, cpus(settings)),
            include_dashboard=True,
            dashboard_port=_free_port(),
            namespace="serve",
            _temp_dir=scratch,
        )
        threading.Thread(target=_end_with_cluster, args=(_watched_pillars(), stopping, scratch), daemon=True).start()
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
        os.write(0, b"\0")  # tells the parent that the cluster is up
        print(f"Batchyard serves on {config.url}. Models load: see {config.url}/readyz", flush=True)
        try:
            serve.run(application, name="batchyard", route_prefix="/", logging_config={"enable_access_log": False})
            print("Ready.", flush=True)
        except RuntimeError as error:  # an engine does not start: the gateway stays, and /health says why
            log.error("the application is not complete", reason=str(error))
        signal.pause()
    finally:
        # Without serve.shutdown: it takes down one deployment after the other, over 15 s, and what counts is durable.
        # But before Ray's processes are killed: a connected driver, this process, ends at once when its raylet does.
        stopping.set()
        ray.shutdown()


def _watched_pillars() -> dict[int, str]:
    """A descriptor each, which can be read when the process ends, and its name."""
    pillars = {os.pidfd_open(each.pid): each.name() for each in psutil.Process().children() if each.name() in PILLARS}
    if len(pillars) < len(PILLARS):
        raise RuntimeError(f"Ray started without {' or '.join({*PILLARS} - {*pillars.values()})}, hence no cluster")
    return pillars


def _end_with_cluster(pillars: dict[int, str], stopping: threading.Event, scratch: str) -> None:
    """Ends this process as soon as a pillar does. Ray may wait a minute for one to come back, and none would."""
    ends = select.poll()
    for descriptor in pillars:
        ends.register(descriptor, select.POLLIN)
    ended = [pillars[descriptor] for descriptor, _ in ends.poll()]
    if not stopping.is_set():
        log.error("the Ray cluster is lost: a process that it needs ended", ended=ended)
        _leave_nothing(scratch)
        os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    run_child(sys.argv[1])
