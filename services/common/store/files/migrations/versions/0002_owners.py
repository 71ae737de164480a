"""Owners of files and uploads with their quotas, and secrets in the ids of uploads. What was stored before has neither."""

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
    """Add the columns, empty, and the table of quotas."""
    for table, names in _COLUMNS.items():
        for name in names:
            column_type = sa.String(64) if name == "secret_digest" else sa.LargeBinary()
            op.add_column(table, sa.Column(name, column_type))
    op.add_column("uploads", sa.Column("reserved", sa.BigInteger, nullable=False, server_default="0"))
    owned = sa.text("owner IS NOT NULL")
    for name, table, columns in (
        ("uploads_owner", "uploads", ["owner"]),
        ("media_owner", "media", ["owner", "length"]),
    ):
        op.create_index(name, table, columns, sqlite_where=owned, postgresql_where=owned)
    op.create_table("quotas", sa.Column("owner", sa.LargeBinary, primary_key=True), sa.Column("stored", sa.BigInteger))


def downgrade() -> None:
    """Drop them."""
    op.drop_table("quotas")
    op.drop_index("media_owner", "media")
    op.drop_index("uploads_owner", "uploads")
    op.drop_column("uploads", "reserved")
    for table, names in _COLUMNS.items():
        for name in names:
            op.drop_column(table, name)
