"""Lines of CSV whose cells a spreadsheet never evaluates as formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

# how a formula begins, also in the wide forms of East Asia, and after what is not visible
_FORMULA = re.compile(
    "[\\s\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]"
)


def line(cells: Iterable[Any]) -> str:
    """Return one terminated line; None becomes empty, and a text that looks like a formula gets an apostrophe."""
    target = io.StringIO()
    csv.writer(target).writerow([_plain(cell) for cell in cells])
    return target.getvalue()


def _plain(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
