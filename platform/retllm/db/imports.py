"""Tables of folders and prefixes of buckets that are imported where they lie, and of what is known of their files."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base, Keyed
from retllm.db.deletion import InCollection


class ImportedFolder(Keyed, InCollection, Base):
    """A folder or prefix of a bucket that is imported into a collection.

    ``path`` is the folder's, or the address of the prefix; ``run`` is the number of the last time that it was listed.
    """

    __tablename__ = "imported_folders"
    __table_args__ = (sa.UniqueConstraint("collection_id", "path"),)

    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    path: Mapped[bytes]
    run: Mapped[int] = mapped_column(server_default=sa.text("0"))


class ImportedFile(Base):
    """A file of an imported folder, and what was seen of it the last time.

    Attributes:
        path: from the folder on, with the bytes that the file system has.
        name: what an upload of the folder would call it.
        size_bytes, changed_ns: its size and the time of its last change, in nanoseconds since 1970.
        etag: the version of an object in a bucket.
        run: the last run of the folder that saw it, or could not tell whether it is there.
        pending: whether the next job has to take it, or to tell its ``error`` or ``remark``.
        error, remark: why it can't be read; why it is left out.
        sha256, file_id: of what an upload received of it last: the content, and the key of its row in
            ``upload_files``, which may be deleted meanwhile.
        earlier: such keys of earlier contents, and of a file that was gone when its items were deleted.
    """

    __tablename__ = "imported_files"
    __table_args__ = (
        sa.CheckConstraint("pending OR coalesce(file_id::text, error, remark) IS NOT NULL", name="known"),
        sa.Index("ix_imported_files_pending", "folder_id", "path", postgresql_where=sa.text("pending")),
    )

    folder_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("imported_folders.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[bytes] = mapped_column(primary_key=True)
    name: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    changed_ns: Mapped[int] = mapped_column(sa.BigInteger)
    etag: Mapped[str | None]
    run: Mapped[int]
    pending: Mapped[bool]
    error: Mapped[str | None]
    remark: Mapped[str | None]
    sha256: Mapped[str | None]
    file_id: Mapped[uuid.UUID | None]
    earlier: Mapped[list[uuid.UUID]] = mapped_column(default=list, server_default=sa.text("'{}'"))
