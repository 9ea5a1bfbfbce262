"""Read probabilities from the log-probabilities of an answer's first token (design: remote scorers).

A server lists the most likely tokens only. The probability of a token that is not listed lies between 0 and that of the
least likely listed one, and all of them share what the listed ones leave of 1. So a label has a lower and an upper
bound, which are equal if all its spellings are listed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retllm.errors import ModelUnsuited, ScoreUnreadable, ServerFailed

TOP = 20
"""Number of tokens to ask for: the most that OpenAI's and, unless it is told otherwise, vLLM's server give."""

CLOSE = 5e-5
"""Bounds that are closer than this, half of the last digit that decides a tie, count as exact."""

ROUNDING = 1e-6
"""Error of probabilities that were rounded to float32, and of a sum of such."""

_WIDEST = 0.05
#: of a vocabulary; bounds the entropy of tokens that are not listed
_MOST_TOKENS = 300_000
#: a smaller log-probability, such as -9999, stands for one that is not told
_TOLD = -1000.0
_CLOSE_ENTROPY = 0.01
_LEAST = 1e-30
#: of the sum of probabilities of which a server tells few digits
_ROUNDED = 0.01


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the largest possible value of a probability, 0 to 1."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The estimate with the least possible error; above 0, so that it has a logarithm."""
        return max((self.low + self.high) / 2, _LEAST)

    @property
    def close(self) -> bool:
        """Whether the bounds count as exact, and the probability is known to be above 0."""
        return self.high - self.low <= CLOSE and self.low > 0

    def remark(self) -> str | None:
        """Return a sentence on bounds that are not close; None if they are.

        Raises:
            ScoreUnreadable: they are too far apart for a score.
        """
        if self.high - self.low <= CLOSE:
            return None
        if self.high - self.low > _WIDEST:
            raise ScoreUnreadable(
                f"The server tells too few token probabilities: the score is between {self.low:.2f} and "
                f"{self.high:.2f}. Use a server with top_logprobs of {TOP}, or with logprob_token_ids (vLLM)."
            )
        return f"The server tells only the likeliest tokens: the score is between {self.low:.4f} and {self.high:.4f}."


@dataclass(frozen=True, slots=True)
class Listed:
    """What a server tells of the distribution of a token.

    Attributes:
        tokens: text and probability of the listed tokens; two tokens may have the same text.
        exact: probabilities of labels' spellings that were asked for besides.
    """

    tokens: tuple[tuple[str, float], ...]
    exact: Mapping[str, float]

    @property
    def missing(self) -> float:
        """The probability of all tokens that are not listed."""
        return max(0.0, 1.0 - sum(probability for _, probability in self.tokens))

    def bounds(self, spellings: Collection[str]) -> Bounds:
        """Return the summed probability of a label in all its spellings."""
        seen = [(text, probability) for text, probability in self.tokens if text in spellings]
        unlisted = set(spellings) - {text for text, _ in seen}
        # what is listed twice with the same probability may be one token
        low = sum(probability for _, probability in set(seen))
        twice = sum(probability for _, probability in seen) - low
        low += sum(self.exact.get(text, 0.0) for text in unlisted)
        unknown = len(unlisted - self.exact.keys())
        # beside a probability that is rounded to 1, nothing seems to be missing
        return Bounds(low, low + twice + min(self.missing + ROUNDING, unknown * self.least))

    def others(self, spellings: Collection[str]) -> float:
        """Return the probability of all tokens but these, above 0."""
        listed = sum(probability for text, probability in self.tokens if text not in spellings)
        unlisted = self.missing - sum(self.exact.get(text, 0.0) for text in spellings)
        return max(listed + (unlisted if unlisted > ROUNDING else 0.0), _LEAST)

    @property
    def least(self) -> float:
        """The probability of the least likely listed token."""
        return min(probability for _, probability in self.tokens)

    def entropy(self) -> float | None:
        """Return the entropy of the whole distribution in nats; None if what is not listed could change it."""
        listed = -sum(probability * math.log(probability) for _, probability in self.tokens if probability > 0)
        missing = self.missing
        if missing <= ROUNDING:
            return listed
        low = missing * -math.log(max(min(self.least, missing), _LEAST))
        high = missing * math.log(_MOST_TOKENS / missing)
        return listed + (low + high) / 2 if 0 <= high - low <= 2 * _CLOSE_ENTROPY else None


def listed_tokens(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return text and log-probability of the listed tokens at the first position of an answer.

    Raises:
        ModelUnsuited: the server gives no log-probabilities.
        ServerFailed: they have another form than that of the protocol.
        ScoreUnreadable: they are no log-probabilities of a distribution.
    """
    if not choice.get("logprobs"):
        raise ModelUnsuited(
            "The server of the scorer gives no log-probabilities. Use one that does (vLLM, SGLang), or the mode "
            "verbalized."
        )
    try:
        first = choice["logprobs"]["content"][0]
        entries = first.get("top_logprobs") or [first]
        found = [(_text(entry["token"]), float(entry["logprob"])) for entry in entries]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ServerFailed("The server of the scorer answered in another form than that of its protocol.") from error
    if not all(value <= ROUNDING * 1000 for _, value in found):
        raise ScoreUnreadable("The log-probabilities of the server are not finite numbers up to 0.")
    return found


def as_listed(tokens: Sequence[tuple[str, float]]) -> Listed:
    """Return the distribution of which these are the most likely tokens.

    Raises:
        ScoreUnreadable: their probabilities exceed 1, or no others could have what is left of 1.
    """
    probabilities = tuple((text, math.exp(value)) for text, value in tokens if value > _TOLD)
    if not probabilities:
        raise ScoreUnreadable("The server tells no token probabilities.")
    if sum(probability for _, probability in probabilities) > 1 + _ROUNDED:
        raise ScoreUnreadable("The token probabilities of the server exceed 1 in sum.")
    listed = Listed(probabilities, {})
    if listed.missing > max(_ROUNDED, _MOST_TOKENS * math.exp(min(value for _, value in tokens))):
        raise ScoreUnreadable("The token probabilities of the server are those of no distribution.")
    return listed


def _text(token: str) -> str:
    """Return the text of a token; some servers show the marks that tokenizers use for a space."""
    return token.replace("▁", " ").replace("Ġ", " ")
