"""Read a score from a model's written answer, such as "Answer: 0.8750", token by token."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_NEW_TOKENS = 16
"""Maximum length of an answer."""

#: a number that is not part of a word, a version or another number, and not followed by a letter ("2nd")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+(?![A-Za-z_])")

#: text after the number that may be the start of a continuation ("0", "0,", "1 out of")
_UNDECIDED = re.compile(r"[ \t]*|[,.\-–]|[ \t]*o(?:u(?:t[ \t]*(?:o)?)?)?", re.IGNORECASE)

#: text after the number that makes it no score: 87%, 8/10, 8 out of 10, 0,875, 0-1, 1.2.3
_OTHER_KIND = re.compile(r"[ \t]*[%/]|[ \t]*out[ \t]+of\b|[,.\-–][0-9]", re.IGNORECASE)

#: number of decimals that the question asks for
_DECIMALS = 4

_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Written:
    """A parsed answer: a score from 0 to 1, or a message for people why there is none."""

    score: float | None
    error: str | None = None


def written_score(text: str, *, ended: bool) -> Written | None:
    """Parse the score in an answer, its first number.

    Args:
        text: the answer so far.
        ended: whether the answer is complete.

    Returns:
        None while further text could change the result.
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


def truncated_answer(text: str, tokens: int) -> Written:
    """Return the error for an answer that reached the maximum length without a score."""
    return Written(None, f"The model wrote no score within {tokens} tokens: {quoted(text)}.")


def quoted(text: str, longest: int = _QUOTED) -> str:
    """Return the text on one line in quotation marks, shortened if it has more than ``longest`` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return f'"{line if len(line) <= longest else line[: longest - 1] + "…"}"'


def _without_number(text: str) -> str:
    if not text.strip():
        return "The model's answer was empty, without a score."
    return f"The model's answer contains no number: {quoted(text)}."
