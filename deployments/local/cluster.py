"""One life of the local Ray cluster and of the application on it: the child of `batchyard serve`.

`python -m deployments.local.cluster SCRATCH`. Its stdin is a socket to the parent: a byte that we write says that
the cluster is up; its end, that the parent is gone.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
import structlog

from app import api_keys
from app.errors import SettingsError
from app.file_modes import close
from app.telemetry import start_telemetry
from deployments.local.family import (
    AWAITED_SIGNALS,
    GRACE_SECONDS,
    REFUSED,
    STOP_CHILD,
    STOP_SIGNALS,
    adopt_orphans,
    leave_nothing,
)
from deployments.local.local_config import LocalConfig
from deployments.local.log_file import STARTING
from deployments.local.log_lines import one_format, write_what_is_left

log = structlog.get_logger()

ESSENTIAL_PROCESSES = ("gcs_server", "raylet")
"""Ray's processes that a cluster does not outlive and that nothing starts again."""

RAYS_TOKEN = Path("~/.ray/auth_token")
"""Whoever reads it may run code in the cluster. Ray makes it once for all clusters of a user, as the umask is then."""


def run_child(scratch: str) -> None:
    """The child's whole life."""
    start_telemetry("cluster")
    with one_format():
        try:
            _on_stop_signals(_stop)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED_SIGNALS)  # blocked by the parent: none came too early
            threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
            run_cluster(scratch)
        except SettingsError as error:
            log.error("the config cannot be served", reason=str(error))
            raise SystemExit(REFUSED) from error
        except Exception as error:
            log.exception("the cluster failed")
            raise SystemExit(1) from error
        finally:
            leave_nothing(scratch)


def _on_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    _on_stop_signals(signal.SIG_IGN)  # one is enough: a second must not interrupt the end
    raise SystemExit(0)


def _end_with_parent(scratch: str) -> None:
    with contextlib.suppress(ConnectionResetError):  # it had not read what we wrote
        os.read(0, 1)  # the parent writes nothing: this returns when it is gone
    adopt_orphans()
    os.kill(os.getpid(), STOP_CHILD)
    time.sleep(GRACE_SECONDS)  # the main thread ends the process meanwhile, unless Ray holds it up
    _end_at_once(scratch)


def run_cluster(scratch: str) -> None:
    """Ray, the application, and then waiting for a signal, or for the end of the cluster."""
    import ray
    from ray import serve

    from deployments.placement import cpus

    config = LocalConfig.load()
    settings = config.settings()
    os.environ.pop(api_keys.VARIABLE, None)  # of Ray's processes the gateway alone needs it, which has it from `args`
    # The application's imports (vLLM: 10 s) go on while Ray's own processes start.
    loading = threading.Thread(target=config.application)
    loading.start()
    stopping = threading.Event()
    try:
        log.info(STARTING, step="Ray")
        with contextlib.suppress(PermissionError):  # another user's home, as in some containers: theirs to close
            close(RAYS_TOKEN.expanduser())
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, cpus(settings)),
            include_dashboard=True,
            dashboard_port=_free_port(),
            namespace="serve",
            _temp_dir=_rays_folder(scratch),
        )
        threading.Thread(target=_end_with_cluster, args=(_watched_processes(), stopping, scratch), daemon=True).start()
        threading.Thread(target=_end_when_dead, args=(config, stopping, scratch), daemon=True).start()
        log.info(STARTING, step="Ray Serve")
        serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": config.host,
                "port": config.port,
                "request_timeout_s": config.request_timeout_s,
            },
        )
        log.info(STARTING, step="the application")
        loading.join()
        application = config.application()({**config.args, "api_keys": settings.api_keys})
        os.write(0, b"\0")  # tells the parent that the cluster is up
        log.info(f"Batchyard serves on {config.url}. Models load: see {config.url}/readyz")
        try:
            serve.run(application, name="batchyard", route_prefix="/", logging_config={"enable_access_log": False})
            log.info("Ready.")
        except RuntimeError as error:  # an engine does not start: the gateway stays, and /health says why
            log.error("the application is not complete", reason=str(error))
        signal.pause()
    finally:
        # Without serve.shutdown: it takes down one deployment after the other, over 15 s, and what counts is durable.
        # But before Ray's processes are killed: a connected driver, this process, ends at once when its raylet does.
        stopping.set()
        ray.shutdown()


def _rays_folder(scratch: str) -> str:
    """Within `scratch`, which is its owner's alone: Ray opens the folder that it is given to everybody."""
    folder = Path(scratch, "ray")
    folder.mkdir()
    return str(folder)


def _watched_processes() -> dict[int, str]:
    """A descriptor each, which can be read when the process ends, and its name."""
    processes = {
        os.pidfd_open(each.pid): each.name()
        for each in psutil.Process().children()
        if each.name() in ESSENTIAL_PROCESSES
    }
    if len(processes) < len(ESSENTIAL_PROCESSES):
        raise RuntimeError(
            f"Ray started without {' or '.join({*ESSENTIAL_PROCESSES} - {*processes.values()})}, hence no cluster"
        )
    return processes


def _end_with_cluster(processes: dict[int, str], stopping: threading.Event, scratch: str) -> None:
    """Ends this process as soon as one of these does. Ray may wait a minute for one to come back, and none would."""
    ends = select.poll()
    for descriptor in processes:
        ends.register(descriptor, select.POLLIN)
    ended = [processes[descriptor] for descriptor, _ in ends.poll()]
    if not stopping.is_set():
        log.error("the Ray cluster is lost: a process that it needs ended", ended=ended)
        _end_at_once(scratch)


def _end_when_dead(config: LocalConfig, stopping: threading.Event, scratch: str) -> None:
    """Ends this process when the cluster hangs: a raylet that does takes all with it, and has not ended."""
    from deployments.local.life import why_dead

    if why := why_dead((config.host, config.port), stopping):
        log.error("the Ray cluster is lost: it hangs", reason=why)
        _end_at_once(scratch)


def _end_at_once(scratch: str) -> NoReturn:
    leave_nothing(scratch)
    write_what_is_left()
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    run_child(sys.argv[1])
