"""Add how many files or rows an outcome of an upload stands for: clutter of a folder, further rows of a sheet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("upload_files", sa.Column("count", sa.Integer(), server_default=sa.text("1"), nullable=False))


def downgrade() -> None:
    op.drop_column("upload_files", "count")
