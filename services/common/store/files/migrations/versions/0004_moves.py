"""Ids of files apart from those of names, what was known of deleted files, posters, and indexes of lists by name and by size."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0004"
down_revision = "0002"
branch_labels = None
depends_on = None

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_id = sa.String(24).with_variant(sa.String(24, collation="C"), "postgresql")
_TOMBSTONE_COLUMNS: tuple[tuple[str, TypeEngine[Any]], ...] = (
    ("length", sa.BigInteger()),
    ("content_type", _text),
    ("sha256", sa.String(64)),
    ("etag", _text),
    ("uploaded_at", sa.BigInteger()),
    ("metadata", _text),
    ("media_facts", _text),
    ("poster", _text),
    ("owner", sa.LargeBinary()),
)
_INDEXES = (
    ("media_by_name", ["filename", "id"]),
    ("media_by_size", ["length", "id", "search_name"]),
    ("media_by_size_in_folder", ["folder", "length", "id", "search_name"]),
)


def upgrade() -> None:
    """Add the columns, all of which may be null, and the indexes."""
    current = sa.text("uploaded_at IS NOT NULL")
    for name, columns in _INDEXES:
        op.create_index(name, "media", columns, sqlite_where=current, postgresql_where=current)
    for table in ("media", "outbox"):  # in the order of the schema
        op.add_column(table, sa.Column("poster", _text))
    op.add_column("media", sa.Column("identity", _id))
    op.add_column("outbox", sa.Column("identity", _id))
    op.add_column("outbox", sa.Column("previous", _text))
    moved = sa.text("identity IS NOT NULL")
    op.create_index("media_identity", "media", ["identity"], sqlite_where=moved, postgresql_where=moved)
    op.create_table(
        "posters",
        sa.Column("file_id", _id, primary_key=True),
        sa.Column("etag", _text, nullable=False),
        sa.Column("content_type", _text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    for name, type_ in _TOMBSTONE_COLUMNS:
        op.add_column("tombstones", sa.Column(name, type_))


def downgrade() -> None:
    """Drop the indexes and the columns."""
    for name, _ in _INDEXES:
        op.drop_index(name, "media")
    for name, _ in _TOMBSTONE_COLUMNS:
        op.drop_column("tombstones", name)
    op.drop_table("posters")
    for table in ("media", "outbox"):
        op.drop_column(table, "poster")
    op.drop_column("outbox", "previous")
    op.drop_column("outbox", "identity")
    op.drop_index("media_identity", "media")
    op.drop_column("media", "identity")
