"""Tables of upload jobs and their files."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base, Keyed
from retllm.db.enums import FileStatus, ItemKind
from retllm.db.jobs import Job

UNPACKED = ".unpacked"
"""The end of the key of an archive that is kept in another form than it came in, which is read with less work."""


class Upload(Base):
    """What an upload job has besides the job; its key is that of the job.

    ``closed_at`` is null while further files may come; ``active_at`` is when the last one came; ``expected`` is how
    many its client announced when it opened it.
    """

    __tablename__ = "uploads"
    __table_args__ = (sa.Index("ix_uploads_open", "active_at", postgresql_where=sa.text("closed_at IS NULL")),)

    id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    active_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    closed_at: Mapped[datetime | None]
    expected: Mapped[int] = mapped_column(server_default=sa.text("0"))


class ExpectedFiles(Base):
    """Names of files that the client of an open upload is going to send, up to some hundreds in one row.

    ``first`` is the place of the first of them among all that the upload expects, so that a repeated request adds none.
    """

    __tablename__ = "expected_files"

    job_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    first: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    names: Mapped[list[str]]


PICTURED = (
    r"\.(3fr|apng|arw|avif|bmp|cr2|cr3|crw|dib|dng|erf|fff|gif|heic|heif|hif|iiq|jfif|jpe|jpeg|jpg|jxl|kdc|mef|mos|mpo"
    r"|mrw|nef|nrw|orf|pef|png|psb|psd|raf|raw|rw2|rwl|sr2|srf|srw|tif|tiff|webp|x3f|pdf|mp4|m4v|mov|mkv|webm|avi|mpg|mpeg"
    r"|wmv|flv|3gp|mts|m2ts|ogv)$"
)
"""What the names of pictures, documents and films end with; an index has it, so a migration has to follow a change."""
# the kind of an entry of an archive is not known before its unit; its name tells what it may be
MAY_DESCRIBE = (
    f"status = 'waiting' AND (content NOT IN ('picture', 'pdf', 'film') OR content IS NULL AND name !~* '{PICTURED}')"
)
"""The condition, in SQL, for files of an upload that wait and may have captions for others."""


class UploadFile(Keyed, Base):
    """A file of an upload, an entry of an archive, or a row of a sheet; ``parent_id`` is the archive or sheet.

    A picture's item gets the file's key, so that an attempt that is made again makes the same item.

    Attributes:
        entry: the place of an entry among all files of its archive, of whatever kind.
        raw_end: the last part of its name as it came, in ASCII with escapes, if the clean name has another
            (``media.names``); not of a name with a code.
        content: the kind of file by its content, a member of ``media.sniffing.FileKind``; null for a row, and until an
            entry is unpacked.
        file_key: the storage key of the received bytes, or of an archive in another form (``UNPACKED``), while kept.
        item_id: the item that it became or gave a caption.
        further_item_ids: the other items to which it gave this caption, such as the pages of a whole file; else null.
        error_code, error, remark: why it was rejected; what else there is to know about it.
        count: how many files or rows it stands for: clutter of one folder, further refused rows of a sheet.
    """

    __tablename__ = "upload_files"
    __table_args__ = (
        sa.Index("ix_upload_files_job_id_id", "job_id", "id"),
        sa.Index("ix_upload_files_job_id_status_id", "job_id", "status", "id"),
        sa.Index("ix_upload_files_parent_id", "parent_id", postgresql_where=sa.text("parent_id IS NOT NULL")),
        sa.Index("ix_upload_files_kept", "job_id", postgresql_where=sa.text("file_key IS NOT NULL")),
        # few files as well; each unit of an upload asks whether there is one
        sa.Index("ix_upload_files_may_describe", "job_id", postgresql_where=sa.text(MAY_DESCRIBE)),
        # few files of all uploads; each upload that ends looks for those that it brought
        sa.Index("ix_upload_files_not_sent", "job_id", postgresql_where=sa.text("status = 'not_sent'")),
    )

    job_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("uploads.id", ondelete="CASCADE"))
    parent_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("upload_files.id", ondelete="CASCADE"))
    entry: Mapped[int | None]
    name: Mapped[str]
    raw_end: Mapped[str | None]
    content: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    sha256: Mapped[str | None]
    file_key: Mapped[str | None]
    status: Mapped[FileStatus] = mapped_column(default=FileStatus.WAITING)
    item_id: Mapped[uuid.UUID | None]
    further_item_ids: Mapped[list[uuid.UUID] | None]
    kind: Mapped[ItemKind | None]
    error_code: Mapped[str | None]
    error: Mapped[str | None]
    remark: Mapped[str | None]
    count: Mapped[int] = mapped_column(server_default=sa.text("1"))


def items_named() -> sa.ColumnElement[uuid.UUID]:
    """Return a column with all items of each file that is selected, one in a row."""
    return sa.func.unnest(sa.func.array_prepend(UploadFile.item_id, UploadFile.further_item_ids))


class LargeFile(Keyed, Base):
    """A file of an upload that comes in parts.

    It outlives its upload for a while, so that a later upload of the same file to the same collection goes on with it.

    Attributes:
        job_id: the upload that it belongs to; null when that was deleted.
        raw_end: the last part of its name as it came, as of an uploaded file.
        size_bytes, sha256: of the whole file, as its sender says; the hash is null if they did not say.
        fingerprint: the SHA-256 of the SHA-256 of its slices, as its sender says; null if they did not say.
        file_id: the file of the upload that it became; null until all parts are there.
        active_at: when the last part came.
    """

    __tablename__ = "large_files"
    __table_args__ = (
        sa.Index("ix_large_files_job_id", "job_id"),
        sa.Index("ix_large_files_active_at", "active_at"),
    )

    job_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("uploads.id", ondelete="SET NULL"))
    collection_id: Mapped[uuid.UUID]
    name: Mapped[str]
    raw_end: Mapped[str | None]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str | None]
    fingerprint: Mapped[str | None]
    file_id: Mapped[uuid.UUID | None]
    active_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class FilePart(Keyed, Base):
    """A part of a large file, stored under a key of its own; ``start`` is its offset in the file."""

    __tablename__ = "file_parts"
    __table_args__ = (sa.UniqueConstraint("large_file_id", "start"),)

    large_file_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("large_files.id", ondelete="CASCADE"))
    start: Mapped[int] = mapped_column(sa.BigInteger)
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    file_key: Mapped[str]
