"""The ledger's verbs. Each is one transaction, run in a thread, so that it is never cut in two by a cancelled task.

A claim bumps the epoch of what it claims; every later write states that epoch and says whether it acted. A write that
acts on nothing means that somebody else has the work now: a normal result, not an error.
"""

from app.store.files import FileVerbs
from app.store.progress import ProgressVerbs
from app.store.repairs import RepairVerbs
from app.store.shards import ShardVerbs
from app.store.starts import StartVerbs


class Store(FileVerbs, ProgressVerbs, RepairVerbs, ShardVerbs, StartVerbs):
    """The ledger. Open it with `Store.open(url, now)`, or `Store.open_existing(url, now)`."""
