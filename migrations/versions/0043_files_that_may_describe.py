"""Index the waiting files of uploads that may have captions for others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

_PICTURED = (
    r"\.(3fr|apng|arw|avif|bmp|cr2|cr3|crw|dib|dng|erf|fff|gif|heic|heif|hif|iiq|jfif|jpe|jpeg|jpg|jxl|kdc|mef|mos|mpo|mrw|nef|nrw"
    r"|orf|pef|png|psb|psd|raf|raw|rw2|rwl|sr2|srf|srw|tif|tiff|webp|x3f|pdf|mp4|m4v|mov|mkv|webm|avi|mpg|mpeg|wmv|flv|3gp|mts|m2ts"
    r"|ogv)$"
)
_MAY_DESCRIBE = (
    f"status = 'waiting' AND (content NOT IN ('picture', 'pdf', 'film') OR content IS NULL AND name !~* '{_PICTURED}')"
)


def upgrade() -> None:
    op.create_index("ix_upload_files_may_describe", "upload_files", ["job_id"], postgresql_where=sa.text(_MAY_DESCRIBE))


def downgrade() -> None:
    op.drop_index("ix_upload_files_may_describe", "upload_files")
