"""A few items of each collection, shown as tiles in the list of collections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.tables import Item
from retllm.indexing.indexed import is_ready

_TILES = 4
# characters of a text that fit in a tile
_CHARACTERS = 120


@dataclass(frozen=True)
class Tile:
    """An item as a small square: its picture, or the beginning of its text."""

    item_id: UUID
    has_picture: bool
    text: str | None


def mosaics(session: Session, counts: Mapping[UUID, Mapping[ItemKind, int]]) -> dict[UUID, list[Tile]]:
    """Return the newest items of each collection, pictures if it has any, with a single database query.

    Args:
        counts: items by kind of each collection.
    """
    collections = [
        (key, any(kinds[kind] for kind in ItemKind if kind is not ItemKind.TEXT))
        for key, kinds in counts.items()
        if any(kinds.values())
    ]
    tiles: dict[UUID, list[Tile]] = {key: [] for key in counts}
    if not collections:
        return tiles
    asked = sa.values(sa.column("id", sa.Uuid), sa.column("pictures", sa.Boolean), name="asked").data(collections)
    newest = (
        sa.select(Item.id, Item.kind, sa.func.left(Item.text, _CHARACTERS).label("text"))
        .where(
            Item.collection_id == sa.cast(asked.c.id, sa.Uuid),
            is_ready(),
            (Item.kind != ItemKind.TEXT) == asked.c.pictures,
        )
        .order_by(Item.id.desc())
        .limit(_TILES)
        .lateral("newest")
    )
    rows = session.execute(
        sa.select(asked.c.id, newest.c.id, newest.c.kind, newest.c.text)
        .select_from(asked.join(newest, sa.true()))
        .order_by(newest.c.id.desc())
    )
    for key, item_id, kind, text in rows:
        tiles[UUID(str(key))].append(Tile(item_id, ItemKind(kind) is not ItemKind.TEXT, text))
    return tiles
