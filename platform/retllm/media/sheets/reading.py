"""Read a sheet of captions, whatever its form."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain, islice
from typing import BinaryIO

from retllm.errors import MediaRejected, TooLarge
from retllm.media.sheets import columns, jsons, tabular
from retllm.media.sheets.columns import Columns
from retllm.media.sheets.encodings import NOT_UTF8, as_text, encoding_of
from retllm.media.sheets.quotes import Table
from retllm.media.sheets.rows import Record, Row, Sheet
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

# rows by which the columns are chosen
_SAMPLE = 100

_Opener = Callable[[], AbstractContextManager[io.TextIOWrapper]]


@contextmanager
def read_rows(stream: BinaryIO, kind: FileKind, settings: Settings) -> Iterator[Sheet]:
    """Open the sheet in a seekable stream and read its first rows.

    Tables and JSON Lines are read as a stream; of other JSON documents at most ``jsons.MAX_ROWS`` rows are in memory,
    each without what is not needed of it.

    Raises:
        MediaRejected: it is no sheet that can be used, for the reason in the message.
        TooLarge: it has more than ``max_file_bytes``, or a row or an element of it is too long.
    """
    with _records(stream, kind, settings) as (records, names, remark):
        sample = list(islice(records, _SAMPLE))
        if kind is FileKind.JSONL and sample and (first := sample[0].problem) and all(r.problem for r in sample):
            raise MediaRejected(f"The file is no list of captions. {first.message}")
        found = names or tuple(dict.fromkeys(name for record in sample for name in record.fields))
        chosen = Columns(found, sample)
        if found and not chosen.captions:
            raise MediaRejected(
                f"The sheet has the columns {columns.listed(found)}, and none of them is understood as captions. "
                f"{columns.UNDERSTOOD}."
            )
        rows = list(map(chosen.row, sample))
        if kind is FileKind.JSONL and rows and (problem := rows[0].problem) and all(map(_is_no_text, rows)):
            raise MediaRejected(f"The file is no list of captions. {problem.message}")
        sheet = Sheet(iter(()), found, bool(chosen.files), chosen.has_texts, [remark] if remark else [])
        sheet.rows = _rows(chain(rows, map(chosen.row, records)), chosen, sheet)
        yield sheet


def is_sheet(stream: BinaryIO, settings: Settings) -> bool:
    """Return whether a seekable plain text is a table of pictures and captions, such as Flickr8k's."""
    try:
        text = partial(as_text, stream, encoding_of(stream, settings.max_file_bytes, western=True, table=True))
        table = tabular.find_table(text, settings)
        return table is not None and tabular.begins_with_pictures(text, table, settings)
    except (MediaRejected, TooLarge):
        return False
    finally:
        stream.seek(0)


def captioned(stream: BinaryIO, kind: FileKind, settings: Settings) -> set[str]:
    """Return the names of the pictures that a seekable file captions as a sheet; none if it is no sheet."""
    stream.seek(0)
    try:
        with read_rows(stream, kind, settings) as sheet:
            return {row.file for row in sheet.rows if row.file and row.captions}
    except (MediaRejected, TooLarge):
        return set()


def _is_no_text(row: Row) -> bool:
    return row.problem is not None and row.problem.message.endswith(NOT_UTF8)


def _rows(rows: Iterator[Row], chosen: Columns, sheet: Sheet) -> Iterator[Row]:
    yield from rows
    if remark := chosen.remark():
        sheet.remarks.append(remark)


@contextmanager
def _records(
    stream: BinaryIO, kind: FileKind, settings: Settings
) -> Iterator[tuple[Iterator[Record], tuple[str, ...], str | None]]:
    """Open the records of a sheet; yield them, the columns of a table, and a remark."""
    is_table = kind is not FileKind.JSONL
    encoding = encoding_of(stream, settings.max_file_bytes, western=is_table, table=is_table, scattered=not is_table)
    opened: _Opener = partial(as_text, stream, encoding)
    if kind is FileKind.JSONL:
        with opened() as text:
            lines = jsons.are_lines(text, settings)
        with opened() as text:
            yield jsons.line_records(text, settings) if lines else jsons.document_records(text), (), encoding.remark
        return
    table = _table(opened, settings)
    with opened() as text:
        yield tabular.records(text, table, settings), table.names, encoding.remark


def _table(opened: _Opener, settings: Settings) -> Table:
    table = tabular.find_table(opened, settings)
    if table is None:
        raise tabular.refusal(opened, settings)
    return table
