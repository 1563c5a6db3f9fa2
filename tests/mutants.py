"""Breaks a feature, runs the tests that promise it, and expects them to fail: `python -m tests.mutants`.

Each mutant is one exact replacement in one file, undone afterwards whatever happens.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    breaks: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "gate: a batch is taken without a healthy replica",
        "app/api/gate.py",
        "if model.healthy == 0:",
        "if False:",
        "tests/unit/test_api_gate.py",
    ),
    Mutant(
        "health: a model without a healthy replica is not unhealthy",
        "app/health.py",
        "if self.healthy == 0:",
        "if self.healthy < 0:",
        "tests/unit/test_api_health.py",
    ),
    Mutant(
        "resume: a new owner runs lines again that are durable",
        "app/batch/dispatch.py",
        "if position not in claim.done",
        "if True",
        "tests/unit/test_flow.py",
    ),
    Mutant(
        "resume: shards of a dead owner are never taken",
        "app/store/shards.py",
        'shards.c.state == "pending", and_(shards.c.state == "running", shards.c.lease_until < database_now())',
        'shards.c.state == "pending"',
        "tests/unit/test_flow.py",
    ),
    Mutant(
        "fence: a late owner's results count",
        "app/store/shards.py",
        "            shards.c.epoch == claim.epoch,\n",
        "",
        "tests/store/test_shards.py",
    ),
    Mutant(
        "loss: lines in flight at an engine that dies are dropped",
        "app/batch/dispatch.py",
        "            lost = not isinstance(error, ReplicaGone)\n",
        "            self._recorder.complete(claim)\n",
        "tests/unit/test_flow.py",
    ),
    Mutant(
        "gate: a replica whose heartbeat stream broke still counts",
        "deployments/replicas/watch.py",
        "if model.alive.pop(name, None) is not None:",
        "if name in model.alive:",
        "tests/unit/test_replicas.py",
    ),
    Mutant(
        "outage: a dispatcher takes its own shards again",
        "app/batch/dispatch.py",
        "            await self.renew()  # the ledger was away, and would give our own shards to us once more\n",
        "            pass\n",
        "tests/unit/test_faults.py",
    ),
)


def survives(mutant: Mutant) -> bool:
    path = ROOT / mutant.file
    whole = path.read_text()
    assert whole.count(mutant.old) == 1, f"{mutant.file} has changed: {mutant.old!r}"
    try:
        path.write_text(whole.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-x", "--timeout=60", "-p", "no:cacheprovider", mutant.tests]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        path.write_text(whole)
    failed = [line for line in ended.stdout.splitlines() if line.startswith("FAILED")]
    print(
        f"{'SURVIVED' if ended.returncode == 0 else 'caught'}: {mutant.breaks}\n    {'; '.join(failed)[:160]}",
        flush=True,
    )
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(any([survives(mutant) for mutant in MUTANTS]))
