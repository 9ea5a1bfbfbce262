"""Add perceptual hashes of pictures, and groups of pictures that are nearly the same."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

_READY = "CREATE INDEX ix_items_{name} ON items (collection_id, id) {more}"
_INDEXES = {
    "hashed": "INCLUDE (perceptual_hash) WHERE state = 'ready' AND perceptual_hash IS NOT NULL",
    "unhashed": "WHERE state = 'ready' AND perceptual_hash IS NULL AND thumbnail_key IS NOT NULL",
}
_KINDS = "upload", "index", "search"


def _set_kinds(*kinds: str) -> None:
    op.drop_constraint(op.f("ck_jobs_jobkind"), "jobs", type_="check")
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    op.create_check_constraint(op.f("ck_jobs_jobkind"), "jobs", f"kind IN ({listed})")


def upgrade() -> None:
    _set_kinds(*_KINDS, "duplicates")
    op.create_index(
        "ix_jobs_duplicates", "jobs", ["collection_id", "id"], postgresql_where=sa.text("kind = 'duplicates'")
    )
    op.add_column("items", sa.Column("perceptual_hash", sa.BigInteger()))
    for name, more in _INDEXES.items():
        op.execute(_READY.format(name=name, more=more))
    op.create_table(
        "duplicate_results",
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("through", sa.Uuid()),
        sa.Column("pictures", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        _to("collections", "duplicate_results", "collection_id"),
        sa.PrimaryKeyConstraint("collection_id", name=op.f("pk_duplicate_results")),
    )
    op.create_table(
        "duplicate_groups",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        _to("collections", "duplicate_groups", "collection_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_duplicate_groups")),
    )
    op.create_index("ix_duplicate_groups_collection_id_id", "duplicate_groups", ["collection_id", "id"])
    op.create_table(
        "duplicate_members",
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("distance", sa.SmallInteger(), nullable=False),
        sa.Column("similarity", sa.Float()),
        _to("items", "duplicate_members", "item_id"),
        _to("duplicate_groups", "duplicate_members", "group_id"),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_duplicate_members")),
    )
    op.create_index("ix_duplicate_members_group_id", "duplicate_members", ["group_id", "item_id"])
    op.create_table(
        "similar_pairs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("first", sa.Uuid(), nullable=False),
        sa.Column("second", sa.Uuid(), nullable=False),
        sa.Column("similarity", sa.Float(), nullable=False),
        _to("jobs", "similar_pairs", "job_id"),
        sa.PrimaryKeyConstraint("job_id", "first", "second", name=op.f("pk_similar_pairs")),
    )
    op.create_table(
        "dismissals",
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("dismissal_id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        _to("items", "dismissals", "item_id"),
        _to("collections", "dismissals", "collection_id"),
        sa.PrimaryKeyConstraint("item_id", "dismissal_id", name=op.f("pk_dismissals")),
    )
    op.create_index("ix_dismissals_collection_id", "dismissals", ["collection_id"])


def _to(target: str, table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE kind = 'duplicates'")
    for table in ("dismissals", "similar_pairs", "duplicate_members", "duplicate_groups", "duplicate_results"):
        op.drop_table(table)
    for name in _INDEXES:
        op.drop_index(f"ix_items_{name}", "items")
    op.drop_column("items", "perceptual_hash")
    op.drop_index("ix_jobs_duplicates", "jobs")
    _set_kinds(*_KINDS)
