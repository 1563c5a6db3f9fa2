"""A Sentry on this machine: takes the envelopes that sentry-sdk sends, and keeps what is in them."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sentry_sdk.envelope import Envelope


class SentryReceiver:
    """`dsn` is what SENTRY_DSN must be. `bodies`: the envelopes as they came, unzipped."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.bodies.append(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: Any) -> None:
                """Not to stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://public@127.0.0.1:{self._server.server_port}/1"

    @property
    def events(self) -> list[dict[str, Any]]:
        found = (Envelope.deserialize(body).get_event() for body in list(self.bodies))
        return [dict(event) for event in found if event is not None]

    def alerts(self, kind: str, **tags: str) -> list[dict[str, Any]]:
        wanted = {"kind": kind, **tags}.items()
        return [event for event in self.events if wanted <= event["tags"].items()]

    @contextmanager
    def running(self) -> Iterator["SentryReceiver"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
