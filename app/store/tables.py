"""The ledger's tables. Times that clients see are whole unix seconds, leases are floats by the database's clock."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.store.records import BATCH_STATES

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"}
)

# SQLite numbers rows by itself only in a column of type INTEGER.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

files = Table(
    "files",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("object_key", String(255), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("lines", Integer, nullable=False, server_default="0"),
    # Set by delete and by expiry: the row goes once the object is gone.
    Column("deleted_at", BigInteger),
    Index(None, "tenant", "seq"),
    Index(None, "expires_at"),
    Index(None, "deleted_at"),
    Index(None, "object_key"),
)

# Objects that are deleted once they are due, unless a file's row names them by then; a key that ends with a slash
# stands for all objects under it. An upload stands here, due in a day, from before its object is written until its
# row is true. So no object is forgotten, whatever dies between it and its row.
garbage = Table(
    "garbage",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("due", BigInteger, nullable=False),
    Index(None, "due"),
)

batches = Table(
    "batches",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    # How a batch that stops early will end: cancelled, expired or failed. No further line starts once it is set.
    Column("ending", String(16)),
    Column("endpoint", String(64), nullable=False),
    Column("model", String(255)),
    Column("input_file_id", String(64), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("metadata", JSON),
    Column("output_expires_after", Integer),
    Column("total", Integer, nullable=False, default=0),
    Column("completed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("input_tokens", BigInteger, nullable=False, default=0),
    Column("cached_tokens", BigInteger, nullable=False, default=0),
    Column("output_tokens", BigInteger, nullable=False, default=0),
    Column("reasoning_tokens", BigInteger, nullable=False, default=0),
    Column("errors", JSON),
    Column("warnings", JSON),
    Column("error_summary", JSON),
    # Engines that died with nothing but suspect lines of this batch in them; at the limit the batch is paused.
    Column("engine_losses", Integer, nullable=False, server_default="0"),
    Column("paused_at", BigInteger),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("in_progress_at", BigInteger),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    # How often validating, running or finalising failed through a fault of the batch's own.
    Column("faults", Integer, nullable=False, server_default="0"),
    # The claim on the batch itself, held while it is validated or finalised, or the end of the pause after a fault of
    # its own. `owner` is for operators: who has it.
    Column("owner", String(64)),
    Column("epoch", Integer, nullable=False, default=0),
    Column("lease_until", Float),
    CheckConstraint(f"status IN {BATCH_STATES}", name="status"),
    Index(None, "tenant", "seq"),
    Index(None, "status", "seq"),
    Index(None, "input_file_id"),
)

shards = Table(
    "shards",
    metadata,
    Column("batch_id", String(64), ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("first_line", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    # pending → running → done, back to pending when released; closed when its batch stopped early.
    Column("state", String(8), nullable=False, default="pending"),
    # For operators: which dispatcher has it. Claims are distinguished by their epoch.
    Column("owner", String(64)),
    Column("epoch", Integer, nullable=False, default=0),
    Column("lease_until", Float),
    # Lines that were in an engine when it died, by position, each with the number of such deaths; and under "slow" the
    # positions of those that took too long among others. null: none of either.
    Column("suspects", JSON(none_as_null=True)),
    CheckConstraint("state IN ('pending', 'running', 'done', 'closed')", name="state"),
    Index(None, "state", "batch_id", "index"),
)

segments = Table(
    "segments",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("batch_id", String(64), ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    Column("shard", Integer, nullable=False),
    # Of the claim that made it: the chaos suite counts by it the lines that ran again.
    Column("epoch", Integer, nullable=False),
    # Where the lines lie: bytes [start, end) of the object, one JSON line for each entry of `lines`, in that order.
    Column("object_key", String(255), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    # Checksum of these bytes, by the process that wrote them; null: written before there were any.
    Column("digest", String(16)),
    # Positions within the shard, from 0; `failed` are those of them that belong into the error file.
    Column("lines", JSON, nullable=False),
    Column("failed", JSON, nullable=False),
    Index(None, "batch_id", "shard"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String(64), nullable=False),
    Column("route", String(32), nullable=False),
    Column("key", String(255), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("object_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "route", "key"),
)

# Starts of models and of the local cluster, and what lessens their number: the memory of the brakes.
starts = Table(
    "starts",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("subject", String(255), nullable=False),
    # excused: a line was to blame for an unplanned start; reset: a person lifted the budget.
    Column("kind", String(16), nullable=False),
    Column("starter", String(64)),
    Column("deploy", String(64)),
    Column("at", Float, nullable=False),
    # Why the start failed, or why the replica ended later, where it is known; and when.
    Column("failure", String),
    Column("failed_at", Float),
    CheckConstraint("kind IN ('planned', 'unplanned', 'excused', 'reset')", name="kind"),
    Index(None, "subject", "seq"),
    Index(None, "starter"),
)

# One row once it is known: the object by which the ledger's object store is recognised.
object_store = Table(
    "object_store",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("mark", String(255), nullable=False),
    CheckConstraint("id = 1", name="single"),
)


class database_now(FunctionElement[float]):
    """Seconds since 1970 by the database's clock: the only clock that all owners of leases share."""

    type = Float()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: Any, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql_now(element: database_now, compiler: Any, **kwargs: Any) -> str:
    return "extract(epoch from clock_timestamp())"
