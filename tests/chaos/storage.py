"""Database, object store and disk that fail for half a minute, and a disk that turns read-only for good."""

import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx

from tests.acceptance.ledger import Ledger
from tests.acceptance.server import Server
from tests.chaos.report import Row
from tests.chaos.watch import LedgerWatch, Prober
from tests.chaos.yard import (
    LINES,
    ChaosServer,
    Scenario,
    Yards,
    custom_ids,
    judge,
    lasting,
    start_batch,
    strike_in_batch,
)

AWAY_SECONDS = 30
DISK_BYTES = 64 * 1024 * 1024
PROBE_SECONDS = 0.5
REFUSAL = "HTTP 503"


def upload_prober(server: Server) -> Prober:
    """A small upload needs database, object store and disk. While one is away the answer must be 503."""

    def ask(http: httpx.Client) -> str:
        answer = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("probe.jsonl", b"{}\n")})
        return "taken" if answer.status_code == 200 else f"HTTP {answer.status_code}"

    return Prober(server.url, ask, ("taken",), PROBE_SECONDS, patience=15)


def away(server: ChaosServer, strike: Callable[[], object]) -> Row:
    return strike_in_batch(server, strike, upload_prober, refusals=(REFUSAL,))


def database_locked(yards: Yards) -> Row:
    server = yards.running()

    def strike() -> None:
        with closing(sqlite3.connect(server.data / "batchyard.db", timeout=30, isolation_level=None)) as other:
            with lasting(AWAY_SECONDS):
                other.execute("BEGIN EXCLUSIVE")
            other.execute("ROLLBACK")

    return away(server, strike)


def objects_away(yards: Yards) -> Row:
    """The folder is gone, and a file stands where it was, so that nobody makes it anew."""
    return _objects_elsewhere(yards, Path.touch, Path.unlink)


def objects_unmounted(yards: Yards) -> Row:
    """An empty folder stands where it was: nothing fails, and everything seems to be deleted."""
    return _objects_elsewhere(yards, Path.mkdir, Path.rmdir)


def _objects_elsewhere(yards: Yards, put: Callable[[Path], None], take: Callable[[Path], None]) -> Row:
    server = yards.running()
    objects = server.data / "objects"
    elsewhere = objects.with_name("elsewhere")

    def strike() -> None:
        with lasting(AWAY_SECONDS):
            objects.rename(elsewhere)
            put(objects)
        take(objects)
        elsewhere.rename(objects)

    return away(server, strike)


@contextmanager
def small_disk(yards: Yards) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A file system of its own, in a file: its folder, and what mounts it anew after a fault. Needs root."""
    folder = Path(tempfile.mkdtemp(dir=yards.folder))
    image, disk = folder / "image", folder / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    _run("mkfs.ext4", "-q", "-m", "0", image)
    _run("mount", "-o", "loop", image, disk)

    def mount_anew() -> None:
        _run("umount", disk)
        _run("mount", "-o", "loop", image, disk)

    try:
        yield disk, mount_anew
    finally:
        yards.close()
        _run("umount", disk)


def disk_full(yards: Yards) -> Row:
    with small_disk(yards) as (disk, _):
        server = _started(yards, disk)
        ballast = disk / "ballast"

        def strike() -> None:
            with lasting(AWAY_SECONDS), suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            ballast.unlink()

        return away(server, strike)


def disk_read_only(yards: Yards) -> Row:
    """What ext4 does when the disk fails. It ends with a new mount, hence with a new start."""
    with small_disk(yards) as (disk, mount_anew):
        server = _started(yards, disk)
        ledger = Ledger(server.data)
        batch = start_batch(server)
        with upload_prober(server) as prober:
            in_flight = ledger.in_flight()
            struck = time.monotonic()
            with lasting(AWAY_SECONDS):
                _run("mount", "-o", "remount,abort", disk)
        server.kill_everything()
        mount_anew()
        with LedgerWatch(ledger) as watch:
            server.start()
            server.await_whole()
            ready = time.monotonic() - struck
            finished = server.finished(batch.id)
        row = judge(server, finished, custom_ids(LINES))
        row.in_flight, row.twice, row.ready = in_flight, watch.twice, ready
        row.detected = prober.first(struck, unlike="taken")
        row.promise(prober.bad(struck) <= {REFUSAL}, f"uploads were answered {sorted(prober.bad(struck))}")
        row.note = f"mounted and started anew after {AWAY_SECONDS} s"
        return row


def _started(yards: Yards, disk: Path) -> ChaosServer:
    server = yards.unstarted(data=disk / "data")
    server.log = disk.with_name("server.log")  # a full disk is to meet the server, not its shell
    server.start()
    server.await_whole()
    return server


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


SCENARIOS = (
    Scenario("database-locked", f"database locked for {AWAY_SECONDS} s", database_locked),
    Scenario("objects-away", f"object store away for {AWAY_SECONDS} s", objects_away),
    Scenario("objects-unmounted", f"object folder not mounted for {AWAY_SECONDS} s", objects_unmounted),
    Scenario("disk-full", f"disk full for {AWAY_SECONDS} s", disk_full),
    Scenario("disk-read-only", "disk turned read-only by a fault", disk_read_only),
)
