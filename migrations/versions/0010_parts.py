"""Keep whole files whose pages or frames are items."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("content_sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_key", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_sources_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
        sa.UniqueConstraint("collection_id", "content_sha256", name=op.f("uq_sources_collection_id_content_sha256")),
    )
    op.add_column("items", sa.Column("source_id", sa.Uuid(), nullable=True))
    op.add_column("items", sa.Column("part", postgresql.JSONB(none_as_null=True), nullable=True))
    op.create_foreign_key(op.f("fk_items_source_id"), "items", "sources", ["source_id"], ["id"], ondelete="SET NULL")
    op.create_index("ix_items_source_id", "items", ["source_id"], postgresql_where=sa.text("source_id IS NOT NULL"))


def downgrade() -> None:
    # parts stay as pictures; the whole files have no row any more
    op.drop_column("items", "part")
    op.drop_column("items", "source_id")
    op.drop_table("sources")
