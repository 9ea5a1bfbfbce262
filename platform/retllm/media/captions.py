"""Read captions and texts from CSV (RFC 4180) or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

FILE_COLUMNS = ("file", "filename", "image", "name")
TEXT_COLUMNS = ("caption", "text")
_DELIMITERS = ",;\t"
# bounds of a line in relation to its text: escapes take up to six characters for one; a path and quotes come on top
_LINE_FACTOR = 6
_LINE_OVERHEAD = 16_384
_EXPECTED = "a header with a column caption (or text) and, for captions of pictures, a column file"


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``number`` is that of a text editor: the header of a CSV is row 1.

    ``problem`` says why this row can't be used; later rows still can.
    """

    number: int
    file: str = ""
    text: str = ""
    problem: str | None = None


def read_rows(stream: BinaryIO, kind: FileKind, settings: Settings) -> Iterator[Row]:
    """Yield the rows of a caption sheet; blank rows are skipped.

    Raises:
        MediaRejected: the sheet can't be used: not UTF-8, no known column, or a JSON array.
        TooLarge: the sheet has more than ``max_file_bytes``.
    """
    streams.check_utf8(stream, settings.max_file_bytes)
    with _as_text(stream) as lines:
        yield from _csv_rows(lines, settings) if kind is FileKind.CSV else _json_rows(lines, settings)


@contextmanager
def _as_text(stream: BinaryIO) -> Iterator[io.TextIOWrapper]:
    # newline="": keep line breaks inside quoted fields
    lines = io.TextIOWrapper(_Seekable(stream), encoding="utf-8-sig", newline="")
    try:
        yield lines
    finally:
        # the caller owns the stream and may read it again
        lines.detach()


class _Seekable(io.BufferedReader):
    """Adapts a temporary file of the standard library, which lacks methods that TextIOWrapper needs."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(_Raw(stream))


class _Raw(io.RawIOBase):
    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)


def _bounded(lines: io.TextIOWrapper, settings: Settings) -> Iterator[str]:
    """Yield lines with their line ends; never read a line beyond the maximum length of a row."""
    max_length = settings.max_text_chars * _LINE_FACTOR + _LINE_OVERHEAD
    while line := lines.readline(max_length):
        if len(line) >= max_length and not line.endswith(("\n", "\r")):
            raise TooLarge(
                f"A line has more than {max_length:,} characters; RETLLM_MAX_TEXT_CHARS allows captions of "
                f"{settings.max_text_chars:,} characters.",
                limit=settings.max_text_chars,
            )
        yield line


def _csv_rows(lines: io.TextIOWrapper, settings: Settings) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), settings.max_text_chars * 2))
    source = _bounded(lines, settings)
    header = next(source, "")
    delimiter, columns = _columns(header)
    file_at = next((columns.index(name) for name in FILE_COLUMNS if name in columns), None)
    text_at = next(columns.index(name) for name in TEXT_COLUMNS if name in columns)
    reader = csv.reader(source, delimiter=delimiter, skipinitialspace=True, strict=True)
    number = 1
    while True:
        number += 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(number, problem=f"Row {number} is not valid CSV ({error}): check its quotes.")
            continue
        if any(field.strip() for field in fields):
            yield _csv_row(number, fields, len(columns), file_at, text_at)


def _csv_row(number: int, fields: list[str], width: int, file_at: int | None, text_at: int) -> Row:
    if len(fields) > width:
        return Row(
            number,
            problem=f"Row {number} has {len(fields)} fields, but the header has {width}: put double quotes "
            '("...") around a text that contains the delimiter.',
        )
    fields = fields + [""] * (width - len(fields))
    return Row(number, file=fields[file_at].strip() if file_at is not None else "", text=fields[text_at].strip())


def _columns(header: str) -> tuple[str, list[str]]:
    """Return the delimiter that gives the most known columns in the header, and the column names."""
    best: tuple[int, str, list[str]] = (0, ",", [])
    for delimiter in _DELIMITERS:
        try:
            fields = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            continue
        names = [field.strip().lower() for field in fields]
        known = (any(name in names for name in TEXT_COLUMNS) * 2) + any(name in names for name in FILE_COLUMNS)
        if known > best[0]:
            best = (known, delimiter, names)
    known, delimiter, names = best
    if known < 2:  # no column for the text
        raise MediaRejected(f"The CSV can't be read: its first line must be {_EXPECTED}.")
    return delimiter, names


def _json_rows(lines: io.TextIOWrapper, settings: Settings) -> Iterator[Row]:
    for number, line in enumerate(_bounded(lines, settings), start=1):
        stripped = line.strip()
        if not stripped:
            continue
        if number == 1 and stripped.startswith("["):
            raise MediaRejected('The file is a JSON array: write one object per line, {"file": ..., "caption": ...}.')
        yield _json_row(number, stripped)


def _json_row(number: int, line: str) -> Row:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return Row(number, problem=f"Row {number} is not valid JSON: write one object per line.")
    if not isinstance(parsed, dict):
        return Row(number, problem=f'Row {number} is not an object like {{"file": ..., "caption": ...}}.')
    fields = {str(key).strip().lower(): value for key, value in parsed.items()}
    file = next((fields[name] for name in FILE_COLUMNS if fields.get(name) is not None), "")
    text = next((fields[name] for name in TEXT_COLUMNS if fields.get(name) is not None), "")
    if not isinstance(file, str) or not isinstance(text, str):
        return Row(number, problem=f"Row {number}: file and caption must be strings.")
    return Row(number, file=file.strip(), text=text.strip())
