"""Add the last part of the raw name of a file, by which a sidecar finds the picture of its very name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_TABLES = ("upload_files", "large_files")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("raw_end", sa.Text(), nullable=True))


def downgrade() -> None:
    for table in _TABLES:
        op.drop_column(table, "raw_end")
