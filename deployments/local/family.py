"""The processes that one of ours started, and theirs: none may be left when it ends."""

import contextlib
import ctypes
import shutil
import signal
import time

import psutil
import structlog

log = structlog.get_logger()

GRACE_SECONDS = 15.0
"""How long a child may take to end by itself; the promise is that nothing is left after 30 s."""

KILL_SECONDS = 10.0
"""How long killed processes may take to be gone: they take milliseconds, unless they hang in the kernel."""

REFUSED = 3
"""The child's exit code when it has said in words why it cannot start."""

STOP_CHILD = signal.SIGUSR1
"""Not SIGTERM: in a process that is connected to Ray, Ray's handler of it aborts three seconds later."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, STOP_CHILD)

AWAITED_SIGNALS = (signal.SIGCHLD, *STOP_SIGNALS)
"""The parent blocks them for good and takes them where it waits: none can interrupt it while it cleans up."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def leave_nothing(scratch: str) -> None:
    """Kills all descendants and removes the folder of Ray's sockets and logs.

    Returns in any case: a process that hangs in the kernel, as in a driver or on a dead NFS, cannot be killed.
    """
    me = psutil.Process()
    deadline = time.monotonic() + KILL_SECONDS
    while (left := me.children(recursive=True)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)
    if left:
        log.error("processes cannot be killed and are left", processes=[_described(process) for process in left])
    shutil.rmtree(scratch, ignore_errors=True)


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {process.name()} ({process.status()})"
    except psutil.NoSuchProcess:
        return f"{process.pid} (ended meanwhile)"


def adopt_orphans() -> None:
    """From now on whatever a descendant orphans is our child."""
    if _prctl(PR_SET_CHILD_SUBREAPER, 1):
        log.warning("orphans cannot be adopted", errno=ctypes.get_errno())


def end_with_parent() -> None:
    """The process that calls it, as `preexec_fn`, gets SIGTERM when the thread that starts it ends, however it does."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> int:
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))
