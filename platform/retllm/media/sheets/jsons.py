"""Rows in JSON: JSON Lines, lists of objects, COCO's and Karpathy's files, objects of names and captions."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from retllm.errors import MediaRejected, TooLarge
from retllm.media.names import one_line
from retllm.media.sheets import columns
from retllm.media.sheets.column_names import CAPTIONS, FILES, known, role
from retllm.media.sheets.columns import flat
from retllm.media.sheets.documents import Part, parts
from retllm.media.sheets.encodings import BROKEN, NOT_UTF8, escaped
from retllm.media.sheets.lines import bounded, max_length
from retllm.media.sheets.objects import Repeated, loads, put
from retllm.media.sheets.references import names_a_picture
from retllm.media.sheets.rows import Reason, Record, problem
from retllm.settings import Settings

MAX_ROWS = 1_000_000
"""How many rows of a document are kept in memory until its end."""
_SHOWN = 300
# a conversation, and who answers in it
_CONVERSATION = "conversations"
_ANSWERING = ("gpt", "assistant")
_OBJECT_LIKE = '{"file": ..., "caption": ...}'
_EXPECTED = (
    f"It has to be one object per line or a list of objects like {_OBJECT_LIKE}, an object of names and captions, or a "
    "file of COCO's or Karpathy's form."
)


def are_lines(text: io.TextIOBase, settings: Settings) -> bool:
    """Return whether a text is JSON Lines, and not one document."""
    limit = max_length(settings)
    first: str | None = None
    complete = False
    while line := text.readline(limit):
        if not (stripped := line.strip("\ufeff \t\r\n")):
            continue
        if first is None:
            first = stripped
            if first.startswith("["):
                return False
            complete = _object(first) is not None or not first.startswith("{")
        else:
            return complete or _object(stripped) is not None
    return False


def _object(line: str) -> dict[str, object] | None:
    try:
        parsed = loads(line)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def line_records(text: io.TextIOBase, settings: Settings) -> Iterator[Record]:
    """Yield the rows of JSON Lines; a bad line does not affect the others.

    Raises:
        TooLarge: a line is longer than a row may be.
    """
    for number, line in enumerate(bounded(text, settings), start=1):
        stripped = line.strip()
        if not stripped:
            continue
        try:
            yield _record(number, loads(escaped(stripped)))
        except (ValueError, RecursionError):
            broken = BROKEN.search(stripped)
            message = f"Row {number} {NOT_UTF8 if broken else 'is not valid JSON: write one object per line.'}"
            yield Record(number, problem=problem(Reason.UNREADABLE, message))


def _record(number: int, value: object) -> Record:
    if isinstance(value, dict):
        return _of_conversation(number, value) or Record(number, value)
    message = f"Row {number} is not an object like {_OBJECT_LIKE}."
    return Record(number, problem=problem(Reason.UNREADABLE, message))


def _of_conversation(number: int, value: dict[str, object]) -> Record | None:
    """Return the row of a conversation on a picture, as LLaVA is trained with; None if the value is none.

    A single answer is the caption; one of several says nothing without its question.
    """
    turns = value.get(_CONVERSATION)
    if not isinstance(turns, list) or not turns or any(role(name) in CAPTIONS for name in value):
        return None
    answers = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") in _ANSWERING]
    if len(answers) == 1:
        return Record(number, {name: value[name] for name in value if name != _CONVERSATION} | {"caption": answers[0]})
    message = f"Row {number} is a conversation with {len(answers):,} answers, as LLaVA is trained with, and no caption."
    return Record(number, problem=problem(Reason.TEXT, message))


def document_records(text: io.TextIOBase) -> Iterator[Record]:
    """Yield the rows of a JSON document, told by its structure.

    Raises:
        MediaRejected: the document is not valid JSON or no list of rows; the message says what it is.
        TooLarge: an element has too many values, or the document has too many rows.
    """
    found = parts(text)
    first = next(found, None)
    if first is None:
        return
    if first.key is not None:
        whole = _Whole()
        for part in chain([first], found):
            whole.take(part)
        yield from whole.records()
    elif first.listed:
        for number, part in enumerate(chain([first], found), start=1):
            yield _record(number, part.value)
    else:
        raise MediaRejected(f"The JSON is a single {_kind(first.value)}. {_EXPECTED}")


def _kind(value: object) -> str:
    return {str: "text", bool: "truth value", type(None): "null"}.get(type(value), "number")


class _Whole:
    """Collects the members of an object, of each only what can matter, and tells what they are."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        self._kept = 0
        # COCO: the names of pictures and their captions, by id, a number or a text
        self._names: dict[str, str] = {}
        self._twice: set[str] = set()
        self._empty: list[str] = []
        self._captions: dict[str, list[str]] = {}
        self._rows: list[Record] = []
        self._row_keys: set[str] = set()
        self._lists: dict[str, list[object]] = {}
        self._members: dict[str, object] = {}

    def take(self, part: Part) -> None:
        """Take one part of the document."""
        key = part.key or ""
        self._keys[key] = None
        self._kept += 1
        if self._kept > MAX_ROWS:
            raise TooLarge(
                f"The document has more than {MAX_ROWS:,} elements: write it as JSON Lines, or in parts.",
                limit=MAX_ROWS,
            )
        value = part.value
        if not part.listed:
            put(self._members, key, value)
        elif not isinstance(value, dict) or names_a_picture(key):
            self._lists.setdefault(key, []).append(value)
        elif not self._of_coco(key, value):
            self._row_keys.add(key)
            row = _record(len(self._rows) + 1, value)
            kept = {name: _kept(name, inner) for name, inner in row.fields.items()}
            self._rows.append(replace(row, fields=kept))

    def _of_coco(self, key: str, value: Mapping[str, object]) -> bool:
        """Take a picture or an annotation of a file of COCO's form."""
        if key == "images" and _is_id(value.get("id")) and not any(role(name) in CAPTIONS for name in value):
            file = value.get("file_name") or value.get("filename") or value.get("coco_url") or value.get("url")
            if isinstance(file, str):
                key = str(value["id"])
                if self._names.setdefault(key, file) != file:
                    self._twice.add(key)
                return True
        if key == "annotations" and _is_id(value.get("image_id")):
            texts = flat(value.get("caption"))
            if texts and "file_name" in value:
                return False
            if texts:
                self._captions.setdefault(str(value["image_id"]), []).extend(texts)
            elif "caption" in value:
                self._empty.append(str(value["image_id"]))
            return True
        return False

    def records(self) -> Iterator[Record]:
        """Yield the rows of the document.

        Raises:
            MediaRejected: there are none.
        """
        if self._captions:
            yield from self._coco()
        elif self._names and not any(role(name) in CAPTIONS for row in self._rows for name in row.fields):
            raise MediaRejected(
                "The JSON is a file of COCO's form, but none of its annotations is a caption: upload that of captions."
            )
        elif one := self._one_picture():
            yield one
        elif self._rows:
            yield from self._rows
        elif by_name := self._by_name():
            yield from by_name
        else:
            keys = columns.listed(self._keys) or "nothing"
            raise MediaRejected(f"The JSON is no list of captions; its object has {keys}. {_EXPECTED}")

    def _coco(self) -> Iterator[Record]:
        for number, (key, captions) in enumerate(self._captions.items(), start=1):
            if key in self._twice:
                message = (
                    f"Row {number} has captions for image_id {key}, which is the id of several images: correct it."
                )
                yield Record(number, problem=problem(Reason.AMBIGUOUS, message))
            elif key in self._names or not self._names:
                yield Record(number, {"file_name": self._names.get(key, key), "captions": captions})
            else:
                message = f"Row {number} has captions for image_id {key}, which is not among the images of the file."
                yield Record(number, problem=problem(Reason.NO_PICTURE, message))
        unused = [(Reason.TEXT, f": a caption for image_id {key} is empty.") for key in self._empty]
        for _ in filter(_names_no_image, self._rows):
            unused.append(
                (Reason.NO_PICTURE, " has a caption whose image_id is neither a text nor a number for an id.")
            )
        for number, (reason, message) in enumerate(unused, start=len(self._captions) + 1):
            yield Record(number, problem=problem(reason, f"Row {number}{message}"))

    def _one_picture(self) -> Record | None:
        """Return the row that the whole object is: the name of a picture, and lists of its captions."""
        files = {name: value for name, value in self._members.items() if role(name) in FILES}
        in_rows = [value for row in self._rows for name, value in row.fields.items() if role(name) in FILES]
        if not _any_picture(files.values()) or _any_picture(in_rows):
            return None
        texts = [text for name, listed in self._lists.items() if role(name) in CAPTIONS for text in flat(listed)]
        if all(role(key) in CAPTIONS for key in self._row_keys):
            texts += flat([row.fields for row in self._rows])
        return Record(1, files | {"captions": texts}) if texts else None

    def _by_name(self) -> list[Record]:
        files, captions = known(self._keys)
        if captions and len(self._keys) == len(self._members) and not files_are_keys(self._members):
            if table := _by_column(self._members):
                return table
            return [Record(1, self._members)]
        if files and captions:
            return _by_column({**self._lists, **self._members})
        named = {**self._members, **self._lists}
        for key in self._members.keys() & self._lists.keys():
            named[key] = Repeated([self._members[key], self._lists[key]])
        fitting = {name: found for name, value in named.items() if (found := flat(value))}
        if not fitting or not files_are_keys({name: named[name] for name in fitting}):
            return []
        return [
            _named_row(number, name, fitting.get(name))
            for number, name in enumerate((name for name in named if name in fitting or names_a_picture(name)), 1)
        ]


def _named_row(number: int, name: str, captions: list[str] | None) -> Record:
    if captions:
        return Record(number, {"file": name, "captions": captions})
    message = f"Row {number} gives the picture {one_line(name[:_SHOWN])!r} no caption, but another value than a text."
    return Record(number, problem=problem(Reason.TEXT, message))


def files_are_keys(members: Mapping[str, object]) -> bool:
    """Return whether the keys of an object are the names or the numbers of pictures, maybe without suffix."""
    return (
        any(names_a_picture(key) for key in members)
        or all(any(c.isdecimal() for c in key) for key in members)
        or all(isinstance(value, dict) and any(role(name) in CAPTIONS for name in value) for value in members.values())
    )


def _by_column(members: Mapping[str, object]) -> list[Record]:
    """Return the rows of an object of columns, each a list of values or an object of them by row."""
    values = {
        name: list(column.values() if isinstance(column, dict) else column)
        for name, column in members.items()
        if isinstance(column, dict | list) and not isinstance(column, Repeated) and role(name)
    }
    if not all(known(values)):
        return []
    # a short column has no value in the further rows: what is kept grows with the values, not with rows times columns
    rows: list[dict[str, object]] = [{} for _ in range(max(map(len, values.values())))]
    for name, column in values.items():
        for row, value in zip(rows, column, strict=False):
            row[name] = value
    return [Record(number, row) for number, row in enumerate(rows, start=1)]


def _names_no_image(row: Record) -> bool:
    """Return whether an annotation with a caption has no value as an id."""
    has_caption = any(role(name) in CAPTIONS and flat(value) for name, value in row.fields.items())
    return has_caption and "image_id" in row.fields and not _is_id(row.fields["image_id"])


def _any_picture(values: Iterable[object]) -> bool:
    return any(isinstance(value, str) and names_a_picture(value) for value in values)


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _kept(name: str, value: object) -> object:
    """Return what can matter of a field: the texts of captions, the name of a picture; None for all else."""
    if role(name) in CAPTIONS:
        return flat(value) or value
    is_kept = isinstance(value, Repeated) or not isinstance(value, list)
    return value if is_kept and role(name) in FILES else None
