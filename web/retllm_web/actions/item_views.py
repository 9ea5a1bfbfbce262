"""The model of items in the API and the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, Positions
from retllm.db.tables import Collection, Item, Referenced, Source
from retllm.identity.access import Right, gets_originals, right_in
from retllm.media.came_in import archives_of
from retllm.media.facts import written_time
from retllm.media.references import is_reference
from retllm.media.sources import part_label
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services


class PartView(BaseModel):
    """Which part of a whole file an item is: a page of a document, or a frame of a film."""

    page: int | None = Field(default=None, description="number of the page, from 1")
    pages: int | None = Field(default=None, description="number of all pages of the file")
    seconds: float | None = Field(default=None, description="time of the frame from the film's beginning")
    label: str = Field(description="for people, such as `page 3 of 12` or `at 0:12.5`")


class WholeFileView(BaseModel):
    """The whole file that an item is a part of."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(description="the same for all parts of a file")
    name: str
    media_type: str
    size_bytes: int
    content_sha256: str


class PositionView(BaseModel):
    """A position on Earth (WGS 84)."""

    latitude: float = Field(ge=-90, le=90, strict=True, description="degrees, positive to the north")
    longitude: float = Field(ge=-180, le=180, strict=True, description="degrees, positive to the east")


class ReferenceView(BaseModel):
    """Where an original lies that the platform did not copy."""

    root: str | None = Field(
        description="the folder, or the prefix of a bucket, that may be imported; null unless this account may change "
        "the collection, and in a copy that was made by somebody who might not"
    )
    path: str | None = Field(description="the path or key of the file from there on; null as `root`")
    problem: str | None = Field(
        default=None, description="why the original can't be read now; null if it can, and in lists, which do not look"
    )


class ItemView(BaseModel):
    """An item."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    collection_id: UUID
    kind: ItemKind
    name: str
    archive: str | None = Field(description="the archive that it came in, while its upload is kept")
    text: str | None
    media_type: str | None
    width: int | None = Field(description="pixels")
    height: int | None = Field(description="pixels")
    size_bytes: int
    content_sha256: str = Field(
        description="of a picture's bytes or a text in UTF-8; of a part of a file it follows from the file's"
    )
    version: int = Field(description="increases with every change of the caption")
    created_at: datetime
    has_picture: bool
    part: PartView | None = Field(description="which part of `source` it is; null for an item of its own")
    source: WholeFileView | None = Field(description="the whole file, at `/items/{item_id}/source`")
    indexed: bool = Field(description="whether its embedding by the primary embedder is up to date")
    error: str | None = Field(description="why its last embedding failed")
    title: str | None
    tags: list[str]
    rating: int | None = Field(description="1 to 5")
    taken: str | None = Field(
        description="when it was made, by the clock of that place, as precisely as it is known: `1923-05`, "
        "`2003-07-02T14:30:05+02:00`"
    )
    camera: str | None
    lens: str | None
    position: PositionView | None = Field(description="null also if this account may not see it")
    original: bool = Field(
        description="whether `/items/{item_id}/picture` is the original; otherwise it is a copy that does not tell "
        "where it was made, and the whole file is refused"
    )
    reference: ReferenceView | None = Field(
        description="where the original, or the whole file, lies if it is not stored; null if it is"
    )
    columns: dict[str, str] = Field(description="further columns, by their names")
    text_in_picture: str | None = Field(
        description="the text in its picture, as a job read it; empty if there is none, null if nobody has read it"
    )
    text_in_picture_confidence: float | None = Field(
        description="how sure the recognizer is of that text, from 0 to 1; null if there is none"
    )


_OTHER = {
    *("archive", "has_picture", "indexed", "part", "source", "taken", "position", "original", "reference", "columns"),
    *("text_in_picture", "text_in_picture_confidence"),
}
_COLUMNS = ItemView.model_fields.keys() - _OTHER


def item_view(session: Session, item: Item, indexed: bool) -> ItemView:
    """Return ``item`` as the API and the pages show it."""
    return item_views(session, [(item, indexed)])[0]


def item_views(session: Session, rows: Sequence[tuple[Item, bool]]) -> list[ItemView]:
    """Return items as the API and the pages show them to this account; a row also has whether it is indexed."""
    keys = {item.source_id for item, _ in rows if item.source_id is not None}
    whole = (
        {source.id: source for source in session.scalars(sa.select(Source).where(Source.id.in_(keys)))} if keys else {}
    )
    archives = archives_of(session, [item.id for item, _ in rows])
    actor = current_actor()
    collections = {key: session.get_one(Collection, key) for key in {item.collection_id for item, _ in rows}}
    originals = {key: gets_originals(session, actor, one) for key, one in collections.items()}
    may_change = {key: (right_in(session, actor, one) or 0) >= Right.CHANGE for key, one in collections.items()}
    placed = {key: originals[key] and one.positions is not Positions.NOBODY for key, one in collections.items()}
    return [
        ItemView(
            **{name: getattr(item, name) for name in _COLUMNS},
            archive=archives.get(item.id),
            has_picture=item.picture_key is not None,
            part=PartView(**item.part, label=part_label(item.part)) if item.part else None,
            source=WholeFileView.model_validate(whole[item.source_id]) if item.source_id in whole else None,
            indexed=indexed,
            taken=_taken(item),
            position=_position(item) if placed[item.collection_id] else None,
            original=originals[item.collection_id],
            reference=_reference(item, whole, told=may_change[item.collection_id]),
            columns=item.further,
            text_in_picture=item.ocr_text,
            text_in_picture_confidence=item.ocr_confidence,
        )
        for item, indexed in rows
    ]


def _reference(item: Item, whole: Mapping[UUID, Source], *, told: bool) -> ReferenceView | None:
    source = whole.get(item.source_id) if item.source_id else None
    if is_reference(item.picture_key):
        lies: Referenced = item
    elif source is not None and is_reference(source.file_key):
        lies = source
    else:
        return None
    if not told or lies.original_path is None:
        return ReferenceView(root=None, path=None)
    return ReferenceView(root=lies.original_root, path=lies.original_path.decode(errors="replace"))


def reference_keys(session: Session, item: Item) -> list[str]:
    """Return the storage keys of the item that are references: of its picture, or of its whole file."""
    source = session.get(Source, item.source_id) if item.source_id else None
    keys = [item.picture_key, source.file_key if source else None]
    return [key for key in keys if key is not None and is_reference(key)]


def look_at_original(view: ItemView, keys: Sequence[str]) -> ItemView:
    """Look whether the originals of these keys can be read, and note it; not in a transaction: it may take long."""
    if view.reference is not None:
        view.reference.problem = next(filter(None, map(services().storage.problem, keys)), None)
    return view


def _taken(item: Item) -> str | None:
    if item.taken is None or item.taken_until is None:
        return None
    return written_time(item.taken, item.taken_until, item.taken_zone)


def _position(item: Item) -> PositionView | None:
    if item.latitude is None or item.longitude is None:
        return None
    return PositionView(latitude=item.latitude, longitude=item.longitude)
