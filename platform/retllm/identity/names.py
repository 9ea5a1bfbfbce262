"""Names of accounts: which are allowed, and which are the same."""

from __future__ import annotations

import re
import unicodedata

import sqlalchemy as sa

from retllm.db.tables import User
from retllm.errors import InvalidInput

MAX = 100
# with the marks of each letter apart; long runs of marks take quadratic time
_MAX_READ = 5 * MAX
_SIGNS = "._@+-"
# letters and marks that are not visible
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# no language writes more of them on one letter
_MAX_MARKS = 3


def written(name: str) -> str:
    """Return a name as it is stored: characters that differ only in their form, such as wide letters, become one."""
    return name if len(name) > _MAX_READ else unicodedata.normalize("NFKC", name)


def check(name: str) -> str:
    """Return the name of a new account as it is stored.

    Raises:
        InvalidInput: it has other characters than letters, with their marks, digits and a few signs.
    """
    name = written(name)
    if not 1 <= len(name) <= MAX or _INVISIBLE.search(name) or not _is_word(name):
        raise InvalidInput(
            f"A user name has 1 to {MAX} letters, digits or {' '.join(_SIGNS)} and starts with a letter or digit.",
            field="name",
        )
    return name


def is_named(name: str) -> sa.ColumnElement[bool]:
    """Return the condition that an account has this name, ignoring case."""
    # lower case as the database makes it, as in the index
    return sa.func.lower(User.name) == sa.func.lower(written(name))


def same(name: str) -> str:
    """Return what is the same for all names that a database takes for one."""
    # one character for each, as most databases do
    return "".join(character.lower()[0] for character in written(name))


def _is_word(name: str) -> bool:
    marks = 0
    for place, character in enumerate(name):
        category = unicodedata.category(character)
        marks = marks + 1 if category[0] == "M" else 0
        if category[0] == "L" or category == "Nd":
            continue
        if not place or marks > _MAX_MARKS or not (marks or character in _SIGNS):
            return False
    return True
