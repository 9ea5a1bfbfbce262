"""Reading a score from what a model writes, token by token: "Answer: 0.8750" and its like."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: a number that is no part of a word, a version or another number; a letter right after it makes it none ("2nd")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+(?![A-Za-z_])")

#: what may follow the score and still be the beginning of more of it ("0", "0,", "1 out of")
_UNDECIDED = re.compile(r"[ \t]*|[,.\-–]|[ \t]*o(?:u(?:t[ \t]*(?:o)?)?)?", re.IGNORECASE)

#: what makes the number before it one of another kind: 87%, 8/10, 8 out of 10, 0,875, 0-1, 1.2.3
_OTHER_KIND = re.compile(r"[ \t]*[%/]|[ \t]*out[ \t]+of\b|[,.\-–][0-9]", re.IGNORECASE)

#: as many decimals as the question asks for
_DECIMALS = 4

_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Written:
    """What an answer says: a score from 0 to 1, or in words for people why it says none."""

    score: float | None
    error: str | None = None


def written_score(text: str, *, ended: bool) -> Written | None:
    """The score in an answer: its first number.

    Args:
        text: the answer so far.
        ended: whether nothing comes after it.

    Returns:
        None while more of the answer could change what it says.
    """
    found = _NUMBER.search(text)
    if found is None:
        return Written(None, _without_number(text)) if ended else None
    rest = text[found.end() :]
    decimals = len(found[0].partition(".")[2])
    if not ended and decimals < _DECIMALS and _UNDECIDED.fullmatch(rest):
        return None
    if _OTHER_KIND.match(rest):
        return Written(None, f"The model's answer is not a score from 0 to 1: {quoted(text)}.")
    score = float(found[0])
    if not 0 <= score <= 1:
        return Written(None, f"The model's score is not from 0 to 1: {quoted(text)}.")
    # "-0" is a zero
    return Written(abs(score))


def broken_off(text: str, tokens: int) -> Written:
    """For an answer that was stopped before it said anything for certain."""
    return Written(None, f"The model wrote no score within {tokens} tokens: {quoted(text)}.")


def quoted(text: str) -> str:
    """The text on one line between quotation marks, its end cut off where it is long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return f'"{line if len(line) <= _QUOTED else line[: _QUOTED - 1] + "…"}"'


def _without_number(text: str) -> str:
    if not text.strip():
        return "The model's answer was empty, without a score."
    return f"The model's answer holds no number: {quoted(text)}."
