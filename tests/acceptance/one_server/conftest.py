"""One server for all tests of this folder: a start costs half a minute. It ends with the last of them."""

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import running
from tests.acceptance.server import Server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The model `tiny` on one replica. Tests that break it mend it: they leave it ready."""
    yield from running(Server(tmp_path_factory.mktemp("tiny") / "data"))
