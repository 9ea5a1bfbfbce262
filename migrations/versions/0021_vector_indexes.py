"""Add the vector indexes of large collections, and whether a search compared every item; keep vectors in their rows.

The index of each model over all collections is not used any more; dispatchers drop it without blocking anybody. The
storage counts for rows that are written from now on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_DROP_INDEXES = """
    DO $$ DECLARE found name; BEGIN
        FOR found IN SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()
            AND tablename = 'embeddings' AND indexname LIKE 'ix\\_embeddings\\_hnsw\\_%'
        LOOP EXECUTE format('DROP INDEX %I', found); END LOOP;
    END $$
"""


def upgrade() -> None:
    op.create_table(
        "vector_indexes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("through", sa.Uuid(), nullable=False),
        sa.Column("counts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["embedding_models.id"], name=op.f("fk_vector_indexes_model_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_vector_indexes_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vector_indexes")),
        sa.UniqueConstraint("collection_id", "model_id", name=op.f("uq_vector_indexes_collection_id_model_id")),
    )
    op.add_column("searches", sa.Column("exact", sa.Boolean(), nullable=True))
    op.execute("ALTER TABLE embeddings ALTER COLUMN vector SET STORAGE MAIN")


def downgrade() -> None:
    # the previous release can't use them
    op.execute(_DROP_INDEXES)
    op.execute("ALTER TABLE embeddings ALTER COLUMN vector SET STORAGE EXTERNAL")
    op.drop_column("searches", "exact")
    op.drop_table("vector_indexes")
