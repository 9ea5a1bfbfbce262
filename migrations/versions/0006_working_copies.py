"""Add the storage key of an item's working copy, and the claims of items that are embedded just now.

Copies of older items are made when a model first reads them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("copy_key", sa.Text(), nullable=True))
    op.create_table(
        "embedding_claims",
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("token", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"], ["items.id"], name=op.f("fk_embedding_claims_item_id_items"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["embedding_models.id"],
            name=op.f("fk_embedding_claims_model_id_embedding_models"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("item_id", "model_id", name=op.f("pk_embedding_claims")),
    )


def downgrade() -> None:
    op.drop_table("embedding_claims")
    op.drop_column("items", "copy_key")
