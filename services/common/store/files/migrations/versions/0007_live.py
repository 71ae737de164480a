"""Live streams, their segments and their epochs."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_id = sa.String(24).with_variant(sa.String(24, collation="C"), "postgresql")
_key = sa.String(96).with_variant(sa.String(96, collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "live",
        sa.Column("id", _key, primary_key=True),
        sa.Column("upload_id", _id, nullable=False),
        sa.Column("file_id", _id, nullable=False, index=True),
        sa.Column("owner", sa.LargeBinary, nullable=False),
        sa.Column("definition", _text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", _text, nullable=False),
        sa.Column("publisher", _text, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("position", _text, nullable=False),
        sa.Column("last_segment", sa.BigInteger, nullable=False),
        sa.Column("epoch_count", sa.Integer, nullable=False),
        sa.Column("pending", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("advanced_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("idle_since", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger),
    )
    op.create_index("live_state", "live", ["state", "id"])
    op.create_index("live_owner", "live", ["owner", "state", "id"])
    op.create_table(
        "live_segments",
        sa.Column("stream_id", _key, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("duration", sa.BigInteger, nullable=False),
        sa.Column("timescale", sa.BigInteger, nullable=False),
        sa.Column("date", sa.Double, nullable=False),
        sa.Column("is_key", sa.Boolean, nullable=False),
    )
    op.create_table(
        "live_epochs",
        sa.Column("stream_id", _key, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("init", sa.LargeBinary, nullable=False),
        sa.Column("timescale", sa.BigInteger, nullable=False),
        sa.Column("base_time", sa.BigInteger, nullable=False),
        sa.Column("file_time", sa.BigInteger, nullable=False),
        sa.Column("date", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("live_epochs", "live_segments", "live"):
        op.drop_table(table)
