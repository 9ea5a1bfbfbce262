"""Lines of CSV whose cells a spreadsheet never evaluates as formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

# first characters of a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def line(cells: Iterable[Any]) -> str:
    """Return one terminated line; None becomes empty, and a text that looks like a formula gets an apostrophe."""
    target = io.StringIO()
    csv.writer(target).writerow([_plain(cell) for cell in cells])
    return target.getvalue()


def _plain(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
