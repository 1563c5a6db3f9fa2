"""One conformance suite for every store: a test that takes `store` or `url` runs once for each factory here."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from app.store import Store
from tests.store.scene import Clock

Factory = Callable[[Path], AbstractContextManager[str]]
"""Gives the URL of an empty database, which is gone after the block; the folder is the test's own."""


@contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder / 'ledger.db'}"


FACTORIES: tuple[Factory, ...] = (sqlite,)


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with request.param(tmp_path) as url:
        yield url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(url: str, clock: Clock) -> AsyncIterator[Store]:
    store = Store.open(url, clock)
    yield store
    store.close()
