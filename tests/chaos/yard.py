"""The server under fire, what is watched of it meanwhile, and the judgement of its lines."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from openai import APIError
from openai.types import Batch

from tests.acceptance.ledger import Ledger
from tests.acceptance.lines import chats, results
from tests.acceptance.server import FINAL, Server, title_of
from tests.chaos.report import Row, together
from tests.chaos.watch import LedgerWatch, Prober, health_prober
from tests.commands import ROOT

LINES = 1000
TOKENS = 16
STRIKE_AT = 100
"""Lines done when the fault comes: the engine is full and the end far away."""

FINISH_SECONDS = 420
LOAD_SECONDS = 1.0
BATCHES_AT_ONCE = 2

# How each part shows in the process list.
PARTS: dict[str, Callable[[str], bool]] = {
    "engine": lambda title: title.startswith("ray::ServeReplica:batchyard:Engine"),
    "core": lambda title: title.startswith("VLLM::EngineCore"),
    "dispatcher": lambda title: title.startswith("ray::ServeReplica:batchyard:Dispatcher"),
    "gateway": lambda title: title.startswith("ray::ServeReplica:batchyard:Gateway"),
    "controller": lambda title: title.startswith("ray::ServeController"),
    "proxy": lambda title: title.startswith("ray::ProxyActor"),
    "raylet": lambda title: title.partition(" ")[0].endswith("/raylet/raylet"),
    "gcs": lambda title: title.partition(" ")[0].endswith("/gcs/gcs_server"),
}


class ChaosServer(Server):
    """A server whose clients put up with faults. Its restart budget is out of the way: the faults here are ours."""

    def __init__(self, data: Path, **environment: str) -> None:
        super().__init__(data, **{"BATCHYARD_RESTARTS_PER_HOUR": "1000", **environment})

    def part(self, name: str) -> list[psutil.Process]:
        """The processes of a part, in the order of their pids."""
        return sorted((each for each in self.processes() if PARTS[name](title_of(each))), key=lambda each: each.pid)

    def await_whole(self, seconds: float = 240) -> None:
        """Every replica is healthy and every part runs."""
        self.until(self._whole, seconds)

    def _whole(self) -> bool:
        try:
            if self.health().get("status") != "healthy":
                return False
            titles = [title_of(each) for each in self.processes()]
        except (httpx.HTTPError, ValueError):
            return False
        return all(any(is_part(title) for title in titles) for is_part in PARTS.values())

    def follow(self, batch_id: str, done: Callable[[Batch], bool], seconds: float = 120) -> Batch:
        found: list[Batch] = []

        def reached() -> bool:
            with contextlib.suppress(APIError):
                found[:] = [self.client.batches.retrieve(batch_id, timeout=5)]
            return bool(found) and done(found[0])

        self.until(reached, seconds)
        return found[0]

    def finished(self, batch_id: str, seconds: float = FINISH_SECONDS) -> Batch:
        return self.follow(batch_id, lambda batch: batch.status in FINAL, seconds)

    def kill_everything(self, aimed_at: Sequence[psutil.Process] = ()) -> None:
        """As one blow: they stop before they die, so that nobody acts on the death of another or starts somebody new.

        `aimed_at`: its processes as of before. To list them takes longer than some moments last.
        """
        assert self.process is not None
        scratch = _scratch(psutil.Process(self.process.pid))
        end(self.process, aimed_at)
        self.process = None
        self.close_clients()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def end(parent: subprocess.Popen[bytes], aimed_at: Sequence[psutil.Process] = ()) -> None:
    """kill -9 of a process and all its descendants, as one blow."""
    root = psutil.Process(parent.pid)
    doomed: list[psutil.Process] = []
    new = [root, *aimed_at]
    while new:
        for process in new:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        doomed += new
        new = [each for each in [root, *root.children(recursive=True)] if each not in doomed]
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    parent.wait()
    psutil.wait_procs(doomed, timeout=30)


def _scratch(root: psutil.Process) -> str | None:
    """The folder of Ray's sockets and logs, which whoever is killed leaves behind."""
    for child in root.children():
        if "deployments.local.cluster" in (words := child.cmdline()):
            return words[-1]
    return None


@dataclass(frozen=True)
class Scenario:
    """A row to be: `run` strikes and says what happened. The others' rows (`peer`) have a table of their own."""

    name: str
    fault: str
    run: "Callable[[Yards], Row]"
    peer: bool = False


class Yards:
    """One server at a time: a start costs half a minute, and two would share the cores."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._server: ChaosServer | None = None
        self._environment: dict[str, str] | None = None

    def config(self, **args: Any) -> Path:
        """tests/tiny.yaml with these settings besides."""
        config = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
        config["applications"][0]["args"] |= args
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def config_of_model(self, **settings: Any) -> Path:
        """The same with these settings of the model; one file for the same settings, so that rows share a server."""
        config = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
        config["applications"][0]["args"]["models"][0] |= settings
        path = self.folder / ("-".join(f"{name}={value}" for name, value in sorted(settings.items())) + ".yaml")
        path.write_text(yaml.safe_dump(config))
        return path

    def running(self, **environment: str) -> ChaosServer:
        """A whole server with this environment: the one that runs, or a new one with a folder of its own."""
        if self._server is None or self._environment != environment:
            server = self.unstarted(**environment)
            server.start()
            self._environment = environment
        assert self._server is not None
        self._server.await_whole()
        return self._server

    def unstarted(self, data: Path | None = None, **environment: str) -> ChaosServer:
        """For rows that start and kill it themselves."""
        self.close()
        self._server = ChaosServer(data or Path(tempfile.mkdtemp(dir=self.folder)) / "data", **environment)
        return self._server

    def close(self) -> None:
        """Ends the server: after this row, or because it is no longer what a row expects."""
        server, self._server, self._environment = self._server, None, None
        if server is not None and server.process is not None and server.process.poll() is None:
            server.kill_everything()


def with_plugin(folder: Path) -> dict[str, str]:
    """The environment of a server whose interpreters find this folder first."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def custom_ids(lines: int) -> list[str]:
    return [f"line-{number}" for number in range(lines)]


def judge(server: Server, batch: Batch, expected: Sequence[str], may_fail: Collection[str] = ()) -> Row:
    """Counts what must be zero. Lines in `may_fail` belong into the error file."""
    row = Row()
    output = [line["custom_id"] for line in results(server, batch.output_file_id)]
    errors = [line["custom_id"] for line in results(server, batch.error_file_id)]
    seen = Counter(output + errors)
    row.lost = len(set(expected) - set(seen))
    row.doubled = sum(number - 1 for number in seen.values())
    row.wrongly_failed = len(set(errors) - set(may_fail))
    order = {custom_id: position for position, custom_id in enumerate(expected)}
    row.promise(set(seen) <= set(order), "lines that nobody sent")
    in_order = all(ids == sorted(ids, key=lambda each: order.get(each, -1)) for ids in (output, errors))
    row.promise(in_order, "out of order")
    counts = batch.request_counts
    row.promise(counts is not None and (counts.completed, counts.failed) == (len(output), len(errors)), "wrong counts")
    row.promise(batch.status == "completed", f"the batch ended as {batch.status}")
    return row


def start_batch(server: ChaosServer, lines: int = LINES, strike_at: int = STRIKE_AT, **body: Any) -> Batch:
    """A batch of which so many lines are done."""
    batch = server.create(chats(lines, **{"max_tokens": TOKENS, "ignore_eos": True, **body}))
    return server.follow(
        batch.id, lambda each: bool(each.request_counts and each.request_counts.completed >= strike_at)
    )


def strike_in_batch(
    server: ChaosServer,
    strike: Callable[[], object],
    probe: Callable[[Server], Prober] = health_prober,
    refusals: Collection[str] = (),
    lines: int = LINES,
    tokens: int = TOKENS,
) -> Row:
    """The row of a fault in the middle of a batch; `strike` returns when the fault is over, if it ever is.

    `refusals`: the only answers that a prober may get besides the good ones; none: any.
    """
    ledger = Ledger(server.data)
    batch = start_batch(server, lines, max_tokens=tokens)
    with probe(server) as prober, LedgerWatch(ledger) as watch:
        in_flight = ledger.in_flight()
        struck = time.monotonic()
        strike()
        finished = server.finished(batch.id)
        over = time.monotonic() - struck
        server.await_whole()
    row = judge(server, finished, custom_ids(lines))
    row.over = over
    row.in_flight, row.twice = in_flight, watch.twice
    row.detected, row.ready = prober.first(struck, unlike=prober.answers[0][1]), prober.good_again(struck)
    row.pause = watch.longest_pause(struck)
    strange = prober.bad(struck) - set(refusals)
    row.promise(not refusals or not strange, f"the prober was answered {sorted(strange)}")
    return row


def await_gone(processes: Sequence[psutil.Process], seconds: float) -> bool:
    _, left = psutil.wait_procs(processes, timeout=seconds)
    return not left


def under_load(server: ChaosServer, seconds: float, period: float, strike: Callable[[], object]) -> tuple[Row, Prober]:
    """Batches all the while, a strike each `period`. Its row counts the lines of all of them."""
    data = chats(LINES, max_tokens=TOKENS, ignore_eos=True)
    batches: dict[str, bool] = {}
    started = time.monotonic()
    next_strike = started + period
    with health_prober(server) as prober, LedgerWatch(Ledger(server.data)) as watch:
        while (now := time.monotonic()) < started + seconds:
            if now >= next_strike:
                strike()
                next_strike += period
            with contextlib.suppress(APIError):  # what was struck is not back yet
                running = [each for each, over in batches.items() if not over]
                for each in running:
                    batches[each] = server.client.batches.retrieve(each, timeout=5).status in FINAL
                if len(running) < BATCHES_AT_ONCE:
                    batches[server.create(data).id] = False
            time.sleep(LOAD_SECONDS)
        finished = [server.finished(each) for each in batches]
        server.await_whole()
    row = together([judge(server, each, custom_ids(LINES)) for each in finished])
    row.twice = watch.twice
    row.note = f"{len(batches)} batches of {LINES} lines; accepting {prober.share_good():.2%} of the time"
    return row, prober


@contextlib.contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """What the block does lasts so long: the fault is a span of time."""
    until = time.monotonic() + seconds
    yield
    time.sleep(max(0.0, until - time.monotonic()))
