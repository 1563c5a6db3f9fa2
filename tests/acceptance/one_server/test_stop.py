"""However `batchyard serve` ends, nothing that it started stays behind. The last file of the folder: here it ends."""

import time
from pathlib import Path

import psutil

from tests.acceptance.server import Server, until


def test_kill_9_of_batchyard_serve_alone_leaves_no_process_and_no_folder_within_30_seconds(server: Server) -> None:
    assert server.process is not None
    family = server.processes()
    scratch = Path(psutil.Process(server.process.pid).children()[0].cmdline()[-1])
    assert scratch.is_dir()
    server.close_clients()
    server.process.kill()
    started = time.monotonic()
    server.process.wait()
    server.process = None
    _, left = psutil.wait_procs(family, timeout=30)
    for each in left:
        each.kill()
    assert not left
    until(lambda: not scratch.exists(), 30)
    print(f"\nkill -9 of batchyard serve: its {len(family)} processes gone after {time.monotonic() - started:.1f} s")
