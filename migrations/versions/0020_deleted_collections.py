"""Mark deleted collections, whose contents are removed later, and let their names be used again at once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_NAMES = "uq_collections_owner_id_name"


def upgrade() -> None:
    op.add_column("collections", sa.Column("deleted_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_collections_deleted_at", "collections", ["deleted_at"], postgresql_where=sa.text("deleted_at IS NOT NULL")
    )
    op.drop_constraint(_NAMES, "collections", type_="unique")
    op.create_index(
        _NAMES, "collections", ["owner_id", "name"], unique=True, postgresql_where=sa.text("deleted_at IS NULL")
    )


def downgrade() -> None:
    # the previous release would show them; their files are swept as those that no row names
    op.execute("DELETE FROM collections WHERE deleted_at IS NOT NULL")
    op.drop_index(_NAMES, "collections")
    op.create_unique_constraint(_NAMES, "collections", ["owner_id", "name"])
    op.drop_index("ix_collections_deleted_at", "collections")
    op.drop_column("collections", "deleted_at")
