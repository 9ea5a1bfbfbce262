"""Add the outcome of files that were announced and did not come, or not whole; they were rejected ones before."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_BEFORE = ("waiting", "added", "duplicate", "updated", "read", "ignored", "rejected")
_TABLE = "upload_files"


def _allow(statuses: tuple[str, ...]) -> None:
    op.create_check_constraint(op.f(f"ck_{_TABLE}_filestatus"), _TABLE, f"status IN {statuses!r}")


def _allow_all() -> None:
    op.drop_constraint(op.f(f"ck_{_TABLE}_filestatus"), _TABLE, type_="check")


def upgrade() -> None:
    _allow_all()
    _allow((*_BEFORE, "not_sent"))
    # what its sender could not read stays rejected; it has the same code
    op.execute(
        "UPDATE upload_files SET status = 'not_sent' WHERE status = 'rejected' "
        "AND (error_code = 'incomplete' OR (error_code = 'not_sent' AND starts_with(error, 'Not sent')))"
    )


def downgrade() -> None:
    _allow_all()
    op.execute("UPDATE upload_files SET status = 'rejected' WHERE status = 'not_sent'")
    _allow(_BEFORE)
