"""A database in a file belongs to one node: it is made where the application is deployed, and nowhere else."""

from pathlib import Path

import pytest

from app.errors import StoreUnavailable
from app.store import Store
from tests.store.scene import Clock, a_file


def test_a_replica_on_a_node_without_the_file_begins_no_ledger_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "batchyard.db"
    with pytest.raises(StoreUnavailable, match="not on this node"):
        Store.open_existing(f"sqlite:///{path}", Clock())
    assert not path.exists()


async def test_whoever_deploys_makes_the_ledger_once_and_replicas_open_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'data' / 'batchyard.db'}"
    Store.make(url)
    store = Store.open_existing(url, Clock())
    await store.add_file(a_file())
    Store.make(url)
    assert await store.file("acme", "file-in") is not None
    store.close()
