"""Ways of asking, waves, fusion, abstention, traces, the score cache, and captions as a coarse source."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("searches", sa.Column("adaptive", postgresql.JSONB(), nullable=True))
    op.add_column("searches", sa.Column("fusion_weight", sa.Double(), server_default=sa.text("0"), nullable=False))
    op.add_column("searches", sa.Column("trace", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("searches", sa.Column("coarse", postgresql.JSONB(), nullable=True))
    op.add_column("searches", sa.Column("unit_candidates", sa.Integer(), server_default=sa.text("8"), nullable=False))
    op.add_column("searches", sa.Column("match_threshold", sa.Double(), nullable=True))
    op.add_column("searches", sa.Column("no_match", sa.Boolean(), nullable=True))
    op.add_column("candidates", sa.Column("sources", postgresql.JSONB(), nullable=True))
    op.alter_column("candidates", "similarity", existing_type=sa.Double(), nullable=True)

    op.add_column("scores", sa.Column("log_odds", sa.Double(), nullable=True))
    op.add_column("scores", sa.Column("error", sa.Text(), nullable=True))
    op.add_column("scores", sa.Column("trace", postgresql.JSONB(), nullable=True))
    op.add_column("scores", sa.Column("cached", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.alter_column("scores", "score", existing_type=sa.Double(), nullable=True)
    op.alter_column("scores", "entropy", existing_type=sa.Double(), nullable=True)
    op.create_index("ix_scores_scorer_version_created_at", "scores", ["scorer_version", "created_at"], unique=False)

    op.create_table(
        "score_cache",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("log_odds", sa.Double(), nullable=True),
        sa.Column("entropy", sa.Double(), nullable=True),
        sa.Column("injected_layer", sa.Integer(), nullable=True),
        sa.Column("uncertainty", sa.Double(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("trace", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_score_cache")),
    )
    op.create_index("ix_score_cache_created_at", "score_cache", ["created_at"], unique=False)

    # rewrites the table: a few seconds for a million captions
    op.add_column(
        "items",
        sa.Column(
            "words",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('english', coalesce(text, ''))", persisted=True),
            nullable=True,
        ),
    )
    op.create_index("ix_items_words", "items", ["words"], unique=False, postgresql_using="gin")


def downgrade() -> None:
    op.drop_index("ix_items_words", table_name="items", postgresql_using="gin")
    op.drop_column("items", "words")
    op.drop_index("ix_score_cache_created_at", table_name="score_cache")
    op.drop_table("score_cache")

    op.drop_index("ix_scores_scorer_version_created_at", table_name="scores")
    # the first schema has no place for an answer without a score, nor for a score without its entropy
    op.execute("DELETE FROM scores WHERE score IS NULL OR entropy IS NULL")
    op.alter_column("scores", "entropy", existing_type=sa.Double(), nullable=False)
    op.alter_column("scores", "score", existing_type=sa.Double(), nullable=False)
    for column in ("cached", "trace", "error", "log_odds"):
        op.drop_column("scores", column)

    # found by another source, and without a vector of the search's embedder
    op.execute("DELETE FROM candidates WHERE similarity IS NULL")
    op.alter_column("candidates", "similarity", existing_type=sa.Double(), nullable=False)
    op.drop_column("candidates", "sources")
    for column in ("no_match", "match_threshold", "unit_candidates", "coarse", "trace", "fusion_weight", "adaptive"):
        op.drop_column("searches", column)
