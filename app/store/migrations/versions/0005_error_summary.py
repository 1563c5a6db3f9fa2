"""What a batch object says of its lines: warnings of validation, and the failed ones by code."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("warnings", sa.JSON))
    op.add_column("batches", sa.Column("error_summary", sa.JSON))
