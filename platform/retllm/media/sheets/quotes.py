"""How a table is quoted: told by all its rows, so that a bad one loses itself and no others."""

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
from retllm.media.sheets.column_names import FILES, role
from retllm.media.sheets.encodings import escaped
from retllm.media.sheets.lines import bounded, max_length
from retllm.media.sheets.references import SUFFIX_PATTERN, names_a_picture
from retllm.settings import Settings

# these files are seldom quoted, and a quote in them is often just a character
_MAYBE_UNQUOTED = "\t|"
_ESCAPED = re.compile(r'\\([\\"])')
_LAST_NUMBER = re.compile(r"[0-9]{1,18}$")
_NEVER = re.compile(r"(?!)")
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
    valid: bool = False
    """Whether all quotes close, so that lines inside of quoted fields may begin like rows."""


def table_lines(text: io.TextIOBase, table: Table, settings: Settings) -> Iterator[str]:
    """Yield the lines of a table from its first row on, with doubled quotes."""
    lines = map(escaped, islice(bounded(text, settings), table.first_row - 1, None))
    return (_ESCAPED.sub(_doubled, line) for line in lines) if table.escaped else lines


def _doubled(escaped: re.Match[str]) -> str:
    return '""' if escaped[1] == '"' else escaped[1]


class Quoted:
    """Splits quoted rows. A quote that does not close loses its own row: reading goes on at the next line."""

    def __init__(self, lines: Iterator[str], table: Table, settings: Settings, *, whole: bool = False) -> None:
        """Split these lines; with ``whole``, lines between quotes belong to their field whatever they look like."""
        self._whole = whole
        self._file_at = next((at for at, name in enumerate(table.names) if role(name) in FILES), 0)
        self._source = lines
        self._again: deque[str] = deque()
        self._table = table
        self._max_chars = max_length(settings)
        begins = rf'^\s*("?)[^"\n]*{SUFFIX_PATTERN}(?:#\d+)?\1\s*{re.escape(table.delimiter)}'
        self._row_begins = _NEVER if table.valid else re.compile(begins, re.IGNORECASE)
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
                self._check_lines(fields)
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

    def _check_lines(self, fields: list[str]) -> None:
        """Check the lines between the quotes of a row: two stray quotes of different rows hold those between them.

        Raises:
            csv.Error: most of them look like rows of the table.
        """
        if self._whole or len(self.taken) == 1 or len(fields) <= self._file_at:
            return
        # the line where a caption ends has the fields after it, which may be those of a row
        is_named_first = self._file_at < len(self._split(self.taken[0])) - 1
        between = self.taken[1:] if is_named_first else self.taken[1:-1]
        lines = [line for line in between if line.strip()]
        like = sum(self._is_like_row(line, fields[self._file_at], place) for place, line in enumerate(lines, start=1))
        if like * 2 > len(lines):
            raise csv.Error("a quote is not closed before lines that look like rows")

    def _is_like_row(self, line: str, named: str, place: int) -> bool:
        """Return whether a line, so many below one that names a picture, has the fields and the name of a row."""
        inner = self._split(line)
        if len(inner) != len(self._table.names):
            return False
        name = inner[self._file_at].strip()
        return names_a_picture(name) or name == _counted(named.strip(), place)

    def _split(self, line: str) -> list[str]:
        """Return the fields of a line by itself, whatever its quotes."""
        return next(csv.reader([line], delimiter=self._table.delimiter, skipinitialspace=True), [])

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


def _counted(name: str, more: int) -> str | None:
    """Return the name whose number at the end is so much greater; None for a name without number."""
    if not (found := _LAST_NUMBER.search(name)):
        return None
    return name[: found.start()] + str(int(found[0]) + more).zfill(len(found[0]))


def with_quotes(opened: Opener, table: Table, settings: Settings) -> Table:
    """Return the table with how it is quoted: as few rows as possible are lost, so that a bad one loses only itself.

    With tabs and bars it is quoted if every quote fits that, or if most names of pictures are between quotes.
    """
    ways = [replace(table, quoted=True, escaped=escaped) for escaped in (False, True)]
    with opened() as text:
        if not any('\\"' in line for line in table_lines(text, table, settings)):
            ways = ways[:1]
    ways = [replace(way, valid=_is_valid(opened, way, settings)) for way in ways]
    if table.delimiter in _MAYBE_UNQUOTED:
        throughout = [way for way in ways if _consistently_quoted(opened, way, settings)]
        if throughout and _is_even(opened, table, settings):
            # each line may be a row, so that a line inside of quotes that begins like one is one
            throughout = [
                way for way in throughout if _consistently_quoted(opened, replace(way, valid=False), settings)
            ]
        if not throughout and not _names_are_quoted(opened, table, settings):
            return table
        ways = throughout or ways
    return ways[0] if len(ways) == 1 else min(ways, key=lambda way: _misfits(opened, way, settings))


def _is_valid(opened: Opener, table: Table, settings: Settings) -> bool:
    """Return whether fields of a quoted table have several lines, all quotes close, and no row has too many fields."""
    with opened() as text:
        if not any(line.count('"') % 2 for line in table_lines(text, table, settings)):
            return False
    with opened() as text:
        rows = Quoted(table_lines(text, table, settings), replace(table, valid=True), settings, whole=True)
        return all(not isinstance(fields, str) and len(fields) <= len(table.names) for _, fields in rows)


def _is_even(opened: Opener, table: Table, settings: Settings) -> bool:
    """Return whether each line has as many fields as the header."""
    with opened() as text:
        written = (line for line in table_lines(text, table, settings) if line.strip())
        return all(line.count(table.delimiter) == len(table.names) - 1 for line in written)


def _misfits(opened: Opener, table: Table, settings: Settings) -> float:
    """Return how many rows would be lost, infinite if their quotes end the reading."""
    with opened() as text:
        rows = Quoted(table_lines(text, table, settings), table, settings)
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
        rows = (line.split(table.delimiter) for line in table_lines(text, table, settings) if line.strip())
        names = [fields[place].strip() for fields in rows if len(fields) > place]
    return sum(len(name) > 1 and name[0] == name[-1] == '"' for name in names) * 2 > len(names)


def _consistently_quoted(opened: Opener, table: Table, settings: Settings) -> bool:
    """Return whether the sheet has quotes, and each opens or closes a field, or is doubled inside of one."""
    found = False
    with opened() as text:
        splitter = Quoted(table_lines(text, table, settings), table, settings)
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
