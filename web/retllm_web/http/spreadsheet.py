"""CSV for people: with the mark by which Excel knows UTF-8, and without cells that a spreadsheet evaluates."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

# what is not visible before a formula, but for what ends a cell
_UNSEEN = "\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
# how a formula begins, also in the wide forms of East Asia
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_FORMULA = re.compile(f"[\\s{_UNSEEN}]*[{_SIGNS}]|[\t\r]")
# where the language of the spreadsheet separates cells by semicolons or tabs, a cell that is no first one is in no
# quotation marks, so that these and the ends of lines in it begin a cell
_INNER_FORMULA = re.compile(f'([;\t\r\n])(?=(?:[{_UNSEEN}"]|[^\\S\t\r\n])*[{_SIGNS}])')
_MARK = "\ufeff"


def marked(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a file after a byte order mark; without it Excel takes UTF-8 for another code page."""
    yield _MARK
    yield from lines


def line(cells: Iterable[Any]) -> str:
    """Return one terminated line; None becomes empty, and what looks like a formula in a text gets an apostrophe."""
    target = io.StringIO()
    csv.writer(target).writerow([_plain(cell) for cell in cells])
    return target.getvalue()


def _plain(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return ("'" if _FORMULA.match(cell) else "") + _INNER_FORMULA.sub(r"\1'", cell)
