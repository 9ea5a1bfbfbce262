"""Rows in JSON: JSON Lines, lists of objects, COCO's and Karpathy's files, objects of names and captions."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from retllm.errors import MediaRejected, TooLarge
from retllm.media.names import one_line, quoted
from retllm.media.normalization import is_blank
from retllm.media.sheets import columns
from retllm.media.sheets.column_names import CAPTIONS, FILES, known, role
from retllm.media.sheets.columns import flat
from retllm.media.sheets.documents import TOO_DEEP, Part, parts
from retllm.media.sheets.encodings import BROKEN, NOT_UTF8, escaped
from retllm.media.sheets.entries import (
    CONVERSATION,
    NESTED,
    NESTED_LINE,
    OBJECT_LIKE,
    Entry,
    Refused,
    any_picture,
    entry_of,
    has_captions,
    names_a_file,
    record_of,
)
from retllm.media.sheets.lines import bounded, max_length
from retllm.media.sheets.objects import Repeated, loads, put
from retllm.media.sheets.references import names_a_picture
from retllm.media.sheets.rows import Reason, Record, problem
from retllm.settings import Settings

MAX_ROWS = 1_000_000
"""How many rows of a document are kept in memory until its end."""
_SHOWN = 300
_EXPECTED = (
    f"It has to be one object per line or a list of objects like {OBJECT_LIKE}, an object of names and captions, or a "
    "file of COCO's or Karpathy's form."
)

# names of columns that may be those of anything
_ANY_NAME = frozenset(("name", "key", "nom", "nombre", "nome", "имя"))
# lists in a file of COCO's form of which no element is about a picture
_NO_ROWS = frozenset(("categories", "licenses"))


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
    except RecursionError:
        return {} if _is_closed(line) else None
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _is_closed(line: str) -> bool:
    """Return whether a line that is nested too deeply begins and ends like an object."""
    return line.startswith("{") and line.endswith("}")


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
            yield record_of(number, entry_of(loads(escaped(stripped))))
        except (ValueError, RecursionError) as error:
            if isinstance(error, RecursionError) and _is_closed(stripped):
                yield record_of(number, NESTED_LINE)
                continue
            broken = BROKEN.search(stripped)
            message = f"Row {number} {NOT_UTF8 if broken else 'is not valid JSON: write one object per line.'}"
            yield Record(number, problem=problem(Reason.UNREADABLE, message))


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
            yield record_of(number, entry_of(part.value))
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
        # of the lists of objects, each row and the key of its list
        self._rows: list[tuple[str, Entry]] = []
        self._of_objects: set[str] = set()
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
        elif value is TOO_DEEP:
            self._rows.append((key, NESTED))
        elif not isinstance(value, dict) or names_a_picture(key) or (key == CONVERSATION and "from" in value):
            self._lists.setdefault(key, []).append(value)
        else:
            self._of_objects.add(key)
            if not self._of_coco(key, value):
                entry = entry_of(value)
                if not isinstance(entry, Refused):
                    entry = {name: _kept(name, inner) for name, inner in entry.items()}
                self._rows.append((key, entry))

    def _of_coco(self, key: str, value: Mapping[str, object]) -> bool:
        """Take a picture or an annotation of a file of COCO's form; return whether that is all that it says."""
        if key == "images" and _is_id(value.get("id")):
            file = value.get("file_name") or value.get("filename") or value.get("coco_url") or value.get("url")
            if isinstance(file, str):
                image = str(value["id"])
                if self._names.setdefault(image, file) != file:
                    self._twice.add(image)
                return not flat(value)
        if key == "annotations" and _is_id(value.get("image_id")):
            image, texts = str(value["image_id"]), flat(value)
            if texts and names_a_file(value):
                return False
            if texts:
                self._captions.setdefault(image, []).extend(texts)
            elif has_captions(value):
                self._empty.append(image)
            return True
        return False

    def records(self) -> Iterator[Record]:
        """Yield the rows of the document.

        Raises:
            MediaRejected: there are none.
        """
        if self._names and not self._captions and not any(has_captions(entry) for _, entry in self._rows):
            raise MediaRejected(
                "The JSON is a file of COCO's form, but none of its annotations is a caption: upload that of captions."
            )
        number = 0
        for number, entry in enumerate(self._entries(), start=1):
            yield record_of(number, entry)
        if not number:
            keys = columns.listed(self._keys) or "nothing"
            raise MediaRejected(f"The JSON is no list of captions; its object has {keys}. {_EXPECTED}")

    def _entries(self) -> Iterator[Entry]:
        own = self._one_picture()
        rows = [(key, entry) for key, entry in self._rows if not (own and _is_caption_only(key, entry))]
        if self._names or self._captions:
            yield from self._coco()
            yield from _beside_coco(rows)
        else:
            yield from (entry for _, entry in rows)
        if own:
            yield own
        for key in self._lists:
            # beside objects: what is none
            if key in self._of_objects and not (own and role(key) in CAPTIONS):
                yield from map(entry_of, self._lists[key])
        if own is None:
            table = _by_column({**self._lists, **self._members})
            yield from table
            if table:
                return
        yield from self._by_name(alone=not (own or rows or self._captions))

    def _coco(self) -> Iterator[Entry]:
        for key, captions in self._captions.items():
            if key in self._twice:
                words = f" has captions for image_id {key}, which is the id of several images: correct it."
                yield Refused(Reason.AMBIGUOUS, words)
            elif key in self._names or not self._names:
                yield {"file_name": self._names.get(key, key), "captions": captions}
            else:
                words = f" has captions for image_id {key}, which is not among the images of the file."
                yield Refused(Reason.NO_PICTURE, words)
        for key in self._empty:
            yield Refused(Reason.EMPTY, f": a caption for image_id {key} is empty.")

    def _one_picture(self) -> Entry | None:
        """Return the row that the object itself is, beside its rows: the name of a picture, and its captions."""
        if not (self._lists or self._rows):
            return None
        if turns := self._lists.get(CONVERSATION):
            return entry_of({**self._members, CONVERSATION: turns})
        files = {name: value for name, value in self._members.items() if role(name) in FILES}
        if not any_picture(files.values()):
            return None
        named = {name: [held.get(name) for held in (self._members, self._lists)] for name in self._keys}
        texts = [text for name, values in named.items() if role(name) in CAPTIONS for text in flat(values)]
        texts += flat([entry for key, entry in self._rows if _is_caption_only(key, entry)])
        return files | {"captions": texts} if texts else None

    def _by_name(self, *, alone: bool) -> Iterator[Entry]:
        """Yield the rows that are no lists of objects.

        Args:
            alone: whether they are all that there is, so that what is not told apart from them is one of them.
        """
        is_flat = len(self._keys) == len(self._members) and known(self._keys)[1]
        if alone and is_flat and not files_are_keys(self._members):
            yield self._members
            return
        named = {**self._members, **self._lists}
        for key in self._members.keys() & self._lists.keys():
            named[key] = Repeated([*_values(self._members[key]), *self._lists[key]])
        fitting = {name: value for name, value in named.items() if flat(value)}
        everything = alone and bool(fitting) and files_are_keys(fitting)
        for name, value in named.items():
            is_told = names_a_picture(name) or name.isdecimal() or any(map(_is_row, _values(value)))
            if is_told or (everything and name in fitting):
                yield from _of_name(name, value)


def _beside_coco(rows: Iterable[tuple[str, Entry]]) -> Iterator[Entry]:
    """Yield what has captions in a file of COCO's form beside its annotations."""
    for key, entry in rows:
        if _names_no_image(entry):
            words = " has a caption whose image_id is neither a text nor a number for an id."
            yield Refused(Reason.NO_PICTURE, words)
        elif isinstance(entry, Refused) or (key not in _NO_ROWS and has_captions(entry)):
            yield entry


def _of_name(name: str, value: object) -> Iterator[Entry]:
    """Yield the rows of a member: those that name their pictures, and what it says of the picture that its key is."""
    values = _values(value)
    others = [each for each in values if not _names_its_own(each, name)]
    if len(others) == len(values):
        yield _named_row(name, value)
        return
    yield from (entry_of(each) for each in values if _names_its_own(each, name))
    if others:
        yield _named_row(name, others)


def _named_row(name: str, value: object) -> Entry:
    if captions := flat(value):
        return {"file": name, "captions": captions}
    words = f" gives the picture {quoted(one_line(name[:_SHOWN]))} no caption"
    if all(each is None or (isinstance(each, str) and is_blank(each)) for each in _values(value)):
        return Refused(Reason.EMPTY, f"{words}.")
    return Refused(Reason.TEXT, f"{words}, but another value than a text.")


def _values(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _is_row(value: object) -> bool:
    return isinstance(value, dict) and bool(flat(value)) and names_a_file(value)


def _names_its_own(value: object, key: str) -> bool:
    """Return whether an object names its picture itself, so that its key only tells it from the others."""
    if not isinstance(value, dict):
        return False
    # an address may only say where the picture of the key was taken from
    if names_a_file(value) or names_a_picture(key):
        return names_a_file(value)
    return any(inner for name, inner in value.items() if role(name) in FILES and role(name) not in _ANY_NAME)


def files_are_keys(members: Mapping[str, object]) -> bool:
    """Return whether the keys of an object are the names or the numbers of pictures, maybe without suffix."""
    return (
        any(names_a_picture(key) for key in members)
        or all(any(c.isdecimal() for c in key) for key in members)
        or all(isinstance(value, dict) and any(role(name) in CAPTIONS for name in value) for value in members.values())
    )


def _by_column(members: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the rows of an object of columns, each an object of values by row, or a list of them."""
    values = {
        name: column if isinstance(column, dict) else {str(place): value for place, value in enumerate(column)}
        for name, column in members.items()
        if isinstance(column, dict | list) and not isinstance(column, Repeated) and role(name)
    }
    if not all(known(values)):
        return []
    # a row has no value in a column without its key: what is kept grows with the values, not with rows times columns
    rows: dict[str, dict[str, object]] = {}
    for name, column in values.items():
        for key, value in column.items():
            rows.setdefault(key, {})[name] = value
    return list(rows.values())


def _is_caption_only(key: str, entry: Entry) -> bool:
    """Return whether a row in a list of captions names no picture, so that it is for that of the whole object."""
    if isinstance(entry, Refused) or role(key) not in CAPTIONS:
        return False
    return not any_picture(value for name, value in entry.items() if role(name) in FILES)


def _names_no_image(entry: Entry) -> bool:
    """Return whether an annotation with a caption has no value as an id, and no other name of its picture."""
    if isinstance(entry, Refused) or not flat(entry) or "image_id" not in entry or names_a_file(entry):
        return False
    return not _is_id(entry["image_id"])


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _kept(name: str, value: object) -> object:
    """Return what can matter of a field: the texts of captions, the name of a picture; None for all else."""
    if role(name) in CAPTIONS:
        return flat(value) or value
    is_kept = isinstance(value, Repeated) or not isinstance(value, list)
    return value if is_kept and role(name) in FILES else None
