"""Add how long a job lay between an end and its retry, which is not part of how long it took."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_COVERED = ("kind", "state", "collection_id", "created_at")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("idle_seconds", sa.Float(), server_default=sa.text("0"), nullable=False))
    _cover(*_COVERED, "idle_seconds")


def downgrade() -> None:
    _cover(*_COVERED)
    op.drop_column("jobs", "idle_seconds")


def _cover(*columns: str) -> None:
    """Make the index of ended jobs again, with these columns for the statistics."""
    op.drop_index("ix_jobs_finished_at", table_name="jobs")
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"], postgresql_include=list(columns))
