"""Cells that no spreadsheet evaluates, and back: an apostrophe stands before what would be a formula."""

from __future__ import annotations

import re

# what is not visible before a formula, but for what ends a cell
_UNSEEN = "\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
# how a formula begins, also in the wide forms of East Asia
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
# apostrophes before it get another one, so that each can be taken away again
_FORMULA = re.compile(f"'*(?:[\\s{_UNSEEN}]*[{_SIGNS}]|[\t\r])")
# where the language of the spreadsheet separates cells by semicolons or tabs, a cell that is no first one is in no
# quotation marks, so that these and the ends of lines in it begin a cell
_INNER = f"(?='*(?:[{_UNSEEN}\"]|[^\\S\t\r\n])*[{_SIGNS}])"
_INNER_FORMULA = re.compile(f"([;\t\r\n]){_INNER}")
_GUARDED_INNER = re.compile(f"([;\t\r\n])'{_INNER}")


def guarded(text: str) -> str:
    """Return a text with an apostrophe before what a spreadsheet would evaluate."""
    return ("'" if _FORMULA.match(text) else "") + _INNER_FORMULA.sub(r"\1'", text)


def unguarded(text: str) -> str:
    """Return the text that :func:`guarded` was given."""
    inner = _GUARDED_INNER.sub(r"\1", text)
    return inner[1:] if inner.startswith("'") and _FORMULA.match(inner[1:]) else inner
