"""What of an upload is still to send: files that were not sent with it, nor came with a later one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus
from retllm.db.tables import Job
from retllm.db.uploads import UploadFile
from retllm.errors import PictureNotSent
from retllm.uploads.expected import came_later


@dataclass(frozen=True)
class Rest:
    """How many files are ``left`` to send, and how many ``came`` with later uploads to the collection."""

    left: int
    came: int


def rest_of(session: Session, job: Job, counts: Mapping[FileStatus, int]) -> Rest:
    """Return what became of the files that were not sent with an upload; a later one has them under their name.

    Args:
        counts: how often the upload has which outcome.
    """
    if not counts.get(FileStatus.NOT_SENT):
        return Rest(left=0, came=0)
    missing = sa.alias(UploadFile.__table__, "missing")
    not_sent = (missing.c.job_id == job.id, missing.c.status == FileStatus.NOT_SENT, missing.c.parent_id.is_(None))
    # a sidecar whose picture did not come is here itself
    never_came = missing.c.error_code != PictureNotSent.code
    has_come = missing.c.name.in_(came_later(job)).label("has_come")
    query = sa.select(has_come, sa.func.sum(missing.c.count)).where(*not_sent, never_came).group_by(has_come)
    found: dict[bool, int] = {row[0]: row[1] for row in session.execute(query)}
    return Rest(left=found.get(False, 0), came=found.get(True, 0))
