"""Add the collections of a search of several, whose job names none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

# the units of a job are counted unless its collection is deleted
_IN_ONE = "JOIN collections c ON c.id = j.collection_id AND c.deleted_at IS NULL"
_IN_ANY = "LEFT JOIN collections c ON c.id = j.collection_id WHERE c.deleted_at IS NULL"
_COVERED = ("kind", "state", "collection_id", "created_at", "idle_seconds")


def _cover_ended_jobs(*columns: str) -> None:
    op.drop_index("ix_jobs_finished_at", "jobs")
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"], postgresql_include=list(columns))


def _count_units(before: str, after: str) -> None:
    for operation in ("insert", "delete", "update"):
        definition = f"pg_get_functiondef('count_units_{operation}'::regproc)"
        op.execute(f"DO $do$ BEGIN EXECUTE replace({definition}, '{before}', '{after}'); END $do$")


def upgrade() -> None:
    op.create_table(
        "search_collections",
        sa.Column("search_id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["jobs.id"], name=op.f("fk_search_collections_search_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_search_collections_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "collection_id", name=op.f("pk_search_collections")),
    )
    op.create_index("ix_search_collections_collection_id", "search_collections", ["collection_id"])
    op.add_column("searches", sa.Column("collections", sa.Integer()))
    op.alter_column("jobs", "collection_id", nullable=True)
    _count_units(_IN_ONE, _IN_ANY)
    _cover_ended_jobs("id", *_COVERED)


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE collection_id IS NULL")
    op.alter_column("jobs", "collection_id", nullable=False)
    _count_units(_IN_ANY, _IN_ONE)
    _cover_ended_jobs(*_COVERED)
    op.drop_column("searches", "collections")
    op.drop_table("search_collections")
