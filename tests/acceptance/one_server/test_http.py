"""HTTP as people's clients really speak it, through Serve's own proxy."""

import json
import shutil
import socket
import subprocess
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.acceptance.server import Server

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 4}
JSON = {"Content-Type": "application/json"}
H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA"}


def test_a_client_that_offers_http2_is_served_with_its_body(server: Server) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    with closing(connection):
        for _ in range(2):  # the connection goes on
            connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), JSON | H2C)
            answer = connection.getresponse()
            body = answer.read()
            assert (answer.status, answer.version) == (200, 11), body
            assert json.loads(body)["object"] == "chat.completion"


@pytest.mark.skipif(shutil.which("java") is None, reason="no JDK here")
def test_javas_own_client_is_served(server: Server) -> None:
    source = Path(__file__).with_name("Post.java")
    command = ["java", str(source), f"{server.url}/v1/chat/completions", json.dumps(CHAT)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout.startswith("200 "), ended.stdout + ended.stderr


def test_a_stream_to_a_client_of_http_1_0_has_no_chunk_sizes(server: Server) -> None:
    content = json.dumps({**CHAT, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % len(content) + content)
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in head.lower()
    events = body.split(b"\n\n")
    assert all(event.startswith(b"data: ") for event in events[:-1]) and events[-1] == b""
    assert events[-2] == b"data: [DONE]"


@pytest.mark.parametrize("path", ["/livez", "/v1/models", "/nowhere", "/-/nowhere"])
def test_an_answer_has_one_request_id(server: Server, path: str) -> None:
    for headers, wanted in (({}, "req_"), ({"x-request-id": "mine"}, "mine")):
        answer = server.http.get(path, headers=headers)
        assert len(answer.headers.get_list("x-request-id")) == 1
        assert answer.headers["x-request-id"].startswith(wanted)


def test_clients_cannot_shorten_serves_patience(server: Server) -> None:
    answer = server.http.post("/v1/chat/completions", json=CHAT, headers={"x-request-timeout-seconds": "0.001"})
    assert answer.status_code == 200, answer.text


def test_no_page_may_use_it_or_read_its_answers_unless_the_config_says_so(server: Server) -> None:
    for origin, status in (("https://page.example", 403), ("http://localhost:3000", 200)):
        answer = server.http.post("/v1/chat/completions", json=CHAT, headers={"origin": origin})
        assert answer.status_code == status
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_page_that_rebound_its_name_to_this_machine_is_refused(server: Server) -> None:
    assert server.http.get("/v1/models", headers={"host": f"page.example:{server.port}"}).status_code == 421
