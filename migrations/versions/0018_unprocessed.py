"""Add the outcome of files whose upload was cancelled before they were processed; they were rejected ones before."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_BEFORE = ("waiting", "added", "duplicate", "updated", "read", "ignored", "rejected", "not_sent")
_TABLE = "upload_files"


def _allow(statuses: tuple[str, ...]) -> None:
    op.create_check_constraint(op.f(f"ck_{_TABLE}_filestatus"), _TABLE, f"status IN {statuses!r}")


def _allow_all() -> None:
    op.drop_constraint(op.f(f"ck_{_TABLE}_filestatus"), _TABLE, type_="check")


def upgrade() -> None:
    _allow_all()
    _allow((*_BEFORE, "unprocessed"))
    op.execute(
        "UPDATE upload_files SET status = 'unprocessed', error_code = 'job_cancelled' "
        "WHERE status = 'rejected' AND error_code = 'cancelled'"
    )


def downgrade() -> None:
    _allow_all()
    op.execute("UPDATE upload_files SET status = 'rejected', error_code = 'cancelled' WHERE status = 'unprocessed'")
    _allow(_BEFORE)
