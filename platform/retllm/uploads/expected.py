"""Names of files that uploads were told of and that have not come."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from retllm.db.enums import FileStatus, JobKind
from retllm.db.jobs import Job
from retllm.db.uploads import ExpectedFiles, UploadFile
from retllm.errors import Incomplete, NotSent, Unsendable

NOTES = (NotSent.code, Unsendable.code)
"""The error codes of files that are only noted: their bytes never came."""


def has_come() -> sa.ColumnElement[bool]:
    """Return the condition that a file came with its upload, whole, and is not only noted in it."""
    return sa.and_(
        UploadFile.parent_id.is_(None),
        sa.func.coalesce(UploadFile.error_code, "").not_in([Incomplete.code, *NOTES]),
    )


def came_later(job: Job) -> sa.Select[str]:
    """Return the query of the names of files that came with later uploads to the collection of an upload."""
    later = sa.select(Job.id).where(Job.collection_id == job.collection_id, Job.kind == JobKind.UPLOAD, Job.id > job.id)
    return sa.select(UploadFile.name).where(
        UploadFile.job_id.in_(later), has_come(), UploadFile.status != FileStatus.UNPROCESSED
    )


def still_expected(job_ids: Any) -> sa.Select[str]:
    """Return the query of the expected names of these uploads in their order, each as often as it is missing.

    A file that came, or that its upload has a note of, is not missing.

    Args:
        job_ids: the keys of uploads, or a query of them.
    """
    names = sa.func.unnest(ExpectedFiles.names).table_valued("name", with_ordinality="place")
    one = names.render_derived(name="one")
    job_id, place = ExpectedFiles.job_id, (ExpectedFiles.first, one.c.place)
    nth = sa.func.row_number().over(partition_by=(job_id, one.c.name), order_by=place).label("nth")
    expected = (
        sa.select(job_id, one.c.name, *place, nth)
        .select_from(ExpectedFiles)
        .join(one, sa.true())
        .where(job_id.in_(job_ids))
        .subquery()
    )
    come = (
        sa.select(UploadFile.job_id, UploadFile.name, sa.func.count().label("count"))
        .where(UploadFile.job_id.in_(job_ids), UploadFile.parent_id.is_(None))
        .group_by(UploadFile.job_id, UploadFile.name)
        .subquery()
    )
    return (
        sa.select(expected.c.name)
        .outerjoin(come, sa.and_(come.c.job_id == expected.c.job_id, come.c.name == expected.c.name))
        .where(expected.c.nth > sa.func.coalesce(come.c.count, 0))
        .order_by(expected.c.job_id, expected.c.first, expected.c.place)
    )
