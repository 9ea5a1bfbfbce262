"""Add what the client of an upload is going to send, so that what never comes can be listed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("uploads", sa.Column("expected", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "expected_files",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("first", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("names", ARRAY(sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["uploads.id"], name=op.f("fk_expected_files_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "first", name=op.f("pk_expected_files")),
    )


def downgrade() -> None:
    op.drop_table("expected_files")
    op.drop_column("uploads", "expected")
