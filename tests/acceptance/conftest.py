"""One server for many tests: a start costs half a minute."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The model `tiny` on one replica. Tests that break it mend it: they leave it ready."""
    yield from running(Server(tmp_path_factory.mktemp("tiny") / "data"))


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
