"""Files of a collection, found by the stems of their names: whole files, pictures, and those that were rejected."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import FileStatus, ItemState
from retllm.db.jobs import Job
from retllm.db.tables import Item, Source
from retllm.db.uploads import UploadFile
from retllm.media.records import PICTURES
from retllm.media.sniffing import FileKind

# made once: an alias copies all columns
_PARENT, _OUTERMOST = aliased(UploadFile), aliased(UploadFile)


def wholes_with_stems(
    session: Session, collection_id: uuid.UUID, stems: Iterable[str]
) -> list[tuple[str, str, str | None, tuple[uuid.UUID, ...]]]:
    """Return the files of several pictures whose last part is one of ``stems``, with or without its suffix.

    Names in lower case are compared too. A file also has the names under which it was uploaded again.

    Returns:
        The name of each, that of the archive that it came in, empty if none is known, the end of the raw name, and the
        items of its parts in their order.
    """
    inside = Source.collection_id == collection_id
    again = (
        sa.select(Source.id, UploadFile.name, UploadFile.id)
        .join(Job, Job.id == UploadFile.job_id)
        .join(Source, sa.and_(Source.content_sha256 == UploadFile.sha256, Source.collection_id == Job.collection_id))
        .where(inside, UploadFile.status == FileStatus.READ, UploadFile.name != Source.name)
    )
    # a whole file has the key of the uploaded one
    own = sa.select(Source.id, Source.name, Source.id.label("file_id")).where(inside)
    named = own.union_all(again).subquery()
    base = sa.func.substring(named.c.name, "[^/]*$")
    stem = sa.func.substring(base, "^(.*)[.][^.]*$")
    place = sa.func.coalesce(Item.part["page"].as_float(), Item.part["seconds"].as_float())
    query = (
        sa.select(
            named.c.name,
            sa.func.coalesce(_PARENT.name, ""),
            UploadFile.raw_end,
            sa.func.array_agg(aggregate_order_by(Item.id, place)),
        )
        .join(Item, Item.source_id == named.c.id)
        .outerjoin(UploadFile, UploadFile.id == named.c.file_id)
        .outerjoin(_PARENT, _PARENT.id == UploadFile.parent_id)
        .where(Item.state == ItemState.READY)
        .where(_in_any_case((base, stem), stems))
        .group_by(named.c.id, named.c.name, named.c.file_id, _PARENT.name, UploadFile.raw_end)
        .order_by(named.c.id, named.c.file_id)
    )
    return [(name, outer, end, tuple(ids)) for name, outer, end, ids in session.execute(query)]


def pictures_with_stems(
    session: Session, collection_id: uuid.UUID, stems: Iterable[str], keys: Iterable[str] = ()
) -> list[tuple[str, uuid.UUID, str, str | None]]:
    """Return the ready pictures whose last part is one of ``stems``, with or without its suffix.

    Names in lower case are compared too. Those are found too whose last part up to its first dot is one of ``keys``. A
    picture also has the names under which it was uploaded again, if no other has these.

    Returns:
        A name of each, its key, the name of the archive that it came in, empty if none is known, and the end of the raw
        name (:attr:`retllm.db.uploads.UploadFile.raw_end`).
    """
    ready = (Item.collection_id == collection_id, Item.state == ItemState.READY, Item.kind.in_(PICTURES))
    duplicates = (
        sa.select(UploadFile.name, Item.id, UploadFile.id)
        .join(Job, Job.id == UploadFile.job_id)
        .join(Item, Item.id == UploadFile.item_id)
        .where(Job.collection_id == collection_id, *ready)
        .where(UploadFile.status == FileStatus.DUPLICATE, UploadFile.content == FileKind.PICTURE)
    )
    # an item has the key of its file
    named = sa.select(Item.name, Item.id, Item.id.label("file_id")).where(*ready).union_all(duplicates).subquery()
    # each name is cut once
    pictures = sa.select(named, sa.func.substring(named.c.name, "[^/]*$").label("base")).offset(0).subquery()
    stem = sa.func.substring(pictures.c.base, "^(.*)[.][^.]*$")
    fitting = _in_any_case((pictures.c.base, stem), stems)
    if keys:
        fitting = sa.or_(fitting, sa.func.substring(pictures.c.base, "^.[^.]*").in_(_listed(keys)))
    archive = sa.func.coalesce(_OUTERMOST.name, sa.case((_PARENT.content == FileKind.ARCHIVE, _PARENT.name)), "")
    found = (
        sa.select(pictures.c.name, pictures.c.id, archive, UploadFile.raw_end, pictures.c.id == pictures.c.file_id)
        .distinct()
        .outerjoin(UploadFile, UploadFile.id == pictures.c.file_id)
        .outerjoin(_PARENT, _PARENT.id == UploadFile.parent_id)
        # of a page, whose parent is the whole file
        .outerjoin(_OUTERMOST, _OUTERMOST.id == _PARENT.parent_id)
        .where(fitting)
        .order_by(pictures.c.name, pictures.c.id)
    )
    rows = session.execute(found).all()
    own = {(name, outer) for name, _, outer, _, is_own in rows if is_own}
    return [(name, key, outer, end) for name, key, outer, end, is_own in rows if is_own or (name, outer) not in own]


def rejected_with_stems(
    session: Session, collection_id: uuid.UUID, stems: Iterable[str]
) -> list[tuple[str, str, str | None]]:
    """Return the rejected files whose last part is one of ``stems``, with or without its suffix, in lower case too.

    Returns:
        The name of each, that of the archive that it came in, empty if it came in none, and why it was rejected.
    """
    base = sa.func.substring(UploadFile.name, "[^/]*$")
    query = (
        sa.select(UploadFile.name, sa.func.coalesce(_PARENT.name, ""), UploadFile.error)
        .join(Job, Job.id == UploadFile.job_id)
        .outerjoin(_PARENT, _PARENT.id == UploadFile.parent_id)
        .where(Job.collection_id == collection_id, UploadFile.status == FileStatus.REJECTED)
        # neither a row of a sheet nor a part of a file
        .where(sa.or_(UploadFile.parent_id.is_(None), UploadFile.entry.is_not(None)))
        .where(_in_any_case((base, sa.func.substring(base, "^(.*)[.][^.]*$")), stems))
        .order_by(UploadFile.id)
    )
    return [(name, outer, error) for name, outer, error in session.execute(query)]


def _in_any_case(names: Iterable[sa.ColumnElement[str]], texts: Iterable[str]) -> sa.ColumnElement[bool]:
    """Return whether one of the names is among the texts, as it is or in lower case."""
    listed = _listed(texts)
    return sa.or_(*(part.in_(listed) for name in names for part in (name, sa.func.lower(name))))


def _listed(texts: Iterable[str]) -> sa.Select[str]:
    # many texts, sent once however often they are compared with
    listed = sa.select(sa.func.unnest(sa.cast(sorted(set(texts)), ARRAY(sa.Text))).label("text")).cte()
    return sa.select(listed.c.text)
