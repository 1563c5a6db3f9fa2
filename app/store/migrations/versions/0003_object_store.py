"""The mark by which the ledger knows its object store; how many lines a file has."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "object_store",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("mark", sa.String(255), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_object_store_single")),
    )
    op.add_column("files", sa.Column("lines", sa.Integer, nullable=False, server_default="0"))
