"""Say of items and whole files where originals lie that are not copied; of imported objects, which version was seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

_TABLES = "items", "sources"


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("original_root", sa.Text()))
        op.add_column(table, sa.Column("original_path", sa.LargeBinary()))
    op.create_index(
        "ix_items_original_root", "items", ["original_root"], postgresql_where=sa.text("original_root IS NOT NULL")
    )
    op.add_column("imported_files", sa.Column("etag", sa.Text()))


def downgrade() -> None:
    op.drop_column("imported_files", "etag")
    op.drop_index("ix_items_original_root", table_name="items")
    for table in _TABLES:
        op.drop_column(table, "original_path")
        op.drop_column(table, "original_root")
