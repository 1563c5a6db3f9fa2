"""The ledger: files, batches, shards, segments, idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.String, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("object_key", sa.String(255), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("deleted_at", sa.BigInteger),
    )
    op.create_index("ix_files_tenant_seq", "files", ["tenant", "seq"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    op.create_index("ix_files_deleted_at", "files", ["deleted_at"])
    op.create_table(
        "batches",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("ending", sa.String(16)),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("model", sa.String(255)),
        sa.Column("input_file_id", sa.String(64), nullable=False),
        sa.Column("completion_window", sa.String(16), nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("output_expires_after", sa.Integer),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("completed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.JSON),
        sa.Column("output_file_id", sa.String(64)),
        sa.Column("error_file_id", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("in_progress_at", sa.BigInteger),
        sa.Column("finalizing_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("failed_at", sa.BigInteger),
        sa.Column("expired_at", sa.BigInteger),
        sa.Column("cancelling_at", sa.BigInteger),
        sa.Column("cancelled_at", sa.BigInteger),
        sa.Column("owner", sa.String(64)),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.Float),
        sa.CheckConstraint(
            "status IN ('validating', 'in_progress', 'finalizing', 'cancelling', "
            "'completed', 'failed', 'expired', 'cancelled')",
            name=op.f("ck_batches_status"),
        ),
    )
    op.create_index("ix_batches_tenant_seq", "batches", ["tenant", "seq"])
    op.create_index("ix_batches_status_seq", "batches", ["status", "seq"])
    op.create_index("ix_batches_input_file_id", "batches", ["input_file_id"])
    op.create_table(
        "shards",
        sa.Column("batch_id", sa.String(64), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("index", sa.Integer, primary_key=True),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("first_line", sa.Integer, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.Float),
        sa.Column("engine_losses", sa.Integer, nullable=False),
        sa.CheckConstraint("state IN ('pending', 'running', 'done', 'closed')", name=op.f("ck_shards_state")),
    )
    op.create_index("ix_shards_state_batch_id_index", "shards", ["state", "batch_id", "index"])
    op.create_table(
        "segments",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("batch_id", sa.String(64), sa.ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("object_key", sa.String(255), nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("lines", sa.JSON, nullable=False),
        sa.Column("failed", sa.JSON, nullable=False),
    )
    op.create_index("ix_segments_batch_id_shard", "segments", ["batch_id", "shard"])
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("route", sa.String(32), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("object_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "route", "key"),
    )


def downgrade() -> None:
    for table in ("idempotency", "segments", "shards", "batches", "files"):
        op.drop_table(table)
