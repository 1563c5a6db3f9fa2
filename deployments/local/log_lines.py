"""One format for whatever a cluster prints: a JSON object a line, as our own processes write it.

Ray forwards what its workers print, Ray, Serve and vLLM each in a format of its own, and some of them in colour. The
child of `batchyard serve` sends its own output through a pipe to itself, and writes it out line by line.
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
SOURCE = re.compile(r"^\((?P<name>[^()]*?) ?pid=(?P<pid>\d+)[^()]*\) ?")
LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "critical"}
LEVEL = "|".join(LEVELS)
FORMATS = (
    # Serve: INFO 2026-11-28 04:26:28,850 batchyard_Engine:tiny nr4az7e0 -- Started vLLM engine.
    re.compile(rf"^(?P<level>{LEVEL}) \d{{4}}-\d\d-\d\d [\d:,]+ .*? -- (?P<event>.*)$", re.DOTALL),
    # Ray: 2026-11-28 04:25:44,778  INFO worker.py:2029 -- Started a local Ray instance.
    re.compile(rf"^\d{{4}}-\d\d-\d\d [\d:,]+\s+(?P<level>{LEVEL}) \S+ -- (?P<event>.*)$", re.DOTALL),
    # vLLM: WARNING 11-28 04:26:16 [vllm.py:1371] Enforce eager set
    re.compile(rf"^(?P<level>{LEVEL}) \d\d-\d\d [\d:]+ \[[^]]*\] (?P<event>.*)$", re.DOTALL),
)

NOISE = re.compile(
    r"^setup plugin alembic\.|^Triton (is installed, but|not installed)|^Model Runner V2 requires Triton"
    r"|^Loading .*checkpoint shards:.*it/s\]$"
)
"""Said at each start of each process, and nothing that anybody could act on."""

CHUNK_BYTES = 64 * 1024


def as_entries(text: str) -> Iterator[str]:
    """Lines of JSON for some whole lines that were printed together; what continues a line is part of its entry."""
    entry: dict[str, Any] | None = None
    for printed in re.split(r"[\r\n]+", text):
        line, source = _without_source(COLOURS.sub("", printed))
        if not line.strip():
            continue
        known = _known(line)
        if known is None and entry is not None and entry["process"] == source["process"]:
            entry["event"] += f"\n{line}"
            continue
        if entry is not None:
            yield json.dumps(entry)
            entry = None
        if known is not None and "timestamp" in known:  # one of ours, as it is
            yield json.dumps(known)
        elif not NOISE.search(str((known or {}).get("event", line))):
            entry = {"event": line, **(known or {"level": "info"}), **source, "timestamp": _now()}
    if entry is not None:
        yield json.dumps(entry)


def _without_source(line: str) -> tuple[str, dict[str, Any]]:
    """Without the process that Ray, and vLLM within it, put before it."""
    source: dict[str, Any] = {"process": "cluster"}
    while match := SOURCE.match(line):
        source = {"process": match["name"] or "worker", "pid": int(match["pid"])}
        line = line[match.end() :]
    return line, source


def _known(line: str) -> dict[str, Any] | None:
    """The entry that a line begins; None: it is no beginning that we know."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if "event" in entry:
                return {**entry, "event": str(entry["event"])}
            if "message" in entry:  # Ray's JSON
                return {"level": LEVELS.get(str(entry.get("levelname")), "info"), "event": str(entry["message"])}
    for each in FORMATS:
        if match := each.match(line):
            return {"level": LEVELS[match["level"]], "event": match["event"]}
    return {"level": "error", "event": line} if line.startswith("Traceback (most recent call last)") else None


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class _Rewriter:
    """Reads a pipe and writes its entries to where the output went before."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._rest = b""
        self._lock = threading.Lock()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self._source, CHUNK_BYTES):
                self._write(chunk)

    def drain(self) -> None:
        """Writes what was printed so far, without waiting for more."""
        os.set_blocking(self._source, False)
        with contextlib.suppress(OSError):
            while chunk := os.read(self._source, CHUNK_BYTES):
                self._write(chunk)
        self._write(b"\n")

    def _write(self, chunk: bytes) -> None:
        with self._lock:
            whole, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
            if newline:
                entries = "".join(f"{entry}\n" for entry in as_entries(whole.decode(errors="replace")))
                with contextlib.suppress(OSError):  # a full disk: to stop reading would stop the whole process
                    os.write(self._target, entries.encode())


_rewriter: _Rewriter | None = None


@contextlib.contextmanager
def one_format() -> Iterator[None]:
    """Within it, whatever this process prints, from Python or from C, becomes entries."""
    global _rewriter
    before = os.dup(1), os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    _rewriter = _Rewriter(source, before[0])
    threading.Thread(target=_rewriter.run, daemon=True).start()
    try:
        yield
    finally:
        write_what_is_left()
        os.dup2(before[0], 1)
        os.dup2(before[1], 2)


def write_what_is_left() -> None:
    """To be called before a process ends at once."""
    if _rewriter is not None:
        _rewriter.drain()
