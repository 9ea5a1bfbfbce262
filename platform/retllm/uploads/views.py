"""What became of the files of an upload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from retllm.db.counts import FileCount
from retllm.db.enums import OPEN_UNITS, FileStatus, ItemKind, Stage
from retllm.db.jobs import Unit
from retllm.db.state_words import PROBLEMS
from retllm.db.tables import Item, Source
from retllm.db.uploads import Upload, UploadFile
from retllm.history.file_counts import NO_FILES, OUTCOMES_COUNTED, PARTS_COUNTED, file_counts
from retllm.media.outcomes import FileError, FileOutcome, place
from retllm.uploads.kept import to_try_again
from retllm.uploads.retry import is_refused

OUTCOMES = tuple(status for status in FileStatus if status is not FileStatus.WAITING)
"""The statuses of files that have an outcome."""


class FileView(BaseModel):
    """A file of an upload, an entry of an archive or a row of a sheet, and what became of it."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    name: str
    within: str | None = Field(
        description="the archive, sheet or document that it is in; with its archive if that is an entry itself: "
        "`all.zip/captions.csv`"
    )
    status: FileStatus
    item_id: UUID | None
    item_name: str | None = Field(
        description="the name of that item, such as the one that a duplicate is the same as; that of the whole file if "
        "all its parts got this caption"
    )
    item_within: str | None = Field(description="the archive that this item came in, while its upload is kept")
    kind: ItemKind | None
    error: FileError | None = Field(description="why it was rejected or not sent")
    remark: str | None = Field(description="what else there is to know about it")
    count: int = Field(
        description="how many files or rows it stands for: clutter of one folder, or further rejected rows of a sheet"
    )

    @property
    def place(self) -> str | None:
        """What people have to know of its place, besides its name."""
        return place(self.name, self.within)


class UploadState(BaseModel):
    """How far an upload is."""

    model_config = ConfigDict(frozen=True)

    closed_at: datetime | None = Field(description="when it stopped to take files; null while it is open")
    processed: bool = Field(description="whether every file has its outcome")
    counts: Mapping[FileStatus, int] = Field(description=OUTCOMES_COUNTED)
    parts: Mapping[FileStatus, Mapping[str, int]] = Field(description=PARTS_COUNTED)


def upload_state(session: Session, job_id: UUID) -> UploadState | None:
    """Return how far an upload is; None if there is none with this key."""
    upload = session.get(Upload, job_id, populate_existing=True)
    if upload is None:
        return None
    # before the counts, which are then final: the page stops asking once everything is processed
    processed = bool(is_processed(session, job_id))
    files = file_counts(session, [job_id]).get(job_id, NO_FILES)
    return UploadState(closed_at=upload.closed_at, processed=processed, counts=files.counts, parts=files.parts)


def is_processed(session: Session, job_id: UUID) -> bool | None:
    """Return whether an upload is closed and every file has its outcome; None if there is none with this key."""
    return session.scalar(_processed(), {"job_id": job_id})


@cache
def _processed() -> sa.Select[bool]:
    job_id: sa.BindParameter[UUID] = sa.bindparam("job_id")
    unit = sa.select(Unit.id).where(Unit.job_id == job_id, Unit.stage == Stage.MEDIA, Unit.state.in_(OPEN_UNITS))
    return sa.select(sa.and_(Upload.closed_at.is_not(None), ~unit.exists())).where(Upload.id == job_id)


def outcomes_of(session: Session, job_id: UUID) -> list[FileOutcome]:
    """Return the outcomes of the files, entries and rows of an upload that have one."""
    return [outcome_of(file) for file in upload_files(session, job_id, statuses=OUTCOMES)]


def files_with_problems_first(
    session: Session,
    job_id: UUID,
    *,
    statuses: Sequence[FileStatus] = tuple(FileStatus),
    after: UUID | None = None,
    limit: int,
) -> list[FileView]:
    """Return files of an upload, first the rejected ones, then those not sent, otherwise like :func:`upload_files`.

    Args:
        after: the last file of the previous page; its status decides where the page begins.
    """
    groups = [[status] for status in PROBLEMS]
    groups.append([status for status in statuses if status not in PROBLEMS])
    last = session.get(UploadFile, after) if after is not None else None
    if last is not None:
        groups = groups[next(n for n, group in enumerate(groups) if last.status in group or group is groups[-1]) :]
    found: list[FileView] = []
    for group in groups:
        if len(found) == limit:
            break
        here = after if group is groups[0] else None
        found += upload_files(session, job_id, statuses=group, after=here, limit=limit - len(found))
    return found


def has_kept_rejected(session: Session, job_id: UUID) -> bool:
    """Return whether rejected files and rows of an upload can be tried again, because their bytes are kept.

    Those that a failure or a cancellation left are not counted: a retry of the job goes on with them.
    """
    problems = sa.select(sa.func.sum(FileCount.count)).where(FileCount.job_id == job_id, FileCount.status.in_(PROBLEMS))
    if not session.scalar(problems):
        return False
    # from what is kept on, of which there is little once it is old
    refused = to_try_again(job_id).where(is_refused()).order_by(None).limit(1)
    kept = sa.select(UploadFile.id).where(UploadFile.job_id == job_id, UploadFile.file_key.is_not(None))
    inside = UploadFile.parent_id == sa.any_(sa.func.array(kept.scalar_subquery()))
    found = (session.scalar(refused.where(each)) for each in (UploadFile.file_key.is_not(None), inside))
    return any(one is not None for one in found)


def upload_files(
    session: Session,
    job_id: UUID,
    *,
    statuses: Sequence[FileStatus] = (),
    after: UUID | None = None,
    limit: int | None = None,
) -> list[FileView]:
    """Return files of an upload in the order in which they came, entries and rows included.

    Args:
        statuses: only files with one of these; none means all.
        after: only files after the one with this key.
    """
    query = _files().where(UploadFile.job_id == job_id).order_by(UploadFile.id)
    if statuses:
        query = query.where(UploadFile.status.in_(statuses))
    if after is not None:
        query = query.where(UploadFile.id > after)
    return [_view(*row) for row in session.execute(query.limit(limit))]


def received_file(session: Session, key: UUID) -> tuple[UploadFile, str | None] | None:
    """Return a file of an upload, and its place besides its name, such as its archive.

    A picture, and a part of a file, has the key of its item. None if there is no such file, or its upload was deleted.
    """
    row = session.execute(_files().where(UploadFile.id == key)).first()
    return (row[0], place(row[0].name, row[1])) if row is not None else None


# its parts take longer to be put together than the database takes to answer
@cache
def _files() -> sa.Select[UploadFile, str, str, str]:
    parent, archive = sa.orm.aliased(UploadFile), sa.orm.aliased(UploadFile)
    # one row at a time by the key; for a join the planner may read all items
    # a caption of several items is that of the file whose parts they are, if they are parts
    whole = sa.and_(Source.id == Item.source_id, UploadFile.further_item_ids.is_not(None))
    named = sa.select(sa.func.coalesce(Source.name, Item.name)).select_from(Item).outerjoin(Source, whole)
    item_name = named.where(Item.id == UploadFile.item_id).correlate(UploadFile).scalar_subquery()
    came, pack = sa.orm.aliased(UploadFile), sa.orm.aliased(UploadFile)
    item_pack = sa.select(pack.name).join(came, came.parent_id == pack.id)
    item_within = item_pack.where(came.id == UploadFile.item_id, came.entry.is_not(None)).scalar_subquery()
    return (
        sa.select(UploadFile, sa.func.coalesce(archive.name + "/", "") + parent.name, item_name, item_within)
        .outerjoin(parent, parent.id == UploadFile.parent_id)
        .outerjoin(archive, archive.id == parent.parent_id)
    )


def outcome_of(file: FileView) -> FileOutcome:
    """Return the outcome of a file that has been processed."""
    return FileOutcome.model_validate(
        {
            "name": file.name,
            "status": file.status,
            "item_id": file.item_id,
            "item_name": file.item_name,
            "kind": file.kind,
            "error": file.error,
            "remark": file.remark,
            "count": file.count,
        }
    )


def _view(file: UploadFile, within: str | None, item_name: str | None, item_within: str | None) -> FileView:
    error = FileError(code=file.error_code or "", message=file.error) if file.error is not None else None
    return FileView(
        id=file.id,
        name=file.name,
        within=within,
        status=file.status,
        item_id=file.item_id,
        item_name=item_name,
        item_within=item_within,
        kind=file.kind,
        error=error,
        remark=file.remark,
        count=file.count,
    )
