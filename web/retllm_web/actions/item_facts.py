"""Data about one item beyond its row: its vectors, the searches that found it, other parts of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.duplicates import DuplicateGroup, DuplicateMember, is_group
from retllm.db.enums import ItemKind
from retllm.db.searches import Candidate, Search
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item
from retllm.db.uploads import UploadFile
from retllm.indexing.indexed import embedder_of, is_ready, up_to_date
from retllm.media.sniffing import FileKind
from retllm.settings import Settings
from retllm.uploads.views import received_file

# searches on an item's page
_SEARCHES = 10


@dataclass(frozen=True)
class Vector:
    """An item's vector by one model; not ``fresh`` if it is of an older caption or other settings."""

    embedder: str
    revision: str
    made_at: datetime
    fresh: bool
    in_use: bool


@dataclass(frozen=True)
class Found:
    """A search with the item among its candidates; ranks count from 1."""

    id: UUID
    text: str | None
    has_picture: bool
    created_at: datetime
    coarse_rank: int
    final_rank: int | None


@dataclass(frozen=True)
class Received:
    """A file of an upload: its name, the archive or document that it came in, and the key of its upload."""

    name: str
    place: str | None
    is_archive: bool
    job_id: UUID


@dataclass(frozen=True)
class ItemFacts:
    """The data of an item's page; ``previous_part`` and ``next_part`` are other parts of its file.

    ``came`` is the file that the item was, for a text also the sheet or archive that has it; ``captioned_by`` is the
    one that a caption is from, or the archive that has it. None if that is not known, as when the upload was deleted.
    ``changes`` is how often a caption took the place of another one. ``group`` is that of its near-duplicates.
    """

    came: Received | None
    captioned_by: Received | None
    changes: int
    vectors: Sequence[Vector]
    searches: Sequence[Found]
    previous_part: UUID | None
    next_part: UUID | None
    group: DuplicateGroup | None


def facts_of(session: Session, item: Item, collection: Collection, settings: Settings) -> ItemFacts:
    """Return the facts of an item, with a fixed number of database queries."""
    previous_part, next_part = _parts_around(session, item)
    came = received_file(session, item.id) if item.picture_key else None
    # a picture that came without a caption has its first one from its second version on
    first = 1 if came and came[0].kind is ItemKind.BOTH else 2
    return ItemFacts(
        came=_received(came) if item.picture_key else _received(_file(session, item.caption_file_id)),
        captioned_by=_received(_file(session, item.caption_file_id)) if item.picture_key else None,
        changes=max(0, item.version - first),
        vectors=_vectors(session, item, embedder_of(collection, settings), settings.item_image_weight),
        searches=_searches(session, item.id),
        previous_part=previous_part,
        next_part=next_part,
        group=session.scalar(
            sa.select(DuplicateGroup).join(DuplicateMember).where(DuplicateMember.item_id == item.id, is_group())
        ),
    )


def _file(session: Session, key: UUID | None) -> tuple[UploadFile, str | None] | None:
    return received_file(session, key) if key is not None else None


def _received(found: tuple[UploadFile, str | None] | None) -> Received | None:
    if found is None:
        return None
    file, place = found
    return Received(file.name, place, file.content == FileKind.ARCHIVE, file.job_id)


def _parts_around(session: Session, item: Item) -> tuple[UUID | None, UUID | None]:
    """Return the parts before and after the item in its file."""
    if item.source_id is None:
        return None, None
    # not by key: a part that was deleted and added again has a later one
    place = sa.func.coalesce(Item.part["page"].as_float(), Item.part["seconds"].as_float())
    query = sa.select(Item.id).where(Item.source_id == item.source_id, is_ready()).order_by(place, Item.id)
    keys: list[UUID | None] = [None, *session.scalars(query), None]
    if item.id not in keys:  # deleted meanwhile
        return None, None
    at = keys.index(item.id)
    return keys[at - 1], keys[at + 1]


def _vectors(session: Session, item: Item, used: str, image_weight: float) -> list[Vector]:
    fresh = up_to_date(image_weight).label("fresh")
    rows = session.execute(
        sa.select(EmbeddingModel.id, EmbeddingModel.name, EmbeddingModel.revision, Embedding.created_at, fresh)
        .select_from(Embedding)
        .join(EmbeddingModel, EmbeddingModel.id == Embedding.model_id)
        .join(Item, Item.id == Embedding.item_id)
        .where(Embedding.item_id == item.id)
        .order_by(EmbeddingModel.id.desc())
    ).all()
    newest = next((row.id for row in rows if row.name == used), None)
    return [Vector(row.name, row.revision, row.created_at, row.fresh, row.id == newest) for row in rows]


def _searches(session: Session, item_id: UUID) -> list[Found]:
    rows = session.execute(
        sa.select(
            Search.id,
            Search.query_text,
            Search.query_picture_key.is_not(None).label("has_picture"),
            Search.created_at,
            Candidate.coarse_rank,
            Candidate.final_rank,
        )
        .join(Candidate, Candidate.search_id == Search.id)
        .where(Candidate.item_id == item_id)
        .order_by(Candidate.search_id.desc())
        .limit(_SEARCHES)
    )
    return [
        Found(row.id, row.query_text, row.has_picture, row.created_at, row.coarse_rank, row.final_rank) for row in rows
    ]
