"""Tables: CSV (RFC 4180), TSV, and columns between semicolons or vertical bars."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice

from retllm.errors import MediaRejected
from retllm.media.sheets import columns
from retllm.media.sheets.column_names import CAPTIONS, FILES, known, role
from retllm.media.sheets.lines import bounded
from retllm.media.sheets.quotes import Opener, Quoted, Table, table_lines, with_quotes
from retllm.media.sheets.references import SUFFIX_PATTERN, is_url, names_a_picture
from retllm.media.sheets.rows import NOTHING, Reason, Record, problem
from retllm.settings import Settings

_DELIMITERS = ",;\t|"
# in Markdown: the line below the header, and a bar between fields
_RULE = re.compile(r"\s*:?-*:?\s*")
_BAR = re.compile(r"(?<!\\)\|")
_NUMBER = re.compile(r"\s*\d+(?:[.,]\d+)?\s*")
# a name, perhaps with a colon or a dash, and words
_SPACE = " "
_SPACED = re.compile(rf"\s*(\S[^\n]*?{SUFFIX_PATTERN}(?:#\d+)?)(?::|\s+[-\u2013\u2014])?\s+(\S.*)", re.IGNORECASE)
# lines before the header: empty ones, and Excel's sep=;
_MAX_BEFORE = 100
# lines from a title or a comment to the header
_MAX_TITLES = 10
_SEPARATOR = re.compile(r'^"?sep=(.)"?[,;\t|"]*$', re.IGNORECASE)


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
    return with_quotes(opened, Table(delimiter, header, first_row, quoted=False), settings)


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
    lines = table_lines(text, table, settings)
    splitter = Quoted(lines, table, settings) if table.quoted else _unquoted(lines, table)
    for number, fields in splitter:
        if isinstance(fields, str):
            yield Record(number, problem=problem(Reason.UNREADABLE, f"Row {number} {fields}"))
        elif any(field.strip() for field in fields) and not (_is_markdown(table) and all(map(_RULE.fullmatch, fields))):
            yield _record(number, fields, table)


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
    values = ("" if field.strip() in NOTHING else field for field in fields)
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
