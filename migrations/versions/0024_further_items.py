"""Keep all items to which a row or a sidecar gave its caption, so that each is embedded once more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("upload_files", sa.Column("further_item_ids", ARRAY(sa.Uuid()), nullable=True))


def downgrade() -> None:
    op.drop_column("upload_files", "further_item_ids")
