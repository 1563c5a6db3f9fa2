"""Faults put back into the code, one at a time: the simulation must find each. `python -m tests.simulation mutants`.

A mutant is one exact replacement in one file; tests/unit/test_mutants.py says when a file has changed under one.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.__main__ import copy_tree
from tests.mutants.table import MUTANTS as KNOWN
from tests.mutants.table import Mutant

SEEDS = 2000
SECONDS = 3000


def run(word: str, seeds: int) -> int:
    """Tries those whose name has this word in it. Returns 1 if one was not found."""
    missed = 0
    for mutant in MUTANTS:
        if word in mutant.breaks:
            found = _try(mutant, seeds)
            missed += found is None
            print(f"{'not found' if found is None else found:>9}  {mutant.breaks} ({mutant.file})", flush=True)
    return int(missed > 0)


def _try(mutant: Mutant, seeds: int) -> str | None:
    """After how many seeds it was found, and by what."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch)
        copy_tree(copy)
        path = copy / mutant.file
        path.write_text(mutant.applied(path.read_text()))
        command = [sys.executable, "-m", "tests.simulation", "seeds", "0", str(seeds), "--stop"]
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


def _known(*breaks: str) -> tuple[Mutant, ...]:
    """Mutants that a test of its own finds as well."""
    return tuple(mutant for mutant in KNOWN if mutant.breaks in breaks)


SIMULATION = "tests/simulation/test_simulation.py"

MUTANTS = (
    *_known(
        "a late owner's results count",
        "a claim does not bump the epoch of its shard",
        "a late finaliser or validator acts",
        "a batch that is finalised stays open to late results",
        "a record whose answer got lost counts its lines twice",
        "shards of a dead owner are never taken",
        "a shard under a live lease is taken by another",
        "lines of a batch that does not run start",
        "a new owner runs lines again that are durable",
        "lines in flight at an engine that dies are dropped",
        "the output file is in the order of the answers",
        "failed lines stand in the output file",
        "lines without an answer are left out of the error file",
        "results that come while an object is written are lost",
        "rows come before their object",
        "an object that rows name is garbage",
        "a changed byte in a result goes unnoticed",
        "a line is condemned at its first death by itself",
    ),
    Mutant(
        "a loop ends at the first fault that it meets",
        "app/batch/loops.py",
        "            pause = RETRY_SECONDS\n",
        "            raise\n",
        SIMULATION,
    ),
    Mutant(
        "finish_batch has no fence",
        "app/store/batches.py",
        "select(batches.c.ending).where(self._held(claim)).with_for_update()",
        "select(batches.c.ending).where(batches.c.id == claim.batch.id).with_for_update()",
        SIMULATION,
    ),
    Mutant(
        "record has no fence",
        "app/store/shards.py",
        "mine = update(shards).where(self._claimed(claim), shards.c.state.in_(states))",
        "mine = update(shards).where(shards.c.batch_id == claim.batch_id, shards.c.index == claim.index)",
        SIMULATION,
    ),
    Mutant(
        "release has no fence",
        "app/store/shards.py",
        "back = update(shards).where(self._running(claim))",
        "back = update(shards).where(shards.c.batch_id == claim.batch_id, shards.c.index == claim.index)",
        SIMULATION,
    ),
    Mutant(
        "what waits to be written is forgotten at the end of a dispatcher",
        "app/batch/dispatch.py",
        "        await asyncio.gather(*tasks, return_exceptions=True)\n        await self._recorder.flush()\n",
        "        await asyncio.gather(*tasks, return_exceptions=True)\n",
        SIMULATION,
    ),
    Mutant(
        "suspects are blamed together",
        "app/batch/suspects.py",
        "size = _group_size(number, shard_lines)",
        "size = shard_lines",
        SIMULATION,
    ),
    Mutant(
        "results that the ledger refused once are forgotten",
        "app/batch/recorder.py",
        "        held = await self._store.record(drafts)\n        self._written = []\n",
        "        self._written = []\n        held = await self._store.record(drafts)\n",
        SIMULATION,
    ),
    Mutant(
        "a flush that fails keeps nothing",
        "app/batch/recorder.py",
        "            except BaseException:\n                self.stuck = True\n",
        "            except BaseException:\n                self._pending.clear()\n                self.stuck = True\n",
        SIMULATION,
    ),
    Mutant(
        "an upload is not noted before it is written",
        "app/api/files.py",
        "        await self._store.reserve_object(file.object_key, self._now() + RESERVED_SECONDS)\n",
        "",
        SIMULATION,
    ),
    Mutant(
        "a file is deleted while a batch reads it",
        "app/store/files.py",
        "        if reader is not None:\n",
        "        if False:\n",
        SIMULATION,
    ),
    Mutant(
        "the sweep forgets what it could not delete",
        "app/batch/lifecycle.py",
        "                refused.append(error)  # the others need not wait for it\n",
        "                gone.add(key)\n",
        SIMULATION,
    ),
    Mutant(
        "a batch is made again for each try with its Idempotency-Key",
        "app/store/batches.py",
        "        if idempotency_key is not None:\n",
        "        if False:\n",
        SIMULATION,
    ),
    Mutant(
        "the segments of a batch that has ended stay",
        "app/batch/results.py",
        "        segments_prefix(claim.batch.id),\n        *(_result_key",
        "        *(_result_key",
        SIMULATION,
    ),
    Mutant(
        "results that the ledger did not take stay",
        "app/store/shards.py",
        "for draft in drafts if draft.lines and draft.claim.key not in held])",
        "for draft in drafts if False])",
        SIMULATION,
    ),
    Mutant(
        "damaged results stay counted when their lines run again",
        "app/store/repairs.py",
        "                completed=batches.c.completed - lost.count(False),\n",
        "",
        SIMULATION,
    ),
    Mutant(
        "any object store is taken for the ledger's",
        "app/objects.py",
        "        if self._mark is None:\n            return\n        try:",
        "        if True:\n            return\n        try:",
        SIMULATION,
    ),
    Mutant(
        "a replica gets lines without end",
        "app/batch/dispatch.py",
        "            queued[shard.replica] += len(shard.todo)\n",
        "            pass\n",
        SIMULATION,
    ),
)
