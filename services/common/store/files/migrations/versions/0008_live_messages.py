"""Time-coded messages of live streams."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_key = sa.String(96).with_variant(sa.String(96, collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "live_messages",
        sa.Column("stream_id", _key, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("message_id", _text, nullable=False),
        sa.Column("milliseconds", sa.BigInteger, nullable=False),
        sa.Column("type", _text, nullable=False),
        sa.Column("data", _text, nullable=False),
        sa.Column("size_in_all", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("date", sa.Double, nullable=False),
    )
    op.create_index("live_messages_id", "live_messages", ["stream_id", "message_id"], unique=True)
    op.create_index("live_messages_place", "live_messages", ["stream_id", "milliseconds", "number"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("live_messages")
