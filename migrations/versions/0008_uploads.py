"""Make uploads jobs: the tables of uploads and their files, and the stage and kind of job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KINDS = ("index", "search")
_STAGES = ("embed", "coarse", "fine")
_STATUSES = ("waiting", "added", "duplicate", "updated", "read", "ignored", "rejected")
_ITEM_KINDS = ("image", "text", "image+text")


def upgrade() -> None:
    _allow("jobs", "kind", "jobkind", ("upload", *_KINDS))
    _allow("units", "stage", "stage", ("media", *_STAGES))
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("active_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_uploads_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_open", "uploads", ["active_at"], postgresql_where=sa.text("closed_at IS NULL"))
    op.create_table(
        "upload_files",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("entry", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("file_key", sa.Text(), nullable=True),
        sa.Column("status", _enum("filestatus", _STATUSES), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=True),
        sa.Column("kind", _enum("itemkind", _ITEM_KINDS), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("remark", sa.Text(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["uploads.id"], name=op.f("fk_upload_files_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["upload_files.id"], name=op.f("fk_upload_files_parent_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_files")),
    )
    op.create_index("ix_upload_files_job_id_id", "upload_files", ["job_id", "id"])
    op.create_index("ix_upload_files_job_id_status_id", "upload_files", ["job_id", "status", "id"])
    op.create_index(
        "ix_upload_files_parent_id",
        "upload_files",
        ["parent_id"],
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_upload_files_kept", "upload_files", ["job_id"], postgresql_where=sa.text("file_key IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_table("upload_files")
    op.drop_table("uploads")
    # items and vectors of uploads stay
    op.execute("DELETE FROM jobs WHERE kind = 'upload'")
    _allow("units", "stage", "stage", _STAGES)
    _allow("jobs", "kind", "jobkind", _KINDS)


def _enum(name: str, values: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def _allow(table: str, column: str, constraint: str, values: tuple[str, ...]) -> None:
    """Replace the CHECK constraint of an enum."""
    op.drop_constraint(f"ck_{table}_{constraint}", table)
    listed = ", ".join(f"'{value}'" for value in values)
    op.create_check_constraint(op.f(f"ck_{table}_{constraint}"), table, f"{column} IN ({listed})")
