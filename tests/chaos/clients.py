"""Clients that go away half-way, and clients that ask too much."""

import random
import socket
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx

from tests.acceptance.server import Server
from tests.chaos.report import Row
from tests.chaos.yard import LINES, Scenario, Yards, custom_ids, judge, start_batch

SEED = 7
CUT_NAME = "cut.jsonl"
CUTS = 100
UPLOAD_BYTES = 2 * 1024 * 1024
DOWNLOADS = 50
POLLS = 10_000
POLLERS = 16
POLL_LINES = 8000
POLL_SECONDS = 1200


def upload_request(server: Server, data: bytes) -> bytes:
    """The bytes of an upload, for a socket: a client library would send them whole."""
    file = {"file": (CUT_NAME, data)}
    return _bytes_of(httpx.Request("POST", f"{server.url}/v1/files", data={"purpose": "batch"}, files=file))


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def cut_files(server: Server) -> int:
    """Files that are listed although their upload was cut off."""
    return sum(file.filename == CUT_NAME for file in server.client.files.list(limit=100))


def cut_uploads(yards: Yards) -> Row:
    """No byte of them is listed, the batch does not notice, and a whole upload is as good as ever."""
    server, chooser = yards.running(), random.Random(SEED)
    batch = start_batch(server)
    request = upload_request(server, b"x" * UPLOAD_BYTES)
    for _ in range(CUTS):
        with closing(connected(server)) as connection:
            connection.sendall(request[: chooser.randrange(len(request))])
    row = judge(server, server.finished(batch.id), custom_ids(LINES))
    row.promise(cut_files(server) == 0, "a file that was cut off is listed")
    data = chooser.randbytes(UPLOAD_BYTES)
    row.promise(server.content(server.upload(data)) == data, "a whole upload came back different")
    row.note = f"{CUTS} uploads"
    return row


def cut_downloads(yards: Yards) -> Row:
    """The gateway keeps nothing open for them."""
    server, chooser = yards.running(), random.Random(SEED)
    batch = start_batch(server)
    data = chooser.randbytes(32 * UPLOAD_BYTES)
    file_id = server.upload(data)
    request = _bytes_of(httpx.Request("GET", f"{server.url}/v1/files/{file_id}/content"))
    [gateway] = server.part("gateway")
    before = gateway.num_fds()
    for _ in range(DOWNLOADS):
        with closing(connected(server)) as connection:
            connection.sendall(request)
            for _ in range(chooser.randrange(50)):
                connection.recv(65536)
    row = judge(server, server.finished(batch.id), custom_ids(LINES))
    row.promise(server.content(file_id) == data, "a whole download came back different")
    try:
        server.until(lambda: gateway.num_fds() <= before + 4, 30)
    except AssertionError:
        row.broken.append(f"open files of the gateway: {before} before, {gateway.num_fds()} after")
    row.note = f"{DOWNLOADS} downloads; open files of the gateway {before} before, {gateway.num_fds()} after"
    return row


def polls(yards: Yards) -> Row:
    server = yards.running()
    batch = start_batch(server, POLL_LINES)
    times: list[float] = []

    def poll(_: int) -> tuple[int, str]:
        started = time.monotonic()
        answer = http.get(f"/v1/batches/{batch.id}")
        times.append(time.monotonic() - started)
        return answer.status_code, str(answer.json().get("status"))

    with httpx.Client(base_url=server.url, timeout=60) as http, ThreadPoolExecutor(POLLERS) as pollers:
        started = time.monotonic()
        answers = Counter(pollers.map(poll, range(POLLS)))
        took = time.monotonic() - started
    row = judge(server, server.finished(batch.id, POLL_SECONDS), custom_ids(POLL_LINES))
    row.promise({code for code, _ in answers} == {200}, f"polls were answered {sorted(answers)}")
    row.note = (
        f"{POLLS / took:.0f} polls/s of {POLLERS} clients, {answers[200, 'in_progress']:,} of them while it ran; "
        f"median {statistics.median(times) * 1000:.0f} ms, slowest {max(times):.2f} s"
    )
    return row


def _bytes_of(request: httpx.Request) -> bytes:
    head = f"{request.method} {request.url.raw_path.decode()} HTTP/1.1\r\n".encode()
    fields = b"".join(name + b": " + value + b"\r\n" for name, value in request.headers.raw)
    return head + fields + b"\r\n" + request.read()


SCENARIOS = (
    Scenario("cut-uploads", "uploads cut off at any byte", cut_uploads),
    Scenario("cut-downloads", "clients gone in the middle of a download", cut_downloads),
    Scenario("polls", f"{POLLS:,} polls while a batch runs", polls),
)
