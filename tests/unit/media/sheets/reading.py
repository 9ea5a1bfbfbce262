"""Read sheets for tests: with small limits, into lists."""

from __future__ import annotations

import io

import pytest

from retllm.media.sheets import documents
from retllm.media.sheets.reading import read_rows
from retllm.media.sheets.rows import Row
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

SETTINGS = Settings(max_text_chars=200, max_file_bytes=1 << 20)
CSV, JSON = FileKind.CSV, FileKind.JSONL


def read(data: str | bytes, kind: FileKind = CSV, settings: Settings = SETTINGS) -> tuple[list[Row], list[str]]:
    """The rows of a sheet, and the remarks about it."""
    raw = data.encode() if isinstance(data, str) else data
    with read_rows(io.BytesIO(raw), kind, settings) as sheet:
        return list(sheet.rows), sheet.remarks


def rows(data: str | bytes, kind: FileKind = CSV, settings: Settings = SETTINGS) -> list[Row]:
    """The rows of a sheet."""
    return read(data, kind, settings)[0]


def pairs(data: str | bytes, kind: FileKind = CSV) -> list[tuple[str, tuple[str, ...]]]:
    """Picture and captions of every row, none of which has a problem."""
    made = rows(data, kind)
    assert [row.problem for row in made] == [None] * len(made)
    return [(row.file, row.captions) for row in made]


def count_examined(patch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of characters that a JSON document is searched in for each of its chunks."""
    examined: list[int] = []
    standard = documents._Bytes._standard

    def counted(given: documents._Bytes, chunk: str) -> str:
        examined.append(len(given._left) + len(chunk))
        return standard(given, chunk)

    patch.setattr(documents._Bytes, "_standard", counted)
    return examined
