"""Owners of files and uploads, and secrets in the ids of uploads. What was stored before has neither."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = {
    "uploads": ("secret_digest", "owner"),
    "finished_uploads": ("secret_digest", "owner"),
    "media": ("owner",),
    "outbox": ("owner", "previous_owner"),
}


def upgrade() -> None:
    """Add the columns, empty."""
    for table, names in _COLUMNS.items():
        for name in names:
            column_type = sa.String(64) if name == "secret_digest" else sa.LargeBinary()
            op.add_column(table, sa.Column(name, column_type))


def downgrade() -> None:
    """Drop them."""
    for table, names in _COLUMNS.items():
        for name in names:
            op.drop_column(table, name)
