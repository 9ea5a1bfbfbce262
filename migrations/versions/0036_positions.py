"""Let collections say who sees where their items were made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "collections", sa.Column("positions", sa.String(16), server_default=sa.text("'everyone'"), nullable=False)
    )
    op.create_check_constraint(
        op.f("ck_collections_positions"), "collections", "positions IN ('everyone', 'editors', 'nobody')"
    )
    # their positions are erased piece by piece
    op.create_index(
        "ix_collections_without_positions", "collections", ["id"], postgresql_where=sa.text("positions = 'nobody'")
    )


def downgrade() -> None:
    op.drop_index("ix_collections_without_positions", "collections")
    op.drop_constraint(op.f("ck_collections_positions"), "collections")
    op.drop_column("collections", "positions")
