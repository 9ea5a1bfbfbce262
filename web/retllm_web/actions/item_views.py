"""The model of items in the API and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.tables import Item, Source
from retllm.media.came_in import archives_of
from retllm.media.sources import part_label


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


_COLUMNS = ItemView.model_fields.keys() - {"archive", "has_picture", "indexed", "part", "source"}


def item_view(session: Session, item: Item, indexed: bool) -> ItemView:
    """Return ``item`` as the API and the pages show it."""
    return item_views(session, [(item, indexed)])[0]


def item_views(session: Session, rows: Sequence[tuple[Item, bool]]) -> list[ItemView]:
    """Return items as the API and the pages show them, each with whether it is indexed."""
    keys = {item.source_id for item, _ in rows if item.source_id is not None}
    whole = (
        {source.id: source for source in session.scalars(sa.select(Source).where(Source.id.in_(keys)))} if keys else {}
    )
    archives = archives_of(session, [item.id for item, _ in rows])
    return [
        ItemView(
            **{name: getattr(item, name) for name in _COLUMNS},
            archive=archives.get(item.id),
            has_picture=item.picture_key is not None,
            part=PartView(**item.part, label=part_label(item.part)) if item.part else None,
            source=WholeFileView.model_validate(whole[item.source_id]) if item.source_id in whole else None,
            indexed=indexed,
        )
        for item, indexed in rows
    ]
