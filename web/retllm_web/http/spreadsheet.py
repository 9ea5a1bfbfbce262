"""CSV for people: with the mark by which Excel knows UTF-8, and without cells that a spreadsheet evaluates."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from retllm.media.sheets.formulas import guarded

_MARK = "\ufeff"


def marked(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a file after a byte order mark; without it Excel takes UTF-8 for another code page."""
    yield _MARK
    yield from lines


def line(cells: Iterable[Any]) -> str:
    """Return one terminated line; None becomes empty, and what looks like a formula in a text gets an apostrophe."""
    return row(guarded(cell) if isinstance(cell, str) else cell for cell in cells)


def row(cells: Iterable[Any]) -> str:
    """Return one terminated line with these cells as they are."""
    target = io.StringIO()
    csv.writer(target).writerow(cells)
    return target.getvalue()
