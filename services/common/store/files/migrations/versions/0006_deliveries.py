"""Webhooks: deliveries, endpoints, and which events of the outbox are not relayed yet."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_id = sa.String(24).with_variant(sa.String(24, collation="C"), "postgresql")
_key = sa.String(96).with_variant(sa.String(96, collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column and the tables."""
    op.add_column("outbox", sa.Column("unrelayed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "deliveries",
        sa.Column("id", _key, primary_key=True),
        sa.Column("event_id", _id, nullable=False),
        sa.Column("endpoint_id", _key, nullable=False),
        sa.Column("media_id", _id, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("event_type", sa.String(128), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("error", _text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
    )
    op.create_index("deliveries_next", "deliveries", ["endpoint_id", "state", "next_at", "id"])
    op.create_index("deliveries_order", "deliveries", ["endpoint_id", "media_id", "revision"])
    op.create_index("deliveries_state", "deliveries", ["state", "id"])
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", _key, primary_key=True),
        sa.Column("definition", _text),
        sa.Column("is_ended", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("webhook_endpoints")
    op.drop_table("deliveries")
    op.drop_column("outbox", "unrelayed")
