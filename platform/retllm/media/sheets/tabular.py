"""Tables: CSV (RFC 4180), TSV, and columns between semicolons or vertical bars."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice

from retllm.errors import MediaRejected
from retllm.media.sheets import columns
from retllm.media.sheets.column_names import CAPTIONS, FILES, known, role
from retllm.media.sheets.encodings import escaped
from retllm.media.sheets.lines import bounded, max_length
from retllm.media.sheets.references import SUFFIX_PATTERN, is_url, names_a_picture
from retllm.media.sheets.rows import Reason, Record, problem
from retllm.settings import Settings

_DELIMITERS = ",;\t|"
# these files are seldom quoted, and a quote in them is often just a character
_MAYBE_UNQUOTED = "\t|"
# in Markdown: the line below the header, and a bar between fields
_RULE = re.compile(r"\s*:?-*:?\s*")
_BAR = re.compile(r"(?<!\\)\|")
_ESCAPED = re.compile(r'\\([\\"])')
_NUMBER = re.compile(r"\s*\d+(?:[.,]\d+)?\s*")
# what programs write for a field without a value
_NOTHING = frozenset(("nan", "NaN", "NULL", "null", "None", "N/A", "<NA>", "\\N"))
# a name, perhaps with a colon or a dash, and words
_SPACE = " "
_SPACED = re.compile(rf"\s*(\S[^\n]*?{SUFFIX_PATTERN}(?:#\d+)?)(?::|\s+[-\u2013\u2014])?\s+(\S.*)", re.IGNORECASE)
# lines before the header: empty ones, and Excel's sep=;
_MAX_BEFORE = 100
# lines from a title or a comment to the header
_MAX_TITLES = 10
_SEPARATOR = re.compile(r'^"?sep=(.)"?[,;\t|"]*$', re.IGNORECASE)
# lines after an open quote are read again; beyond so many times the length of a row the rest of the sheet is given up
_MAX_AGAIN = 50

Opener = Callable[[], AbstractContextManager[io.TextIOBase]]


@dataclass(frozen=True, slots=True)
class Table:
    """Where a table begins and how it is written."""

    delimiter: str
    names: tuple[str, ...]
    first_row: int
    """The number of the first row of values."""
    quoted: bool
    escaped: bool = False
    """Whether a quote in a quoted field has a backslash before it, as MySQL and Spark write it."""


def find_table(opened: Opener, settings: Settings) -> Table | None:
    """Return the table in a text; None if no line at its start is a header or a row that names a picture.

    Raises:
        MediaRejected: the first line has columns, but none that is understood as a caption.
        TooLarge: a line is longer than a row may be.
    """
    with opened() as text:
        lines = bounded(text, settings)
        number, separator, line = _first_line(lines)
        if line is None:
            raise MediaRejected("The sheet is empty: its first line has to name the columns, such as file and caption.")
        found = _begin(number, line, lines, separator or _DELIMITERS)
    if found is None:
        spaced = _is_spaced(opened, settings)
        return Table(_SPACE, ("file", "caption"), number, quoted=False) if spaced else None
    delimiter, header, first_row = found
    return _with_quotes(opened, Table(delimiter, header, first_row, quoted=False), settings)


def _is_spaced(opened: Opener, settings: Settings) -> bool:
    """Return whether most lines begin with the name of a picture and go on with words; a single one may be a text."""
    with opened() as text:
        lines = [line for line in islice(bounded(text, settings), _MAX_BEFORE) if line.strip()]
    named = [found[2].split() for line in lines if (found := _SPACED.match(line))]
    with_words = sum(any(not names_a_picture(word) and word[0].isalpha() for word in words) for words in named)
    return with_words > 1 and with_words * 2 > len(lines)


def refusal(opened: Opener, settings: Settings) -> MediaRejected:
    """Return why a text without a known table is refused: what its first line has, and what it has to have."""
    with opened() as text:
        _, separator, line = _first_line(bounded(text, settings))
    fields = max((_split(line or "", delimiter) for delimiter in separator or _DELIMITERS), key=len)
    return MediaRejected(
        f"The first line has the columns {columns.listed(fields)}, and none of them is understood as captions. "
        f"{columns.UNDERSTOOD}."
    )


def begins_with_pictures(opened: Opener, table: Table, settings: Settings) -> bool:
    """Return whether the first row of the table names a picture by a name with its suffix."""
    with opened() as text:
        record = next(records(text, table, settings), None)
    if record is None or record.problem is not None:
        return False
    return any(names_a_picture(str(value)) for name, value in record.fields.items() if role(name) in FILES)


def records(text: io.TextIOBase, table: Table, settings: Settings) -> Iterator[Record]:
    """Yield the rows of a table; empty rows are left out, and a bad one does not affect the others.

    Raises:
        MediaRejected: so many quotes do not close that the rest can't be told apart.
        TooLarge: a line is longer than a row may be.
    """
    lines = _lines(text, table, settings)
    splitter = _Quoted(lines, table, settings) if table.quoted else _unquoted(lines, table)
    for number, fields in splitter:
        if isinstance(fields, str):
            yield Record(number, problem=problem(Reason.UNREADABLE, f"Row {number} {fields}"))
        elif any(field.strip() for field in fields) and not (_is_markdown(table) and all(map(_RULE.fullmatch, fields))):
            yield _record(number, fields, table)


def _lines(text: io.TextIOBase, table: Table, settings: Settings) -> Iterator[str]:
    lines = map(escaped, islice(bounded(text, settings), table.first_row - 1, None))
    return (_ESCAPED.sub(_doubled, line) for line in lines) if table.escaped else lines


def _doubled(escaped: re.Match[str]) -> str:
    return '""' if escaped[1] == '"' else escaped[1]


def _record(number: int, fields: list[str], table: Table) -> Record:
    width = len(table.names)
    if len(fields) == 1 < width and (other := _other_delimiter(fields[0], table)):
        message = (
            f"Row {number} has {other!r} between its fields, but the header has {table.delimiter!r}: use the same one."
        )
        return Record(number, problem=problem(Reason.UNREADABLE, message))
    if len(fields) > width and not table.quoted and role(table.names[-1]) in CAPTIONS:
        # without quotes, what follows the last delimiter of a row is all of its caption
        fields = [*fields[: width - 1], table.delimiter.join(fields[width - 1 :])]
    if any(field.strip() for field in fields[width:]):
        how = (
            'put double quotes ("...") around a text that contains the delimiter.'
            if table.quoted
            else "a text in it can't contain the delimiter; write the sheet as CSV with quotes."
        )
        return Record(
            number,
            problem=problem(Reason.FIELDS, f"Row {number} has {len(fields)} fields, but the header has {width}: {how}"),
        )
    values = ("" if field.strip() in _NOTHING else field for field in fields)
    return Record(number, dict(zip(table.names, values, strict=False)))


def _other_delimiter(row: str, table: Table) -> str | None:
    """Return the delimiter after the name of a picture in a row that has none of its table."""
    ends = (other for other in _DELIMITERS if other != table.delimiter and other in row)
    return next((other for other in ends if names_a_picture(row.partition(other)[0])), None)


def _first_line(lines: Iterator[str]) -> tuple[int, str | None, str | None]:
    """Return number and text of the first line that says something, and the delimiter that a line before it names."""
    separator = None
    for number, line in enumerate(lines, start=1):
        named = _SEPARATOR.match(line.strip(" \r\n"))
        if named:
            separator = named[1]
        elif line.strip(' \t\r\n,;|"'):
            return number, separator, line
        if number >= _MAX_BEFORE:
            break
    return 0, separator, None


def _header(line: str, delimiters: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the delimiter that gives the most known columns, and their names."""
    best: tuple[int, int, str, tuple[str, ...]] | None = None
    for delimiter in delimiters:
        names = _named(_split(line, delimiter))
        files, captions = known(names)
        if captions and (best is None or (files, len(names)) > best[:2]):
            best = (files, len(names), delimiter, names)
    return best[2:] if best else None


def _begin(number: int, line: str, further: Iterator[str], delimiters: str) -> tuple[str, tuple[str, ...], int] | None:
    """Return delimiter, columns and number of the first row of a table, whose header may follow a title or a comment.

    Args:
        number: that of ``line``, the first one. further: those below it.
    """
    top = _header(line, delimiters)
    if top and known(top[1])[0]:
        return *top, number + 1
    if not top and (headless := _headless(line, delimiters)):
        return *headless, number
    for place, below in enumerate(islice(further, _MAX_TITLES), start=number + 1):
        # a name may have line breaks between its quotes
        is_open = line.count('"') % 2 == 1
        line = line + below if is_open else below
        found = _header(line, delimiters)
        if found and known(found[1])[0] and not (is_open and line.count('"') % 2):
            return *found, place + 1
    return (*top, number + 1) if top else None


def _named(fields: list[str]) -> tuple[str, ...]:
    """Return the names of columns, all different: a second one of the same name gets its number."""
    names: dict[str, None] = {}
    for number, field in enumerate(fields, start=1):
        name = " ".join(field.split())
        while name in names:
            name = f"{name} ({number})"
        names[name] = None
    return tuple(names)


def _headless(line: str, delimiters: str) -> tuple[str, tuple[str, ...]] | None:
    """Return delimiter and columns of a table that begins with a row instead of a header."""
    for delimiter in sorted(delimiters, key="\t|;,".find):
        fields = _split(line, delimiter)
        if all(names_a_picture(field) or field.strip().isdecimal() for field in fields):
            continue  # a list of pictures and labels, without words
        if len(fields) > 1 and names_a_picture(fields[0]):
            if len(fields) == 3 and fields[1].strip().isdecimal():
                return delimiter, ("file", "comment_number", "caption")
            return delimiter, ("file", "caption")
        if len(fields) == 3 and _NUMBER.fullmatch(fields[0]) and names_a_picture(fields[1]):
            return delimiter, ("id", "file", "caption")
        # Conceptual Captions; between other delimiters than tabs a sentence may end with a name
        if len(fields) == 2 and delimiter == "\t" and (names_a_picture(fields[1]) or is_url(fields[1])):
            return delimiter, ("caption", "file")
    return None


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return line.rstrip("\r\n").split(delimiter)


def _unquoted(lines: Iterator[str], table: Table) -> Iterator[tuple[int, list[str] | str]]:
    for number, line in enumerate(lines, start=table.first_row):
        if table.delimiter != _SPACE or not line.strip():
            yield number, _fields(line.rstrip("\r\n"), table)
        elif found := _SPACED.match(line):
            yield number, [found[1], found[2]]
        else:
            yield number, "does not begin with the name of a picture."


def _fields(line: str, table: Table) -> list[str]:
    if not _is_markdown(table):
        return line.split(table.delimiter)
    return [field.replace("\\|", "|") for field in _BAR.split(line)]


def _is_markdown(table: Table) -> bool:
    """Return whether the rows of a table begin with a vertical bar, as in Markdown."""
    return table.delimiter == "|" and table.names[0] == ""


class _Quoted:
    """Splits quoted rows. A quote that does not close loses its own row: reading goes on at the next line."""

    def __init__(self, lines: Iterator[str], table: Table, settings: Settings) -> None:
        self._source = lines
        self._again: deque[str] = deque()
        self._table = table
        self._max_chars = max_length(settings)
        self._row_begins = re.compile(
            rf'^\s*("?)[^"\n]*{SUFFIX_PATTERN}(?:#\d+)?\1\s*{re.escape(table.delimiter)}', re.IGNORECASE
        )
        self.taken: list[str] = []
        """The lines of the last row."""
        csv.field_size_limit(max(csv.field_size_limit(), self._max_chars))

    def __iter__(self) -> Iterator[tuple[int, list[str] | str]]:
        number, again = self._table.first_row - 1, 0
        while (line := self._next()) is not None:
            number += 1
            self.taken = [line]
            try:
                fields = next(self._reader(), [])
            except csv.Error as error:
                again += sum(map(len, self.taken[1:]))
                if again > _MAX_AGAIN * self._max_chars:
                    raise MediaRejected(
                        f"From row {number:,} on the sheet can't be read, because too many quotes do not close: "
                        "correct the quotes."
                    ) from error
                self._again.extendleft(reversed(self.taken[1:]))
                yield number, f"is not valid CSV ({error}): check its quotes."
            else:
                yield number, fields

    def _next(self) -> str | None:
        return self._again.popleft() if self._again else next(self._source, None)

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._row(), delimiter=self._table.delimiter, skipinitialspace=True, strict=True)

    def _row(self) -> Iterator[str]:
        """Yield the line of a row, and further ones while a quote is open."""
        yield self.taken[0]
        size = len(self.taken[0])
        while (line := self._next()) is not None:
            self.taken.append(line)
            size += len(line)
            if size > self._max_chars or self._row_begins.match(line):
                raise csv.Error("a quote is not closed")
            yield line


def _with_quotes(opened: Opener, table: Table, settings: Settings) -> Table:
    """Return the table with how it is quoted: as few rows as possible are lost, so that a bad one loses only itself.

    With tabs and bars it is quoted if every quote fits that, or if most names of pictures are between quotes.
    """
    ways = [replace(table, quoted=True, escaped=escaped) for escaped in (False, True)]
    with opened() as text:
        if not any('\\"' in line for line in _lines(text, table, settings)):
            ways = ways[:1]
    if table.delimiter in _MAYBE_UNQUOTED:
        throughout = [way for way in ways if _consistently_quoted(opened, way, settings)]
        if not throughout and not _names_are_quoted(opened, table, settings):
            return table
        ways = throughout or ways
    return ways[0] if len(ways) == 1 else min(ways, key=lambda way: _misfits(opened, way, settings))


def _misfits(opened: Opener, table: Table, settings: Settings) -> float:
    """Return how many rows would be lost, infinite if their quotes end the reading."""
    with opened() as text:
        rows = _Quoted(_lines(text, table, settings), table, settings)
        try:
            return sum(isinstance(fields, str) or len(fields) > len(table.names) for _, fields in rows)
        except MediaRejected:
            return math.inf


def _names_are_quoted(opened: Opener, table: Table, settings: Settings) -> bool:
    """Return whether most rows have quotes around the name of the picture, as no name has them."""
    place = next((at for at, name in enumerate(table.names) if role(name) in FILES), None)
    if place is None:
        return False
    with opened() as text:
        rows = (line.split(table.delimiter) for line in _lines(text, table, settings) if line.strip())
        names = [fields[place].strip() for fields in rows if len(fields) > place]
    return sum(len(name) > 1 and name[0] == name[-1] == '"' for name in names) * 2 > len(names)


def _consistently_quoted(opened: Opener, table: Table, settings: Settings) -> bool:
    """Return whether the sheet has quotes, and each opens or closes a field, or is doubled inside of one."""
    found = False
    with opened() as text:
        splitter = _Quoted(_lines(text, table, settings), table, settings)
        for _, fields in splitter:
            if isinstance(fields, str):
                return False
            quotes = sum(line.count('"') for line in splitter.taken)
            if quotes and not _accounted(quotes, fields):
                return False
            found = found or quotes > 0
    return found


def _accounted(quotes: int, fields: list[str]) -> bool:
    """Return whether so many quotes in a row are just those that its fields need or may have around them."""
    inner = [field.count('"') for field in fields]
    around = quotes - sum(2 + 2 * count for count in inner if count)
    return 0 <= around <= 2 * inner.count(0) and around % 2 == 0
