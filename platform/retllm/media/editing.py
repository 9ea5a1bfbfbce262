"""Change what people may change of an item: its name, its text or caption, and its facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.locks import lock_collections_of_items
from retllm.db.tables import Item
from retllm.errors import Conflict, InvalidInput, MediaRejected, NotFound, TooLarge
from retllm.media import positions
from retllm.media.facts import MAX_TAGS, clean_tags, line, taken_at
from retllm.media.names import clean_name
from retllm.media.normalization import composed, is_blank
from retllm.media.records import lock_items
from retllm.media.skipped import Skipped
from retllm.media.texts import clean_text, text_sha256
from retllm.settings import Settings

MAX_COLUMNS = 100
"""Further columns of an item at most."""
_MAX_CELL = 4_000
_LINES = ("title", "camera", "lens")
# composing makes a text shorter, but not that much
_MOST_TIMES = 4
_TIME_HINT = "Write a year, a month, a day or a time, such as 1923, 1923-05 or 2003-07-02T14:30:05+02:00."


def change_item(session: Session, item_id: UUID, given: Mapping[str, Any], settings: Settings) -> Item:
    """Change an item; only what is given changes. The caller has checked that it may.

    Args:
        given: some of ``name``, ``text``, ``title``, ``tags``, ``rating``, ``taken``, ``camera``, ``lens``,
            ``position`` (latitude and longitude) and ``columns``; None and what is empty remove a value.

    Raises:
        NotFound: it was deleted.
        InvalidInput: a value is not what it must be.
        Conflict: the collection has another item of this text, or keeps no positions and one is given.
    """
    lock_collections_of_items(session, [item_id])
    query = sa.select(Item).where(Item.id == item_id, Item.state == ItemState.READY)
    item = session.scalar(query.with_for_update(key_share=True).execution_options(populate_existing=True))
    if item is None:
        raise NotFound("There is no such item.")
    if given.get("position"):
        positions.require_kept(session, item.collection_id)
    for name, value in columns_of(given).items():
        setattr(item, name, value)
    if "text" in given:
        text = _checked_text(given["text"], settings, "text")
        if text is None and item.kind is ItemKind.TEXT:
            raise InvalidInput("A text can't be empty: delete the item instead.", field="text")
        _set_text(session, item, text)
    session.flush()
    return item


def change_items(
    session: Session,
    item_ids: Sequence[UUID],
    given: Mapping[str, Any],
    settings: Settings,
    *conditions: sa.ColumnElement[bool],
) -> tuple[list[UUID], dict[UUID, Skipped]]:
    """Change those of these items that are there and meet the conditions; return the changed ones, and why not others.

    They are of one collection.

    Args:
        given: what :func:`change_item` takes, except name and columns; ``add_tags`` and ``remove_tags``;
            ``replace_text`` (what to find in the text or caption, and what to put in its place) and ``add_text`` (what
            to add at its end), after ``text`` in this order.

    Raises:
        InvalidInput: a value is not what it must be.
        Conflict: a position is given, and the collection keeps none.
    """
    values = columns_of(given)
    for name in ("text", "add_text"):
        _checked_text(given.get(name), settings, name)
    added, removed = (clean_tags(given.get(name) or []) for name in ("add_tags", "remove_tags"))
    changed: list[UUID] = []
    skipped: dict[UUID, Skipped] = {}
    items = lock_items(session, item_ids, *conditions)
    if items and given.get("position"):
        positions.require_kept(session, items[0].collection_id)
    for item in items:
        tags = [tag for tag in dict.fromkeys([*values.get("tags", item.tags), *added]) if tag not in removed]
        new = {name: value for name, value in {**values, "tags": tags}.items() if getattr(item, name) != value}
        why = Skipped.TOO_MANY_TAGS if len(tags) > MAX_TAGS else _change_text(session, item, given, settings)
        # what is wrong with the text counts, and that it stays as it is only if all else does too
        if why is None or (why is Skipped.UNCHANGED and new):
            changed.append(item.id)
            for name, value in new.items():
                setattr(item, name, value)
        else:
            skipped[item.id] = why
    session.flush()
    return changed, skipped


def take_over(session: Session, item: Item, others: Sequence[Item], settings: Settings) -> None:
    """Add the tags and captions of other items to those of a picture; the caller has locked all of them.

    Raises:
        InvalidInput: it would have too many tags, or too long a caption.
    """
    tags = list(dict.fromkeys(tag for one in (item, *others) for tag in one.tags))
    if len(tags) > MAX_TAGS:
        raise InvalidInput(f"{item.name} would have more than {MAX_TAGS} tags: leave the tags of the others out.")
    item.tags = tags
    captions = list(dict.fromkeys(one.text for one in (item, *others) if one.text))
    if captions:
        _set_text(session, item, _checked_text("\n".join(captions), settings, "text"))
    session.flush()


def columns_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of an item with what is given, see :func:`change_item`; a text is none of them.

    Raises:
        InvalidInput: a value is not what it must be.
    """
    found: dict[str, Any] = {name: line(given[name]) for name in _LINES if name in given}
    if "name" in given:
        found["name"] = clean_name(given["name"] or "", "")
        if not found["name"]:
            raise InvalidInput("An item needs a name.", field="name")
    if "tags" in given:
        found["tags"] = clean_tags(given["tags"] or [])
    if "rating" in given:
        found["rating"] = given["rating"]
    if "taken" in given:
        found |= dict(zip(("taken", "taken_until", "taken_zone"), _taken(given["taken"]), strict=True))
    if "position" in given:
        found |= dict(zip(("latitude", "longitude"), given["position"] or (None, None), strict=True))
    if "columns" in given:
        found["further"] = _cells(given["columns"] or {})
    return found


def _taken(text: str | None) -> tuple[Any, Any, Any]:
    if not (text or "").strip():
        return None, None, None
    taken = taken_at(text)
    if taken is None:
        raise InvalidInput(f"{text!r} is no time. {_TIME_HINT}", field="taken")
    return taken


def _cells(given: Mapping[str, str]) -> dict[str, str]:
    """Return further columns with clean names and cells, without the empty ones."""
    cells = {line(name): line(text, _MAX_CELL) for name, text in given.items()}
    found = {name: text for name, text in cells.items() if name and text}
    if len(found) > MAX_COLUMNS:
        raise InvalidInput(f"An item has at most {MAX_COLUMNS} further columns.", field="columns")
    return found


def _checked_text(text: str | None, settings: Settings, field: str) -> str | None:
    """Return a text as it is stored; None for an empty one.

    Raises:
        InvalidInput: it is too long, or has what a text can't have.
    """
    try:
        return clean_text(text, settings) if text and text.strip() else None
    except (MediaRejected, TooLarge) as error:
        raise InvalidInput(error.message, field=field) from error


def _change_text(session: Session, item: Item, given: Mapping[str, Any], settings: Settings) -> Skipped | None:
    """Change the text or caption of one of many items; return why it stays as it is."""
    try:
        text = _text_of(item.text, given, settings)
    except (MediaRejected, TooLarge):
        return Skipped.TEXT_TOO_LONG
    if text == item.text:
        return Skipped.UNCHANGED
    if text is None and item.kind is ItemKind.TEXT:
        return Skipped.TEXT_NEEDED
    try:
        _set_text(session, item, text)
    except Conflict:
        return Skipped.DUPLICATE
    return None


def _text_of(text: str | None, given: Mapping[str, Any], settings: Settings) -> str | None:
    """Return what becomes of the text or caption of one of many items.

    Raises:
        MediaRejected, TooLarge: no item can have that text.
    """
    new = given.get("text", text)
    if given.get("replace_text") and new:
        find, replacement = map(composed, given["replace_text"])
        # before it is made, since a short text with many finds may become a very long one
        if len(new) + new.count(find) * (len(replacement) - len(find)) > _MOST_TIMES * settings.max_text_chars:
            raise TooLarge
        new = new.replace(find, replacement)
    if added := (given.get("add_text") or "").strip():
        new = f"{new} {added}" if new and new.strip() else added
    if new == text:
        return text
    return None if not new or is_blank(new.strip()) else clean_text(new, settings)


def _set_text(session: Session, item: Item, text: str | None) -> None:
    """Set the caption of a picture, or the text of a text; embeddings of another one are stale then.

    Raises:
        Conflict: the collection has another item of this text.
    """
    if text == item.text:
        return
    if item.kind is ItemKind.TEXT:
        assert text is not None
        _replace_text(session, item, text)
    else:
        item.kind = ItemKind.IMAGE if text is None else ItemKind.BOTH
    item.text, item.version, item.error, item.caption_file_id = text, item.version + 1, None, None


def _replace_text(session: Session, item: Item, text: str) -> None:
    sha256 = text_sha256(text)
    # the collection is locked, but other uploads may add the same text meanwhile
    same = sa.select(Item.name).where(
        Item.collection_id == item.collection_id, Item.content_sha256 == sha256, Item.state == ItemState.READY
    )
    other = session.scalar(same)
    if other is not None:
        raise Conflict(f"The collection has this text already: {other}.")
    try:
        with session.begin_nested():
            item.content_sha256, item.size_bytes = sha256, len(text.encode("utf-8"))
            session.flush()
    except sa.exc.IntegrityError as error:
        raise Conflict("The collection has this text already.") from error
