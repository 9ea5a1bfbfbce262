"""CSV for people: with the mark by which Excel knows UTF-8, and without cells that a spreadsheet evaluates."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

# how a formula begins, also in the wide forms of East Asia, and after what is not visible
_FORMULA = re.compile(
    "[\\s\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]"
)
_MARK = "\ufeff"


def marked(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a file after a byte order mark; without it Excel takes UTF-8 for another code page."""
    yield _MARK
    yield from lines


def line(cells: Iterable[Any]) -> str:
    """Return one terminated line; None becomes empty, and a text that looks like a formula gets an apostrophe."""
    target = io.StringIO()
    csv.writer(target).writerow([_plain(cell) for cell in cells])
    return target.getvalue()


def _plain(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
