"""The processes that one of ours started, and theirs: none may be left when it ends."""

import contextlib
import ctypes
import shutil
import signal

import psutil
import structlog

log = structlog.get_logger()

GRACE_SECONDS = 15.0
"""How long a child may take to end by itself; the promise is that nothing is left after 30 s."""

STOP_CHILD = signal.SIGUSR1
"""Not SIGTERM: in a process that is connected to Ray, Ray's handler of it aborts three seconds later."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, STOP_CHILD)

AWAITED_SIGNALS = (signal.SIGCHLD, *STOP_SIGNALS)
"""The parent blocks them for good and takes them where it waits: none can interrupt it while it cleans up."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def leave_nothing(scratch: str) -> None:
    """Kills all descendants and removes the folder of Ray's sockets and logs."""
    me = psutil.Process()
    while left := me.children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)
    shutil.rmtree(scratch, ignore_errors=True)


def adopt_orphans() -> None:
    """From now on whatever a descendant orphans is our child."""
    if _prctl(PR_SET_CHILD_SUBREAPER, 1):
        log.warning("orphans cannot be adopted", errno=ctypes.get_errno())


def end_with_parent() -> None:
    """The process that calls it, as `preexec_fn`, gets SIGTERM when the thread that starts it ends, however it does."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> int:
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))
