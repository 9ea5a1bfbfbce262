"""The model of items in the API and the pages."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from retllm.db.enums import ItemKind
from retllm.db.tables import Item


class ItemView(BaseModel):
    """An item."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    collection_id: UUID
    kind: ItemKind
    name: str
    text: str | None
    media_type: str | None
    width: int | None = Field(description="pixels")
    height: int | None = Field(description="pixels")
    size_bytes: int
    content_sha256: str
    version: int = Field(description="increases with every change of the caption")
    created_at: datetime
    has_picture: bool
    indexed: bool = Field(description="whether its embedding by the primary embedder is up to date")
    error: str | None = Field(description="why its last embedding failed")


def item_view(item: Item, indexed: bool) -> ItemView:
    """Return ``item`` as the API and the pages show it."""
    return ItemView(
        **{name: getattr(item, name) for name in ItemView.model_fields if name not in ("has_picture", "indexed")},
        has_picture=item.picture_key is not None,
        indexed=indexed,
    )
