"""Unicode normalisation in linear time, also of hostile text."""

from __future__ import annotations

import re
import unicodedata

# UAX #15, 13 "Stream-Safe Text Format": no language needs more marks on one character
_MAX_MARKS = 30
_COMBINING_GRAPHEME_JOINER = "\u034f"
# Latin, Greek and Cyrillic text without marks is passed over quickly
_MAY_BE_MARKS = re.compile(rf"[\u0300-\U0010ffff]{{{_MAX_MARKS + 1},}}")


def composed(text: str) -> str:
    """Return ``text`` in NFC; runs of more than 30 marks are divided by U+034F, which is not visible.

    Without that, normalising takes quadratic time, during which no other thread runs. The result can be normalised to
    any other form in linear time.
    """
    return unicodedata.normalize("NFC", _MAY_BE_MARKS.sub(_divided, text))


def is_blank(text: str) -> bool:
    """Return whether a text has nothing to see: no characters but spaces, and those that only format others."""
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in text)


def _divided(found: re.Match[str]) -> str:
    parts, marks = [], 0
    for character in found[0]:
        marks = marks + 1 if _is_mark(character) else 0
        if marks > _MAX_MARKS:
            parts.append(_COMBINING_GRAPHEME_JOINER)
            marks = 1
        parts.append(character)
    return "".join(parts)


def _is_mark(character: str) -> bool:
    # some marks are made of others, and have no class of their own
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0
