"""Faults put back into the code, one at a time: the simulation must find each. `python -m tests.simulation mutants`.

A mutant is one exact replacement in one file; tests/unit/test_mutants.py says when a file has changed under one.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.__main__ import copy_tree
from tests.mutants.table import Mutant

SEEDS = 2000
SECONDS = 3000


def run(word: str = "") -> int:
    """Tries those whose name has this word in it. Returns 1 if one was not found."""
    missed = 0
    for mutant in MUTANTS:
        if word in mutant.breaks:
            found = _try(mutant)
            missed += found is None
            print(f"{'not found' if found is None else found:>9}  {mutant.breaks} ({mutant.file})", flush=True)
    return int(missed > 0)


def _try(mutant: Mutant) -> str | None:
    """After how many seeds it was found, and by what."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch)
        copy_tree(copy)
        path = copy / mutant.file
        path.write_text(mutant.applied(path.read_text()))
        command = [sys.executable, "-m", "tests.simulation", "seeds", "0", str(SEEDS), "--stop"]
        environment = {**os.environ, "PYTHONPATH": scratch}
        ended = subprocess.run(
            ["timeout", str(SECONDS), *command], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
    lines = ended.stdout.splitlines()
    count = next((line.split()[2] for line in lines if line.startswith("found after")), None)
    if count is None:
        return None if ended.returncode == 0 else f"? {ended.stderr[-300:]}"
    why = next(line for line in lines if " fails: " in line).partition(" fails: ")[2]
    return f"{count} seeds: {why[:150]}\n          "


MUTANTS: tuple[Mutant, ...] = ()
