"""Secrets in the ids of uploads. What was stored before has none."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, empty."""
    for table in ("uploads", "finished_uploads"):
        op.add_column(table, sa.Column("secret_digest", sa.String(64)))


def downgrade() -> None:
    """Drop them."""
    for table in ("uploads", "finished_uploads"):
        op.drop_column(table, "secret_digest")
