"""One local Ray cluster that runs the application of a Serve config: what `batchyard serve` starts.

Two processes. The child (`deployments/local/cluster.py`) starts Ray and the application and waits. The parent waits for
signals and for the child. When the child ends, for whatever reason, the parent leaves no process behind: as a child
subreaper it inherits whatever its descendants orphan. Then it starts the cluster again, within brakes. If the parent is
killed, a socket to the child breaks, and the child ends everything in its place.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import psutil
import structlog

from app import api_keys
from app.file_modes import keep_data_private, keep_new_files_private
from app.settings import Settings
from app.telemetry import alert, start_telemetry
from deployments.environment import NEEDED
from deployments.local.checks import checked_settings
from deployments.local.family import (
    AWAITED_SIGNALS,
    GRACE_SECONDS,
    REFUSED,
    STOP_CHILD,
    STOP_SIGNALS,
    adopt_orphans,
    leave_nothing,
)
from deployments.local.folder_lock import lock_folder
from deployments.local.local_config import LocalConfig, refuse_taken_port
from deployments.local.log_file import keep_short, log_file
from deployments.local.own_environment import forget
from deployments.restarts import ClusterBrake, ledger_asker

log = structlog.get_logger()

ENVIRONMENT = NEEDED | {
    # Serve's controller looks ten times a second, 4 % of a core. Deaths reach us by streams that break, not by it.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # Ray's 15 would put gateway and dispatcher behind every other program; the engines step back by themselves.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # What they print is turned into lines of our log (log_lines.py): without colours, and each with its process.
    "NO_COLOR": "1",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
}

LOOPBACK = {
    # Ray's switch for systems on which it supports no clusters of several nodes: the address of its node, to which all
    # its servers bind, is then 127.0.0.1. That address as an argument of `ray.init` is replaced by an external one.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # vLLM looks for its own node among Ray's by address.
    "VLLM_HOST_IP": "127.0.0.1",
    # PyTorch's Gloo would listen where this machine's own name leads to.
    "GLOO_SOCKET_IFNAME": "lo",
}
"""One machine: nothing but the HTTP port is for others, and that only where the config says so."""


def serve() -> int:
    """Runs until SIGINT or SIGTERM, and starts the cluster again when it is lost; returns the exit code.

    A cluster that never was up is not started again. Raises SettingsError.
    """
    config = LocalConfig.load()
    settings = checked_settings(config)
    start_telemetry("server")
    forget(api_keys.VARIABLE)
    keep_new_files_private()
    with lock_folder(settings.data) as lock:
        keep_data_private(settings.data)
        refuse_taken_port(config)
        print(config.url, end="", file=lock, flush=True)  # for whoever wants to know where we are
        adopt_orphans()
        signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED_SIGNALS)
        keep_short(log_file(settings.data))
        brake = ClusterBrake(ledger_asker(settings), rest)
        was_up = False
        while True:
            end = _run_child(settings)
            was_up = was_up or end.was_up
            if end.code is None:
                return 0
            if end.code == REFUSED:
                return 1
            if not was_up:
                log.error("the Ray cluster did not start; what is above says why", code=end.code)
                return end.code or 1
            alert("cluster_lost", "The local Ray cluster is lost; it starts again, within brakes.", code=end.code)
            if not brake.release():
                return 0


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
                log.info("Stopping.")
                _stop_children()
        finally:
            leave_nothing(scratch)
        return End(code, was_up=bool(lifeline.recv(1)))


def _start_child(scratch: str, stdin: socket.socket, settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.local.cluster", scratch],
        stdin=stdin.fileno(),
        env={
            **ENVIRONMENT,
            **LOOPBACK,
            "VLLM_RPC_BASE_PATH": scratch,  # vLLM's sockets, which it leaves behind when it is killed
            **os.environ,
            "BATCHYARD_DATA": str(settings.data),
            api_keys.VARIABLE: ",".join(settings.api_keys),
        },
        start_new_session=True,  # Ctrl-C is for us: the child is told by STOP_CHILD
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
