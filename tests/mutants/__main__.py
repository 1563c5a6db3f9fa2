"""Breaks a feature, runs the tests that promise it, and expects them to fail: `make mutants`.

Each mutant is tried in a copy of the files that git knows, so that nothing that ends us leaves a broken tree behind.

    python -m tests.mutants                       all of them
    python -m tests.mutants --changed-since REV   those of files that were changed since then, or whose tests were
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]

AT_ONCE = 2

SECONDS = 300
"""A mutant may make its tests hang, which pytest's own limit for a test does not always end."""

CAUGHT = "caught"

TESTS_FAILED = 1
"""pytest's exit code. Any other but 0 says that the tests did not run or did not end, which proves nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--changed-since", metavar="REV", help="only mutants of files that were changed since")
    chosen = _chosen(parser.parse_args().changed_since)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(_try, chosen))
    print(summary(chosen, outcomes))
    return int(any(outcome != CAUGHT for outcome in outcomes))


def summary(mutants: Sequence[Mutant], outcomes: Sequence[str]) -> str:
    """How many came to which end, and then, as the last lines, those that were not caught."""
    counts = Counter(outcomes)
    head = f"{len(mutants)} mutants: {', '.join(f'{count} {outcome}' for outcome, count in counts.items()) or 'none'}"
    missed = [
        f"{outcome}: {mutant.breaks} ({mutant.file})"
        for mutant, outcome in zip(mutants, outcomes, strict=True)
        if outcome != CAUGHT
    ]
    return "\n".join([head, *missed])


def _chosen(revision: str | None) -> list[Mutant]:
    if revision is None:
        return list(MUTANTS)
    changed = set(_git("diff", "--name-only", revision))
    return [each for each in MUTANTS if changed & {each.file, *each.tests.split()}]


def _git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def _try(mutant: Mutant) -> str:
    """Says what came of it, and returns it in a word."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch)
        copy_tree(copy)
        path = copy / mutant.file
        path.write_text(mutant.applied(path.read_text()))
        command = [sys.executable, "-m", "pytest", "-x", "--timeout=60", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": scratch}
        tests = ["timeout", "--kill-after=5", str(SECONDS), *command, *mutant.tests.split()]
        ended = subprocess.run(tests, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    outcome = {0: "SURVIVED", TESTS_FAILED: CAUGHT}.get(ended.returncode, "TESTS DID NOT END")
    failed = next((line.split()[1] for line in ended.stdout.splitlines() if line.startswith("FAILED tests")), "")
    print(f"{outcome:9} {mutant.breaks} ({mutant.file})\n          {failed}", flush=True)
    return outcome


def copy_tree(target: Path) -> None:
    """What git tracks, as it is in the working tree; the models by a link."""
    for name in _git("ls-files"):
        if (source := ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    (target / "models").symlink_to(ROOT / "models")


if __name__ == "__main__":
    sys.exit(main())
