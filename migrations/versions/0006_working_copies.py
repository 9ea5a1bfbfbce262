"""Add the storage key of an item's working copy. Copies of older items are made when a model first reads them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("copy_key", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("items", "copy_key")
