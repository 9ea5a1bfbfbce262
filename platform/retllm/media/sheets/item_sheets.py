"""The sheet of items in a downloaded archive: what it says of each item, as it is written and as it is read again.

Such a sheet is told by its columns. Its cells are captions and facts as they are: a caption is one text, whatever it
looks like, and a row without a file is a text of its own. The text in a picture is not read again: a job reads it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from retllm.db.tables import Item
from retllm.errors import InvalidInput
from retllm.media.editing import columns_of
from retllm.media.facts import MAX_RATING, written_time
from retllm.media.normalization import is_blank
from retllm.media.sheets.encodings import ESCAPED, NOT_UTF8
from retllm.media.sheets.formulas import guarded, unguarded
from retllm.media.sheets.rows import NOTHING, Reason, Record, Row, problem

SHEET = "items"
"""The name of the sheet in an archive, without its suffix; a further one has a number."""
FILE, CAPTION = "file", "caption"
_FACTS = ("title", "tags", "rating", "taken", "camera", "lens")
_PLACE = ("latitude", "longitude")
_OCR = "text_in_picture"
_FURTHER = "columns"
_ALWAYS = (FILE, "name", CAPTION, *_FACTS, _FURTHER)


def columns(*, with_places: bool) -> tuple[str, ...]:
    """Return the columns of a sheet, in their order."""
    return (*_ALWAYS[:-1], *(_PLACE if with_places else ()), _OCR, _FURTHER)


def is_item_sheet(names: Collection[str]) -> bool:
    """Return whether a sheet with these columns is one of items."""
    return not set(_ALWAYS).difference(names)


def cells(item: Item, file: str, *, with_places: bool) -> list[str]:
    """Return the row of an item whose file has this name in the archive; the empty one if it is a text."""
    taken = ""
    if item.taken is not None and item.taken_until is not None:
        taken = written_time(item.taken, item.taken_until, item.taken_zone)
    places = [item.latitude, item.longitude] if with_places else []
    values = [
        *(file, item.name, item.text, item.title),
        # none of them has the end of a line
        "\n".join(item.tags),
        *(item.rating, taken, item.camera, item.lens, *places, item.ocr_text),
        json.dumps(item.further, ensure_ascii=False) if item.further else "",
    ]
    return [_written(value) if isinstance(value, str) else "" if value is None else str(value) for value in values]


def row(record: Record) -> Row:
    """Return the row of a record."""
    if record.problem is not None:
        return Row(record.number, problem=record.problem)
    try:
        fields = dict(_read(record.fields))
        facts = columns_of(dict(_facts(fields)))
    except InvalidInput as error:
        return Row(record.number, problem=problem(Reason.TEXT, f"Row {record.number}: {error.message}"))
    file, caption = fields.get(FILE, "").strip(), fields.get(CAPTION, "")
    captions = () if is_blank(caption) else (caption,)
    return Row(record.number, file, captions, name=fields.get("name") or None, facts=facts)


def _written(text: str) -> str:
    # what is read as nothing gets an apostrophe too, and so do further ones before it
    return f"'{text}" if text.lstrip("'").strip() in NOTHING else guarded(text)


def _read(fields: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        text = value if isinstance(value, str) else ""
        if ESCAPED.search(text):
            raise InvalidInput(NOT_UTF8)
        is_nothing = text.startswith("'") and text.lstrip("'").strip() in NOTHING
        yield name, text[1:] if is_nothing else unguarded(text)


def _facts(fields: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield what the cells of a row say, as :func:`retllm.media.editing.change_item` takes it."""
    for name in ("title", "taken", "camera", "lens"):
        yield name, fields.get(name, "").strip() or None
    yield "tags", fields.get("tags", "").splitlines()
    yield "rating", _rating(fields.get("rating", "").strip())
    if set(_PLACE) <= fields.keys():
        yield "position", _place([fields[name].strip() for name in _PLACE])
    yield _FURTHER, _further(fields.get(_FURTHER, "").strip())
    if fields.get("name", "").strip():
        yield "name", fields["name"]


def _rating(text: str) -> int | None:
    if not text:
        return None
    # spreadsheets write 4 as 4.0
    whole = text.removesuffix(".0")
    if not (whole.isascii() and whole.isdecimal() and 1 <= int(whole[:9]) <= MAX_RATING):
        raise InvalidInput(f"{text[:20]!r} is no rating: write a whole number from 1 to {MAX_RATING}.")
    return int(whole)


def _place(texts: list[str]) -> tuple[float, float] | None:
    if not any(texts):
        return None
    try:
        latitude, longitude = map(float, texts)
    except ValueError:
        latitude = longitude = float("inf")
    # also false of what is no number
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise InvalidInput(
            "latitude and longitude are no position: write both in degrees, such as 48.2082 and 16.3738."
        )
    return latitude, longitude


def _further(text: str) -> dict[str, str]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(cell, str) for cell in found.values()):
        raise InvalidInput(
            'the cell in "columns" can\'t be read: write an object of JSON, whose values are texts, such as '
            '{"Place": "Genoa"}.'
        )
    return found
