"""Index the files that were not sent, so that an upload that ends finds those that it brought."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_upload_files_not_sent", "upload_files", ["job_id"], postgresql_where=sa.text("status = 'not_sent'")
    )


def downgrade() -> None:
    op.drop_index("ix_upload_files_not_sent", "upload_files")
