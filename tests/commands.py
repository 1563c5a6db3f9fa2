"""The command `batchyard` as users run it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def batchyard(
    command: str, cwd: Path = ROOT, seconds: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, so long at most."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
