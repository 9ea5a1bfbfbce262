"""What the columns of a sheet mean: the choice among several whose names fit."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from retllm.errors import TooLarge
from retllm.media.names import one_line, quoted
from retllm.media.normalization import is_blank
from retllm.media.sheets import item_sheets
from retllm.media.sheets.column_names import CAPTIONS, FILES, NUMBERS, plain, role
from retllm.media.sheets.encodings import ESCAPED, NOT_UTF8
from retllm.media.sheets.objects import Repeated, loads
from retllm.media.sheets.references import names_a_picture
from retllm.media.sheets.rows import Reason, Record, Row, problem

_TEXT_SHEET = frozenset({"text", "name", "title", "id"})
# a folder that comes in a column of its own, as in Karpathy's files
_FOLDER = "filepath"
_SHOWN = 12
_SHOWN_CHARS = 40
_SHOWN_FILE = 300
_REPLACED = "\ufffd"
# texts between quotes, and a list of them; NumPy writes no commas
_TEXT = re.compile(r""""[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*'""", re.DOTALL)
_TEXTS = re.compile(rf"\[\s*(?:(?:{_TEXT.pattern})[\s,]*)+\]", re.DOTALL)
# captions inside of captions, as lists and objects
_MAX_DEPTH = 4

MAX_COLUMNS = 1_000
"""How many columns a sheet may have: the header of a table, or all names that occur in the objects of JSON."""
UNDERSTOOD = (
    "A column file (also file_name, image, path, url and others) names the picture, a column caption (also text, "
    "sentence, description and others) has its caption"
)


class TooManyColumns(TooLarge):
    """The sheet has too many columns."""


def listed(names: Iterable[str]) -> str:
    """Return names of columns for a message, not too many of them."""
    named = [name for name in names if name.strip()]
    more = len(named) - _SHOWN
    return ", ".join(map(_quoted, named[:_SHOWN])) + (f" and {more:,} more" if more > 0 else "")


def _quoted(name: str) -> str:
    """Return the name of a column safe to show."""
    return f'"{one_line(name.strip()[:_SHOWN_CHARS])}"'


class Columns:
    """The columns of one sheet, chosen by its header and its first rows.

    What a row costs depends on its own fields only, not on the columns that other rows have.

    Attributes:
        files: the columns that name pictures with their ranks, the best first; empty for a sheet of texts.
        captions: the columns of captions with their ranks, the best first.

    Raises:
        TooManyColumns: there are more than ``MAX_COLUMNS``.
    """

    def __init__(self, names: Sequence[str], sample: Sequence[Record]) -> None:
        # the columns in their order with their roles, and of each role its columns with their places
        self._roles: dict[str, str | None] = {}
        self._together: dict[str | None, dict[str, int]] = {}
        for name in names:
            self._note(name)
        self._used: set[str] = set()
        self._filled: set[str] = set()
        self.captions = self._ranked(CAPTIONS, sample)
        self.files = self._ranked(FILES, sample) or self._naming(sample)
        self.is_texts = self._are_texts(sample)
        self._title = next((n for n in self._roles if plain(n) in ("name", "title")), None) if self.is_texts else None
        self._are_items = item_sheets.is_item_sheet(self._roles)
        if self._are_items:
            self.files, self.captions = {item_sheets.FILE: 0}, {item_sheets.CAPTION: 0}
            self._used.update(self._roles)
        if self.is_texts:
            self.files = {}
            self.captions = _numbered(name for name in self._roles if plain(name) == "text")
            self._used.update(name for name in self._roles if plain(name) in _TEXT_SHEET)

    @property
    def has_texts(self) -> bool:
        """Whether rows without a picture are texts."""
        return self.is_texts or self._are_items

    def _note(self, name: str) -> str | None:
        """Note a column; return its role."""
        if name not in self._roles:
            if len(self._roles) == MAX_COLUMNS:
                raise TooManyColumns(
                    f"The sheet has more than {MAX_COLUMNS:,} columns: leave out those that are neither names of "
                    "pictures nor captions.",
                    limit=MAX_COLUMNS,
                )
            found = self._roles[name] = role(name)
            self._together.setdefault(found, {})[name] = len(self._roles)
        return self._roles[name]

    def _ranked(self, table: Sequence[str], sample: Sequence[Record]) -> dict[str, int]:
        """Return the columns of one table, best first: those whose values fit, then in the order of the table."""

        def rank(name: str) -> tuple[float, int]:
            values = [value for record in sample if (value := record.fields.get(name)) not in (None, "")]
            fit = sum(table is CAPTIONS or names_a_picture(file_in(value)) for value in values)
            share = fit / len(values) if values else 0
            # the values of a good column fit everywhere; a column of captions only has to be filled
            return (-round(share, 1) if table is FILES else -bool(values), table.index(self._roles[name] or ""))

        return _numbered(sorted((name for name, found in self._roles.items() if found in table), key=rank))

    def _naming(self, sample: Sequence[Record]) -> dict[str, int]:
        """Return the first column of an unknown name, or of none, whose values are all names of pictures."""
        for name, found in self._roles.items():
            values = [value for record in sample if (value := record.fields.get(name)) not in (None, "")]
            if found is None and values and all(names_a_picture(file_in(value)) for value in values):
                return {name: 0}
        return {}

    def _are_texts(self, sample: Sequence[Record]) -> bool:
        short = {plain(name) for name in self._roles}
        if "text" not in short or not short <= _TEXT_SHEET:
            return False
        values = (record.fields.get(name) for record in sample for name in self.files)
        return not any(names_a_picture(file_in(value)) for value in values)

    def row(self, record: Record) -> Row:
        """Return the row of a record: its picture, its captions, and the name of a text.

        Raises:
            TooManyColumns: with those of this record there are more than ``MAX_COLUMNS``.
        """
        if record.problem is not None or self._are_items:
            return item_sheets.row(record)
        fields = record.fields
        for name, value in fields.items():
            if name not in self._roles:
                self._add(name)
            if value not in (None, "", []):
                self._filled.add(name)
        files, texts = _present(fields, self.files), _present(fields, self.captions)
        file_at, file = self._file(fields, files)
        captions = self._captions(fields, texts, file_at)
        if bad := self._unusable(fields, [] if file else files) or self._unusable(fields, [] if captions else texts):
            return Row(record.number, problem=problem(Reason.UNREADABLE, f"Row {record.number}: {bad}"))
        if any(map(ESCAPED.search, (file, *captions))):
            shown = f", {quoted(one_line(ESCAPED.sub(_REPLACED, file[:_SHOWN_FILE])))}," if file else ""
            return Row(record.number, problem=problem(Reason.UNREADABLE, f"Row {record.number}{shown} {NOT_UTF8}"))
        title = fields.get(self._title) if self._title else None
        return Row(record.number, file, captions, name=title if isinstance(title, str) and title.strip() else None)

    def _add(self, name: str) -> None:
        """Take a column that the first rows did not have."""
        found = self._note(name)
        if found in FILES:
            self.files[name] = len(self.files)
        elif found in CAPTIONS:
            self.captions[name] = len(self.captions)

    def _file(self, fields: Mapping[str, object], files: Sequence[str]) -> tuple[str | None, str]:
        for name in files:
            if value := file_in(fields[name]):
                self._used.add(name)
                return name, self._with_folder(fields, files, name, value)
        return None, ""

    def _with_folder(self, fields: Mapping[str, object], files: Sequence[str], name: str, file: str) -> str:
        """Put the folder of another column before a bare name."""
        if plain(name) == _FOLDER or "/" in file:
            return file
        for other in files:
            folder = fields[other]
            if plain(other) == _FOLDER and isinstance(folder, str) and folder and not names_a_picture(folder):
                self._used.add(other)
                return f"{folder.rstrip('/')}/{file}"
        return file

    def _captions(self, fields: Mapping[str, object], texts: Sequence[str], file_at: str | None) -> tuple[str, ...]:
        at = next((name for name in texts if name != file_at and flat(fields[name])), None)
        if at is None:
            return ()
        # caption_1, caption_2, ... belong together, as do several columns of one name
        together = _present(fields, self._together[self._roles[at]])
        self._used.update(together)
        return tuple(text for name in together for text in flat(fields[name]))

    @staticmethod
    def _unusable(fields: Mapping[str, object], names: Sequence[str]) -> str | None:
        """Say which of the columns has a value that is no text."""
        for name in names:
            if isinstance(fields.get(name), Repeated):
                return f"{_quoted(name)} is there more than once: keep one."
            if fields.get(name) not in (None, []) and not isinstance(fields[name], str):
                return f"{_quoted(name)} has to be a text."
        return None

    def remark(self) -> str | None:
        """Say which columns were not read although they had values; call it after the last row."""
        unread = [
            name
            for name in self._roles
            if name.strip() and name in self._filled and name not in self._used and plain(name) not in NUMBERS
        ]
        if not unread:
            return None
        one = len(unread) == 1
        return f"The column{'' if one else 's'} {listed(unread)} {'is' if one else 'are'} not read."


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _present(fields: Mapping[str, object], ranked: Mapping[str, int]) -> list[str]:
    """Return the columns of a row that are among those ranked, the best first."""
    return sorted(fields.keys() & ranked.keys(), key=ranked.__getitem__)


def file_in(value: object) -> str:
    """Return the name of a picture in a field, empty if there is none."""
    if isinstance(value, Repeated) and all(each == value[0] for each in value):
        value = value[0]
    if isinstance(value, Mapping):
        value = next((value[name] for name in value if plain(str(name)) in FILES and value[name]), None)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def flat(value: object, depth: int = _MAX_DEPTH) -> list[str]:
    """Return the captions in a field: a text, a list of them, or objects with a column of captions."""
    if isinstance(value, str):
        written = _written_list(value.strip())
        return [value.strip()] if written is None and not is_blank(value) else flat(written, depth)
    if not depth:
        return []
    if isinstance(value, Mapping):
        by_role = {role(str(name)): inner for name, inner in value.items()}
        fitting = (texts for name in CAPTIONS if (texts := flat(by_role.get(name), depth - 1)))
        return next(fitting, [])
    if isinstance(value, list):
        return [text for inner in value for text in flat(inner, depth - 1)]
    return []


def _written_list(text: str) -> list[object] | None:
    """Return the list of texts or objects that a text is in JSON, Python or NumPy; None if it is another text."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        made = loads(text)
    except (ValueError, RecursionError):
        return _python_list(text)
    return made if all(isinstance(each, str | dict | None) for each in made) else None


def _python_list(text: str) -> list[object] | None:
    """Return the texts in what Python or NumPy writes for a list of them; None if it is another text."""
    with suppress(ValueError, SyntaxError):
        return [literal_eval(found) for found in _TEXT.findall(text)] if _TEXTS.fullmatch(text) else None
    return None
