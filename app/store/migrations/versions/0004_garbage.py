"""Objects to delete in a table of their own; a checksum of each segment; how often a step of a batch failed."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FILES = sa.table("files", sa.column("object_key"), sa.column("purpose"), sa.column("deleted_at"))
GARBAGE = sa.table("garbage", sa.column("key"), sa.column("due"))


def upgrade() -> None:
    op.create_table(
        "garbage",
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("due", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_garbage_due", "garbage", ["due"])
    op.create_index("ix_files_object_key", "files", ["object_key"])
    _move_what_is_no_file()
    op.add_column("segments", sa.Column("digest", sa.String(16)))
    op.add_column("batches", sa.Column("faults", sa.Integer, nullable=False, server_default="0"))


def _move_what_is_no_file() -> None:
    """Leftovers of batches, and uploads under way: of those alone the deletion lies in the future."""
    no_file = sa.or_(FILES.c.purpose == "leftover", FILES.c.deleted_at > int(time.time()))
    keys = sa.select(FILES.c.object_key, sa.func.max(FILES.c.deleted_at)).where(no_file).group_by(FILES.c.object_key)
    op.execute(GARBAGE.insert().from_select(["key", "due"], keys))
    op.execute(FILES.delete().where(no_file))
