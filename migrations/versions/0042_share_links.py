"""Add links that open a collection or the result of a search without an account."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

_TARGETS = {"collection_id": "collections", "search_id": "searches", "user_id": "users"}


def upgrade() -> None:
    op.create_table(
        "share_links",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("collection_id", sa.Uuid()),
        sa.Column("search_id", sa.Uuid()),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("downloads", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.Column("uses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("num_nonnulls(collection_id, search_id) > 0", name=op.f("ck_share_links_opens_something")),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_share_links_{column}"), ondelete="CASCADE"
            )
            for column, table in _TARGETS.items()
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_links")),
        sa.UniqueConstraint("digest", name=op.f("uq_share_links_digest")),
    )
    op.create_index("ix_share_links_collection_id_id", "share_links", ["collection_id", "id"])
    op.create_index(
        "ix_share_links_search_id_id",
        "share_links",
        ["search_id", "id"],
        postgresql_where=sa.text("search_id IS NOT NULL"),
    )
    op.create_index("ix_share_links_user_id", "share_links", ["user_id"])


def downgrade() -> None:
    op.drop_table("share_links")
