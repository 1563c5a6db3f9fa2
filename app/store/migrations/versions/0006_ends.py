"""When an engine ended whose start succeeded, and not only why one failed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("starts", sa.Column("failed_at", sa.Float))
