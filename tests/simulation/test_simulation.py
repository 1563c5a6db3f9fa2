"""A few hundred bad days. `python -m tests.simulation run SEED` shows one that fails, `shrink SEED` its essence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 300
CHUNK = 30


def simulation(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: it changes how this one logs, and what it draws its ids from."""
    command = [sys.executable, "-m", "tests.simulation", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_nothing_is_lost_on_a_bad_day(first: int) -> None:
    ended = simulation("seeds", first, CHUNK)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-5000:]


@pytest.mark.parametrize("seed", [3, 14, 19])
def test_a_run_is_a_function_of_its_seed(seed: int) -> None:
    one, another = (simulation("run", seed, PYTHONHASHSEED=hashes) for hashes in ("1", "2"))
    assert one.returncode == 0, one.stderr
    assert one.stdout == another.stdout
