"""Add what is known of folders that are imported where they lie, and of their files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "imported_folders",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("run", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_imported_folders_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imported_folders")),
        sa.UniqueConstraint("collection_id", "path", name=op.f("uq_imported_folders_collection_id_path")),
    )
    op.create_table(
        "imported_files",
        sa.Column("folder_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("changed_ns", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("pending", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("remark", sa.Text()),
        sa.Column("sha256", sa.Text()),
        sa.Column("file_id", sa.Uuid()),
        sa.Column("earlier", ARRAY(sa.Uuid()), server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint(
            "pending OR coalesce(file_id::text, error, remark) IS NOT NULL", name=op.f("ck_imported_files_known")
        ),
        sa.ForeignKeyConstraint(
            ["folder_id"], ["imported_folders.id"], name=op.f("fk_imported_files_folder_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("folder_id", "path", name=op.f("pk_imported_files")),
    )
    op.create_index(
        "ix_imported_files_pending", "imported_files", ["folder_id", "path"], postgresql_where=sa.text("pending")
    )


def downgrade() -> None:
    op.drop_table("imported_files")
    op.drop_table("imported_folders")
