"""Lines of CSV that a spreadsheet shows as they are and never runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

# what makes a spreadsheet take a cell for a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def line(cells: Iterable[Any]) -> str:
    """One line, ended; None is empty, and a text that would be taken for a formula begins with an apostrophe."""
    target = io.StringIO()
    csv.writer(target).writerow([_plain(cell) for cell in cells])
    return target.getvalue()


def _plain(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
