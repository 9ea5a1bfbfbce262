"""Rows streamed as a CSV or JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import chain
from typing import Any
from uuid import UUID

from flask import Response

from retllm.history.listing import JobFilters
from retllm.identity.actor import Actor
from retllm.search import export
from retllm.search.export import Row, Rows
from retllm.uploads.views import FileView
from retllm_web.http import long_answers
from retllm_web.http.services import services
from retllm_web.http.spreadsheet import line, marked


class Format(StrEnum):
    """The formats of files."""

    CSV = "csv"  # for spreadsheets; cells that would be formulas are escaped
    JSON = "json"  # one array of objects


_TYPES = {Format.CSV: "text/csv", Format.JSON: "application/json"}


def history(actor: Actor, filters: JobFilters, rows: Rows, format: Format, *, mark: bool = False) -> Response:
    """Return the matching jobs, or their results, as a file; ``mark`` puts a byte order mark before CSV.

    Raises:
        Busy: too many exports are made already.
    """
    found = export.rows(services().sessions, actor, filters, rows)
    text = _csv(export.COLUMNS[rows], found, mark) if format is Format.CSV else _json(found)
    return long_answers.export(text, _TYPES[format], f"{rows}.{format}")


FILE_COLUMNS = ("within", "name", "status", "item_id", "item_name", "kind", "error_code", "error", "remark", "count")
"""Columns of the exported files of an upload."""


def outcomes(upload_id: UUID, files: Iterator[FileView], *, mark: bool = False) -> Response:
    """Return what became of the files of an upload as a CSV file; ``mark`` puts a byte order mark before it.

    Raises:
        Busy: too many exports are made already.
    """
    text = _csv(FILE_COLUMNS, map(_file_row, files), mark)
    return long_answers.export(text, _TYPES[Format.CSV], f"files-{upload_id}.csv")


def _file_row(file: FileView) -> Row:
    code, reason = (file.error.code, file.error.message) if file.error else (None, None)
    return {**file.model_dump(), "error_code": code, "error": reason}


def _csv(columns: Sequence[str], rows: Iterator[Row], mark: bool) -> Iterator[str]:
    lines = chain([line(columns)], (line(_plain(row[name]) for name in columns) for row in rows))
    return marked(lines) if mark else lines


def _json(rows: Iterator[Row]) -> Iterator[str]:
    begin = "[\n"
    for row in rows:
        yield begin + json.dumps(row, default=_plain, ensure_ascii=False)
        begin = ",\n"
    yield "[]\n" if begin == "[\n" else "\n]\n"


def _plain(value: Any) -> Any:
    """Return times in ISO 8601, keys as text, lists separated by commas; numbers, texts and None unchanged."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
