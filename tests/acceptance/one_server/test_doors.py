"""Clients that are many, large, slow or silent: what stands at the door stays small, and others are served."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.acceptance.server import Server, title_of

MB = 1024 * 1024
ALLOWED = 150 * MB
"""Above idle, of gateway and proxy each."""

BOUNDARY = "xBOUNDARYx"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
BEGINNING = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
).encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()


def doors(server: Server) -> list[psutil.Process]:
    """Gateway and proxy."""
    proxies = [each for each in server.processes() if title_of(each).startswith("ray::ProxyActor")]
    return [*server.replicas("Gateway"), *proxies]


@contextmanager
def staying_small(server: Server, allowed: int = ALLOWED) -> Iterator[None]:
    """Looks at their memory until the block ends."""
    watched = {process: process.memory_info().rss for process in doors(server)}
    assert len(watched) == 2
    most = dict(watched)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for process in watched:
                most[process] = max(most[process], process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
        grown = {title_of(process).split()[0]: (most[process] - idle) // MB for process, idle in watched.items()}
        print(f"MB above idle: {grown}")
    assert all(most[process] - idle < allowed for process, idle in watched.items()), grown


def upload(server: Server, size: int, announced: bool, pause: float = 0.0) -> int:
    """The status of an upload of `size` bytes, with a pause after each megabyte."""
    total = len(BEGINNING) + size + len(END)
    length = {"content-length": str(total)} if announced else {}

    def body() -> Iterator[bytes]:
        yield BEGINNING
        for _ in range(size // MB):
            yield b"x" * MB
            time.sleep(pause)
        yield END

    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    client.request("POST", "/v1/files", body(), {**FORM, **length}, encode_chunked=not announced)
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer.status


def test_many_large_uploads_at_once_take_little_memory(server: Server) -> None:
    kinds = [(announced, pause) for announced in (True, False) for pause in (0.0, 0.0, 0.05)]
    with staying_small(server), ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda kind: upload(server, 40 * MB, *kind), kinds))
    assert statuses == [200] * 6


def test_readers_that_take_nothing_take_little_memory(server: Server) -> None:
    file = server.client.files.create(file=("a", b"x" * 100 * MB), purpose="vision")
    with staying_small(server), ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(connected(server))
            client.sendall(f"GET /v1/files/{file.id}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        started = time.monotonic()
        assert server.content(file.id) == b"x" * 100 * MB, "who reads is served meanwhile"
        print(f"100 MB read in {time.monotonic() - started:.1f} s")


def test_silent_bodies_keep_nobody_out(server: Server) -> None:
    head = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: 1000\r\n\r\n{{"
    with ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(connected(server)).sendall(head.format("/v1/batches", "application/json").encode())
        started = time.monotonic()
        assert server.status("/livez") == 200
        assert server.status("/v1/models") == 200
        assert time.monotonic() - started < 5


def test_an_upload_without_a_place_is_told_so_before_it_sends(server: Server) -> None:
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM['content-type']}\r\n"
    head += "Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(32):
            client = stack.enter_context(connected(server))
            client.sendall(head.encode())
            assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client = stack.enter_context(connected(server))
        client.sendall(head.encode())
        answer = client.recv(4096).lower()
        assert answer.startswith(b"http/1.1 503")
        assert b"retry-after: 5\r\n" in answer
    server.until(lambda: upload(server, MB, announced=True) == 200, 30)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/realtime"])
def test_an_offer_of_a_websocket_is_declined_with_an_answer(server: Server, path: str) -> None:
    offer = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "eA==",
    }
    answer = server.http.get(path, headers=offer)
    assert answer.status_code == (200 if path == "/v1/models" else 404)
    assert answer.headers["content-type"] == "application/json"


def test_serves_own_paths_are_for_reading_alone(server: Server) -> None:
    for path in ("/-/healthz", "/-/routes"):
        assert server.status(path) == 200
        refused = server.http.post(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
        yield client
