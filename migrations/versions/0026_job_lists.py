"""Let the jobs of a person or a collection be counted in each state without reading the others."""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_user_id_state_id", "jobs", ["user_id", "state", "id"])
    op.create_index("ix_jobs_collection_id_state_id", "jobs", ["collection_id", "state", "id"])
    op.drop_index("ix_jobs_collection_id_state", "jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_collection_id_state", "jobs", ["collection_id", "state"])
    op.drop_index("ix_jobs_collection_id_state_id", "jobs")
    op.drop_index("ix_jobs_user_id_state_id", "jobs")
