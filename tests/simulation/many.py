"""Thousands of seeds in two processes. What is done is noted, so that a run that was stopped goes on."""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.simulation.plan import plan_of
from tests.simulation.world import simulate

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".simulation"
AT_ONCE = 2
CHUNK = 20


def run(count: int) -> int:
    """Returns 1 if a seed failed."""
    notes = _notes()
    done = {chunk["first"]: chunk for chunk in _read(notes)}
    left = [first for first in range(0, count, CHUNK) if first not in done]
    seeds = len(range(0, count, CHUNK)) * CHUNK
    print(f"{seeds} seeds, {len(left) * CHUNK} to run; notes in {notes}", flush=True)
    with ProcessPoolExecutor(AT_ONCE, mp_context=multiprocessing.get_context("spawn")) as pool:
        for chunk in pool.map(_chunk, left):
            done[chunk["first"]] = chunk
            with notes.open("a") as file:
                file.write(json.dumps(chunk) + "\n")
            for seed, violation in chunk["failed"]:
                print(f"seed {seed} fails: {violation}", flush=True)
            _tell([done[first] for first in done if first < count])
    return int(any(chunk["failed"] for first, chunk in done.items() if first < count))


def _chunk(first: int) -> dict[str, Any]:
    started = time.process_time()
    found: dict[str, Any] = {"first": first, "failed": [], "lines": 0, "seconds": 0.0, "faults": 0}
    for seed in range(first, first + CHUNK):
        world = simulate(plan_of(seed))
        found["lines"] += sum(len(client.lines) for client in world.plan.clients)
        found["seconds"] += world.loop.time()
        found["faults"] += world.trace.faults
        if world.violation is not None:
            found["failed"].append([seed, str(world.violation)[:500]])
    return {**found, "cpu": time.process_time() - started}


def _tell(chunks: list[dict[str, Any]]) -> None:
    hours, lines, faults = (sum(chunk[name] for chunk in chunks) for name in ("seconds", "lines", "faults"))
    minutes = sum(chunk["cpu"] for chunk in chunks) / 60
    print(
        f"{len(chunks) * CHUNK} seeds, {sum(len(chunk['failed']) for chunk in chunks)} failed; a CPU-minute: "
        f"{hours / 3600 / minutes:.2f} simulated hours, {lines / minutes:.0f} lines, {faults / minutes:.0f} faults",
        flush=True,
    )


def _notes() -> Path:
    """Of this very code: what another version did proves nothing for it."""
    digest = hashlib.sha256()
    for folder in ("app", "tests/simulation"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    FOLDER.mkdir(exist_ok=True)
    return FOLDER / f"{digest.hexdigest()[:16]}.jsonl"


def _read(notes: Path) -> Iterator[dict[str, Any]]:
    if notes.exists():
        yield from (json.loads(line) for line in notes.read_text().splitlines())
