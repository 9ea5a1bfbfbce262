"""The fields of an item that filters know: what they are, and where their values are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from retllm.db.duplicates import DuplicateGroup, DuplicateMember, is_group
from retllm.db.enums import ItemKind
from retllm.db.facts import folded, folded_cells, folder_of
from retllm.db.maps import MapPoint
from retllm.db.tables import Item
from retllm.errors import InvalidInput
from retllm.filters.expression import Field


class FieldKind(StrEnum):
    """What the values of a field are, which decides how they compare."""

    TEXT = "text"  # capital letters and accents do not count
    PATH = "path"  # a folder; ~ is its beginning
    CHOICE = "choice"  # one of a few words
    NUMBER = "number"
    TIME = "time"  # a value may be a year, a month or a day, and is all of it
    TAGS = "tags"  # several texts
    PLACE = "place"  # a position on Earth
    MAP = "map"  # a place on the map of the collection
    COLUMN = "column"  # a further column: a text, or a number


_SINGLE = ("=", "!=", "in")
_ORDER = ("<", "<=", ">", ">=")
OPERATORS: Mapping[FieldKind, tuple[str, ...]] = {
    FieldKind.TEXT: (*_SINGLE, "~"),
    FieldKind.PATH: (*_SINGLE, "~"),
    FieldKind.CHOICE: _SINGLE,
    FieldKind.NUMBER: (*_SINGLE, *_ORDER),
    FieldKind.TIME: (*_SINGLE, *_ORDER),
    FieldKind.TAGS: ("=", "!=", "any", "all"),
    FieldKind.PLACE: ("within",),
    FieldKind.MAP: ("within",),
    FieldKind.COLUMN: (*_SINGLE, *_ORDER, "~"),
}
"""How the fields of each kind can be compared."""


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field: its kind, what it is for people, where its values are (of a time, its begin and its end).

    ``words`` are those of a choice.
    """

    kind: FieldKind
    title: str
    column: Callable[[], Any]
    words: tuple[str, ...] = ()


def _added() -> Any:
    at = sa.func.timezone("UTC", Item.created_at)
    return at, at


def _shape() -> Any:
    return sa.case(
        (Item.width > Item.height, "landscape"),
        (Item.width < Item.height, "portrait"),
        (Item.width.is_not(None), "square"),
    )


def _duplicates() -> Any:
    others = sa.select(DuplicateGroup.size - 1).join(DuplicateMember, DuplicateMember.group_id == DuplicateGroup.id)
    return others.where(DuplicateMember.item_id == Item.id, is_group()).correlate(Item).scalar_subquery()


def _map() -> Any:
    return sa.select(MapPoint.x).where(MapPoint.item_id == Item.id).correlate(Item).scalar_subquery()


FIELDS: Mapping[str, FieldInfo] = {
    "name": FieldInfo(FieldKind.TEXT, "Name", lambda: Item.name),
    "title": FieldInfo(FieldKind.TEXT, "Title", lambda: Item.title),
    "text": FieldInfo(FieldKind.TEXT, "Text or caption", lambda: Item.text),
    "ocr": FieldInfo(FieldKind.TEXT, "Text in the picture", lambda: Item.ocr_text),
    "kind": FieldInfo(FieldKind.CHOICE, "Kind", lambda: Item.kind, tuple(map(str, ItemKind))),
    "taken": FieldInfo(FieldKind.TIME, "Taken", lambda: (Item.taken, Item.taken_until)),
    "added": FieldInfo(FieldKind.TIME, "Added", _added),
    "camera": FieldInfo(FieldKind.TEXT, "Camera", lambda: Item.camera),
    "lens": FieldInfo(FieldKind.TEXT, "Lens", lambda: Item.lens),
    "folder": FieldInfo(FieldKind.PATH, "Folder", lambda: folder_of(Item.name)),
    "tags": FieldInfo(FieldKind.TAGS, "Tags", lambda: Item.tags),
    "rating": FieldInfo(FieldKind.NUMBER, "Rating", lambda: Item.rating),
    "position": FieldInfo(FieldKind.PLACE, "Position", lambda: Item.latitude),
    "map": FieldInfo(FieldKind.MAP, "Place on the map", _map),
    "width": FieldInfo(FieldKind.NUMBER, "Width in pixels", lambda: Item.width),
    "height": FieldInfo(FieldKind.NUMBER, "Height in pixels", lambda: Item.height),
    "size": FieldInfo(FieldKind.NUMBER, "Size in bytes", lambda: Item.size_bytes),
    "duplicates": FieldInfo(FieldKind.NUMBER, "Near-duplicates", _duplicates),
    "shape": FieldInfo(FieldKind.CHOICE, "Shape", _shape, ("landscape", "portrait", "square")),
}
"""The fields by their names, in the order in which they are shown."""


def info_of(field: Field) -> FieldInfo:
    """Return what a field is.

    Raises:
        InvalidInput: there is no field of this name.
    """
    if field.is_column:
        return FieldInfo(FieldKind.COLUMN, field.name, lambda: folded_cells(Item.further).op("->>")(folded(field.name)))
    info = FIELDS.get(field.name)
    if info is None:
        near = get_close_matches(field.name, FIELDS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Fields are {', '.join(FIELDS)}."
        raise InvalidInput(
            f"There is no field {field.name!r}. {hint} A further column is column.{field.name}.",
            field="filter",
        )
    return info
