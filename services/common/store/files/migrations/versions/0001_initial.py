"""The first schema. What it creates is written out: later changes of `schema` must not change it."""

import secrets
import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_id = sa.String(24).with_variant(sa.String(24, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables, and the one row of `store` with a new id."""
    store = op.create_table(
        "store",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("store_id", _id, nullable=False),
        sa.Column("latest", sa.BigInteger, nullable=False),
        sa.Column("skew", sa.BigInteger, nullable=False),
        sa.Column("touched", sa.BigInteger, nullable=False),
    )
    _create_media()
    _create_uploads()
    op.create_table(
        "tombstones",
        sa.Column("file_id", _id, primary_key=True),
        sa.Column("media_id", _id, sa.ForeignKey("media.id"), nullable=False, index=True),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("second_purge", sa.Boolean, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("id", _id, primary_key=True),
        sa.Column("media_id", _id, sa.ForeignKey("media.id"), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False),
        *_version_columns(nullable=False),
    )
    op.create_index("outbox_order", "outbox", ["media_id", "revision"])
    for table, columns in (
        ("uploads", ["expires_at", "id"]),
        ("finished_uploads", ["until", "id"]),
        ("tombstones", ["due", "file_id"]),
        ("outbox", ["at", "id"]),
    ):
        op.create_index(f"{table}_due", table, columns)
    op.create_table(
        "revision_floors",
        sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("floor", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "revocations",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("value", sa.LargeBinary, primary_key=True),
        sa.Column("before", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False, index=True),
    )
    store_id = f"{int(time.time()) & 0xFFFFFFFF:08x}{secrets.token_hex(8)}"
    op.bulk_insert(store, [{"id": 1, "store_id": store_id, "latest": 0, "skew": 0, "touched": 0}])


def downgrade() -> None:
    """Drop the tables."""
    names = ("revocations", "revision_floors", "outbox", "tombstones", "finished_uploads", "uploads", "media", "store")
    for name in names:
        op.drop_table(name)


def _version_columns(*, nullable: bool) -> list[sa.Column[object]]:
    return [
        sa.Column("file_id", _id, nullable=nullable),
        sa.Column("length", sa.BigInteger, nullable=nullable),
        sa.Column("content_type", _text, nullable=nullable),
        sa.Column("sha256", sa.String(64)),
        sa.Column("etag", _text, nullable=nullable),
        sa.Column("uploaded_at", sa.BigInteger, nullable=nullable),
        sa.Column("metadata", _text, nullable=nullable),
        sa.Column("media_facts", _text),
    ]


def _create_media() -> None:
    op.create_table(
        "media",
        sa.Column("id", _id, primary_key=True),
        sa.Column("folder", _text),
        sa.Column("filename", _text),
        sa.Column("search_name", _text),
        sa.Column("revision", sa.BigInteger, nullable=False),
        *_version_columns(nullable=True),
        sa.UniqueConstraint("folder", "filename", name="media_name"),
    )
    current = sa.text("uploaded_at IS NOT NULL")
    for name, columns, unique in (
        ("media_newest", ["uploaded_at", "id", "search_name"], False),
        ("media_newest_in_folder", ["folder", "uploaded_at", "id", "search_name"], False),
        ("media_file", ["file_id"], True),
    ):
        op.create_index(name, "media", columns, unique=unique, sqlite_where=current, postgresql_where=current)


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", _id, primary_key=True),
        sa.Column("media_id", _id, sa.ForeignKey("media.id"), nullable=False, index=True),
        sa.Column("file_id", _id, nullable=False, unique=True),
        sa.Column("client", _text, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("lifetime", sa.BigInteger),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger),
        sa.Column("metadata", _text, nullable=False),
    )
    op.create_table(
        "finished_uploads",
        sa.Column("id", _id, primary_key=True),
        sa.Column("media_id", _id, sa.ForeignKey("media.id"), nullable=False, index=True),
        sa.Column("file_id", _id, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("etag", _text),
        sa.Column("metadata", _text, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
