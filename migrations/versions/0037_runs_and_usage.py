"""Keep the evaluation run of each search that is a part of one, and what workers use of their hosts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

_SINGLE = {
    "ix_jobs_single": [],
    "ix_jobs_single_of_user": ["user_id"],
    "ix_jobs_single_of_collection": ["collection_id"],
}
_OF_EARLIER_RUNS = """
    UPDATE jobs SET run_id = known.run_id
    FROM (
        SELECT r.id AS run_id, (s.value->>'search')::uuid AS job_id
        FROM evaluation_runs r, jsonb_array_elements(r.report->'searches') s
        WHERE r.source = 'reviewed' AND jsonb_typeof(r.report->'searches') = 'array'
    ) known
    WHERE jobs.id = known.job_id
"""


def upgrade() -> None:
    op.add_column("jobs", sa.Column("run_id", sa.Uuid()))
    op.create_foreign_key(op.f("fk_jobs_run_id"), "jobs", "evaluation_runs", ["run_id"], ["id"], ondelete="SET NULL")
    op.execute(_OF_EARLIER_RUNS)
    op.create_index(
        "ix_jobs_run_id_state_id", "jobs", ["run_id", "state", "id"], postgresql_where=sa.text("run_id IS NOT NULL")
    )
    for name, columns in _SINGLE.items():
        op.create_index(name, "jobs", [*columns, "id"], postgresql_where=sa.text("run_id IS NULL"))
    op.create_index("ix_evaluation_runs_user_id_id", "evaluation_runs", ["user_id", "id"])
    op.add_column("workers", sa.Column("usage", JSONB()))


def downgrade() -> None:
    op.drop_column("workers", "usage")
    op.drop_index("ix_evaluation_runs_user_id_id", "evaluation_runs")
    for name in (*_SINGLE, "ix_jobs_run_id_state_id"):
        op.drop_index(name, "jobs")
    op.drop_column("jobs", "run_id")
