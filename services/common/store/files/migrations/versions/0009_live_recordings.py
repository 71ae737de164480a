"""Live streams that go on in another file."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column."""
    op.add_column("live", sa.Column("recordings", _text))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("live", "recordings")
