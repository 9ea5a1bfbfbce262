"""Items whose files are not in an imported folder any more, or have another content there."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import FileStatus, ItemState, JobKind
from retllm.db.imports import ImportedFile, ImportedFolder
from retllm.db.jobs import Job
from retllm.db.tables import Item, Source
from retllm.db.uploads import UploadFile
from retllm.imports.scanning import Scan, is_gone

_BROUGHT = (FileStatus.ADDED, FileStatus.DUPLICATE)
_TAKEN = (*_BROUGHT, FileStatus.UPDATED, FileStatus.READ)


def missing_items(
    session: Session, collection_id: UUID, found: Scan, *, after: UUID | None = None, limit: int
) -> Sequence[UUID]:
    """Return items of files that are gone, and of earlier contents of files whose present one was taken.

    An item stays if another file brought it too, uploaded or imported: one with its content, or with that of the whole
    file of which it is a part.

    Args:
        after: only items after the one with this key.
    """
    files = sa.select(_missing_files(found).c.id)
    texts = sa.select(UploadFile.item_id).where(UploadFile.id.in_(files), UploadFile.status == FileStatus.ADDED)
    other, whole = aliased(UploadFile), aliased(UploadFile)
    jobs = sa.select(Job.id).where(Job.collection_id == collection_id, Job.kind == JobKind.UPLOAD)
    brought = sa.select(other.id).where(other.item_id == Item.id, other.status.in_(_BROUGHT))
    read = sa.select(whole.id).where(whole.sha256 == Source.content_sha256, whole.status == FileStatus.READ)
    query = (
        sa.select(Item.id)
        .outerjoin(Source, Source.id == Item.source_id)
        .where(Item.collection_id == collection_id, Item.state == ItemState.READY)
        # a picture has the key of its file, a text one of its own
        .where(sa.or_(Item.id.in_(files), Item.source_id.in_(files), Item.id.in_(texts)))
        .where(
            ~brought.where(other.job_id.in_(jobs), other.id.not_in(files)).exists(),
            ~read.where(whole.job_id.in_(jobs), whole.id.not_in(files)).exists(),
            *(
                ~_imported(collection_id, found, sha256).exists()
                for sha256 in (Item.content_sha256, Source.content_sha256)
            ),
        )
    )
    if after is not None:
        query = query.where(Item.id > after)
    return session.scalars(query.order_by(Item.id).limit(limit)).all()


def _missing_files(found: Scan) -> sa.CTE:
    """Return the received files that are gone or were replaced, with the entries of archives and rows of sheets."""
    earlier = sa.func.unnest(ImportedFile.earlier)
    gone = is_gone(found.folder_id, found.run)
    roots = sa.union(
        sa.select(ImportedFile.file_id.label("id")).where(*gone, ImportedFile.file_id.is_not(None)),
        sa.select(earlier.label("id")).where(*gone),
        sa.select(earlier.label("id")).where(*_is_replaced(found)),
    ).cte("missing")
    files = sa.select(roots.c.id).cte("missing_files", recursive=True)
    inner = aliased(UploadFile)
    return files.union(sa.select(inner.id).join(files, inner.parent_id == files.c.id))


def _is_replaced(found: Scan) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for files that are there and whose present content was taken."""
    taken = sa.select(UploadFile.id).where(UploadFile.id == ImportedFile.file_id, UploadFile.status.in_(_TAKEN))
    here = (ImportedFile.folder_id == found.folder_id, ImportedFile.run == found.run)
    return *here, ~ImportedFile.pending, taken.exists()


def _imported(collection_id: UUID, found: Scan, sha256: sa.SQLColumnExpression[str]) -> sa.Select[bytes]:
    """Return the query of imported files with this content, also in other folders, that are not known to be gone."""
    return (
        sa.select(ImportedFile.path)
        .join(ImportedFolder, ImportedFolder.id == ImportedFile.folder_id)
        .where(ImportedFolder.collection_id == collection_id, ImportedFile.sha256 == sha256)
        .where(~sa.and_(*is_gone(found.folder_id, found.run)))
    )


def forget_missing(session: Session, found: Scan) -> None:
    """Let files that are gone count as new if they come back, once their items are deleted.

    What was received of them stays known: its items may have stayed because of other files, which may go too.
    """
    gone = sa.update(ImportedFile).where(*is_gone(found.folder_id, found.run), ImportedFile.file_id.is_not(None))
    received = sa.func.array_append(ImportedFile.earlier, ImportedFile.file_id)
    session.execute(
        gone.values(earlier=received, file_id=None, sha256=None, pending=True).execution_options(
            synchronize_session=False
        )
    )
