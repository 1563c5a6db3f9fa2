"""Starts and their brakes, suspect lines, paused batches."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "starts",
        sa.Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("starter", sa.String(64)),
        sa.Column("deploy", sa.String(64)),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("failure", sa.String),
        sa.CheckConstraint("kind IN ('planned', 'unplanned', 'excused', 'reset')", name=op.f("ck_starts_kind")),
    )
    op.create_index("ix_starts_subject_seq", "starts", ["subject", "seq"])
    op.create_index("ix_starts_starter", "starts", ["starter"])
    op.add_column("shards", sa.Column("suspects", sa.JSON))
    # Without a table rebuild: segments refer to shards and would go with it.
    op.drop_column("shards", "engine_losses")
    op.add_column("batches", sa.Column("engine_losses", sa.Integer, nullable=False, server_default="0"))
    op.add_column("batches", sa.Column("paused_at", sa.BigInteger))
