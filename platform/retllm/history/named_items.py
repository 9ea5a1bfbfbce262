"""The items and files that failures are about, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import FileStatus, ItemState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.many import one_of
from retllm.db.state_words import PROBLEMS
from retllm.db.tables import Item
from retllm.db.uploads import Upload, UploadFile

MAX_NAMED = 3
"""Maximum number of items that one unit, or one job, names."""


class NamedItem(BaseModel):
    """An item, or a file of an upload, that a failure is about."""

    name: str
    item_id: UUID | None = Field(description="null if it was deleted, and for a file that became no item")
    status: FileStatus | None = Field(default=None, description="what became of a file of an upload; null for an item")


def name_items(session: Session, units: Iterable[tuple[UUID, Stage, Mapping[str, Any]]]) -> dict[UUID, list[NamedItem]]:
    """Return the first items of each unit, at most ``MAX_NAMED``, with at most three queries.

    Units of searches of several collections name none: who sees such a search may not see all its items.

    Args:
        units: the key, the stage and the payload of each.
    """
    known = list(units)
    hidden = _of_several(session, [unit_id for unit_id, stage, _ in known if stage is Stage.FINE])
    keys = {
        unit_id: (stage is Stage.MEDIA, [] if unit_id in hidden else _first_keys(payload))
        for unit_id, stage, payload in known
    }
    items = _items(session, {key for of_files, some in keys.values() if not of_files for key in some})
    files = _files(session, {key for of_files, some in keys.values() if of_files for key in some})
    named = {True: files, False: items}
    return {
        unit_id: [named[of_files][key] for key in some if key in named[of_files]]
        for unit_id, (of_files, some) in keys.items()
    }


def _of_several(session: Session, unit_ids: Sequence[UUID]) -> set[UUID]:
    if not unit_ids:
        return set()
    of_several = sa.select(Unit.id).join(Job, Job.id == Unit.job_id).where(Job.collection_id.is_(None))
    return set(session.scalars(of_several.where(one_of(Unit.id, unit_ids))))


def _first_keys(payload: Mapping[str, Any]) -> list[UUID]:
    found = []
    for key in (payload.get("items") or ())[:MAX_NAMED]:
        # a damaged unit has no item, and its error is shown all the same
        with suppress(ValueError):
            found.append(UUID(str(key)))
    return found


def _items(session: Session, keys: set[UUID]) -> dict[UUID, NamedItem]:
    if not keys:
        return {}
    query = sa.select(Item.id, Item.name, Item.state).where(one_of(Item.id, keys))
    return {
        key: NamedItem(name=name, item_id=key if state is ItemState.READY else None)
        for key, name, state in session.execute(query)
    }


def _files(session: Session, keys: set[UUID]) -> dict[UUID, NamedItem]:
    if not keys:
        return {}
    query = sa.select(UploadFile.id, UploadFile.name, UploadFile.item_id, UploadFile.status).where(
        one_of(UploadFile.id, keys)
    )
    return {
        key: NamedItem(name=name, item_id=item, status=status) for key, name, item, status in session.execute(query)
    }


def dead_items(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[NamedItem]]:
    """Return the items of the first dead units of each job, at most ``MAX_NAMED``; a job without any is left out."""
    if not job_ids:
        return {}
    of_job = sa.select(Unit).where(Unit.job_id == Job.id, Unit.error.is_not(None), Unit.state == UnitState.DEAD)
    dead = aliased(Unit, of_job.correlate(Job).order_by(Unit.stage, Unit.seq).limit(MAX_NAMED).lateral())
    query = sa.select(dead.id, dead.job_id, dead.stage, dead.payload).select_from(Job).join(dead, sa.true())
    rows = session.execute(query.where(Job.id.in_(job_ids)).order_by(dead.stage, dead.seq)).all()
    named = name_items(session, ((row.id, row.stage, row.payload) for row in rows))
    found: dict[UUID, list[NamedItem]] = {}
    for row in rows:
        found.setdefault(row.job_id, []).extend(named[row.id])
    return {job_id: items[:MAX_NAMED] for job_id, items in found.items() if items}


def problem_files(session: Session, upload_ids: Sequence[UUID]) -> dict[UUID, list[NamedItem]]:
    """Return the first file or row of each upload that is not in the collection although somebody wanted it there."""
    if not upload_ids:
        return {}
    # each by an index, of which the status comes before the key
    first = [
        sa.select(UploadFile.id)
        .where(UploadFile.job_id == Upload.id, UploadFile.status == status)
        .order_by(UploadFile.id)
        .limit(1)
        .correlate(Upload)
        .scalar_subquery()
        for status in PROBLEMS
    ]
    file = aliased(UploadFile)
    query = (
        sa.select(Upload.id, file.name, file.item_id, file.status)
        .join(file, file.id == sa.func.coalesce(*first))
        .where(Upload.id.in_(upload_ids))
    )
    return {
        upload: [NamedItem(name=name, item_id=item, status=status)]
        for upload, name, item, status in session.execute(query)
    }
