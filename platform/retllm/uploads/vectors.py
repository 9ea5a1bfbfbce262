"""Units for the vectors of what an upload brings: some while its files still come, the others when all are in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.tables import Item
from retllm.db.uploads import MAY_DESCRIBE, UploadFile, items_named
from retllm.indexing.indexed import has_content
from retllm.indexing.submit import in_no_unit, items_in_units, to_embed
from retllm.queue import lifecycle
from retllm.queue.routing import Notification
from retllm.settings import Settings

CAPTIONS = "captions"
"""The pass of the unit that reads the sheets and texts of an upload; a further one has a number behind it."""
AGAIN = "again"
"""The pass of units for items that got a caption after they were embedded."""


def embed_early(session: Session, job: Job, files: Collection[UUID], settings: Settings) -> list[Notification]:
    """Add units for the new items of these files of an upload, unless a file that waits may have captions for them.

    The job is locked. Returns the units to notify workers of.
    """
    if not job.params["index"] or may_get_captions(session, job.id):
        return []
    added = sa.select(UploadFile.item_id).where(
        sa.or_(UploadFile.id.in_(files), UploadFile.parent_id.in_(files)), UploadFile.status == FileStatus.ADDED
    )
    there = sa.select(Item.id).where(Item.id.in_(added), has_content())
    return lifecycle.append_units(session, job, Stage.EMBED, to_embed(session, there, job.params, settings))


def may_get_captions(session: Session, job_id: UUID) -> bool:
    """Return whether a file of an upload waits that may have captions for others."""
    describing = sa.select(UploadFile.id).where(UploadFile.job_id == job_id, sa.text(MAY_DESCRIBE))
    return session.scalar(describing.limit(1)) is not None


def embed_rest(session: Session, job: Job, settings: Settings) -> Sequence[dict[str, Any]]:
    """Return the payloads of units for the items of a processed upload that lack a vector.

    Items that got a caption after they were embedded are embedded once more for each pass of captions; not those whose
    unit is dead, which wait for a retry.
    """
    arrived = sa.select(items_named()).where(UploadFile.job_id == job.id, UploadFile.item_id.is_not(None))
    there = sa.select(Item.id).where(Item.id.in_(arrived), has_content())
    payloads = to_embed(session, there.where(in_no_unit(job.id)), job.params, settings)
    label = Unit.payload["pass"].astext
    counted = sa.select(
        sa.func.count(sa.distinct(label)).filter(Unit.stage == Stage.EMBED, label.startswith(AGAIN)),
        sa.func.count().filter(Unit.stage == Stage.MEDIA, label.startswith(CAPTIONS), Unit.state == UnitState.DONE),
    )
    passes, captioned = session.execute(counted.where(Unit.job_id == job.id)).one()
    if passes < captioned:
        done = there.where(Item.id.in_(items_in_units(job.id)), in_no_unit(job.id, Unit.state == UnitState.DEAD))
        name = f"{AGAIN}-{passes + 1}" if passes else AGAIN
        payloads += [{**payload, "pass": name} for payload in to_embed(session, done, job.params, settings)]
    return payloads
