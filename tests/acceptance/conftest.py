"""What the tests with servers of their own share. One runs at a time: a second would slow its start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.server import Server


def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        server.await_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"
