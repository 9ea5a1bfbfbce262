"""Keep which file gave an item its caption, so that an upload that ends late does not replace what came after it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("caption_file_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    op.drop_column("items", "caption_file_id")
