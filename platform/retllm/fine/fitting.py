"""Shortens the texts of a pair that is longer than the model's context."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from retllm.errors import InvalidInput
from retllm.fine.content import Content
from retllm.fine.prepare import Preparer
from retllm.fine.prompts import Part, Prompts, Wording

#: upper bound of the tokens that a tokenizer makes of a byte; some insert spaces
_TOKENS_OF_BYTE = 2

#: upper bound of the tokens of the chat template, without a system turn
_TEMPLATE = 128

#: of the room for two long texts, the query gets at most two parts and the candidate at least one
_PARTS = 3

#: corrections of a cut, since a text has fewer or more tokens alone than within a question
_CORRECTIONS = 8

_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True, eq=False)
class AskedPair:
    """One pair to be scored, as the model is shown it.

    Attributes:
        place: of the candidate in the call.
        query, candidate: the contents; a text may be only the beginning of the one given.
        remarks: what was shortened, in sentences for people.
    """

    place: int
    query: Content
    candidate: Content
    remarks: tuple[str, ...] = ()


class TextFitter:
    """Fits pairs into the context of a model; a pair that fits is not changed.

    Args:
        preparer: of the model.
        prompts: the questions.
    """

    def __init__(self, preparer: Preparer, prompts: Prompts) -> None:
        self._preparer = preparer
        self._prompts = prompts
        self._template = _TEMPLATE + _TOKENS_OF_BYTE * _bytes(prompts.system or "")
        # the query of a call, and the candidate in several wordings
        self._count = lru_cache(maxsize=256)(preparer.count)
        self._cut = lru_cache(maxsize=256)(self._find_cut)

    def fit(
        self, place: int, query: Content, candidate: Content, wordings: Sequence[Wording], answer_tokens: int
    ) -> AskedPair:
        """Return the pair, its texts shortened if a question about it is too long.

        The query keeps two thirds of the room for both texts, and what the candidate does not need.

        Args:
            place: of the candidate in the call.
            query, candidate: the pair.
            wordings: those of all questions about it.
            answer_tokens: number of tokens that the model writes.

        Raises:
            InvalidInput: the pictures leave no room for the texts, or a picture or text can't be prepared.
        """
        pair = AskedPair(place, query, candidate)
        if self._preparer.limit is None:
            return pair
        limit = self._preparer.limit - answer_tokens
        if self._surely_fits(pair, wordings, limit):
            return pair
        length = self._length(pair, wordings)
        return pair if length <= limit else self._shortened(pair, wordings, length, limit)

    def _messages(self, pair: AskedPair, wordings: Sequence[Wording]) -> list[list[Part]]:
        return [self._prompts.message(wording, pair.query, pair.candidate) for wording in wordings]

    def _surely_fits(self, pair: AskedPair, wordings: Sequence[Wording], limit: int) -> bool:
        """Return whether the pair fits whatever the tokenizer, as most pairs do."""
        messages = self._messages(pair, wordings)
        pictures = self._preparer.expansion(pair.place, messages[0])
        if pictures is None:
            return False
        texts = max(sum(_bytes(part) for part in message if isinstance(part, str)) for message in messages)
        return pictures + _TOKENS_OF_BYTE * texts + self._template <= limit

    def _length(self, pair: AskedPair, wordings: Sequence[Wording]) -> int:
        return max(self._preparer.length(pair.place, message) for message in self._messages(pair, wordings))

    def _shortened(self, pair: AskedPair, wordings: Sequence[Wording], length: int, limit: int) -> AskedPair:
        texts = [content.text.strip() if content.text else "" for content in (pair.query, pair.candidate)]
        counts = [self._count(text) if text else 0 for text in texts]
        room = limit - (length - sum(counts))
        for _ in range(_CORRECTIONS):
            cuts = [self._cut(text, share) for text, share in zip(texts, _shares(counts, room), strict=True)]
            if any(text and not cut for text, cut in zip(texts, cuts, strict=True)):
                break
            shorter = replace(
                pair, query=_with_text(pair.query, cuts[0]), candidate=_with_text(pair.candidate, cuts[1])
            )
            over = self._length(shorter, wordings) - limit
            if over <= 0:
                return replace(shorter, remarks=self._remarks(texts, cuts, counts))
            room -= over
        raise InvalidInput(
            f"The pair is {length:,} tokens long and the model takes {limit:,}; its pictures leave no room for a text. "
            "Lower RETLLM_PICTURE_TOKENS.",
            field="candidates",
            index=pair.place,
        )

    def _find_cut(self, text: str, tokens: int) -> str:
        """Return the longest beginning of ``text`` that has at most ``tokens`` tokens and ends at a word's end.

        In a text without spaces, it ends between two characters.
        """
        if self._count(text) <= tokens:
            return text
        # a token is a character or more, or a part of one
        low, high = 0, len(text)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._preparer.count(text[:middle]) <= tokens else (low, middle)
        if not _SPACE.match(text, low):
            last = max((found.start() for found in _SPACE.finditer(text, low // 2, low)), default=low)
            low = last
        return text[:low].rstrip()

    def _remarks(self, texts: Sequence[str], cuts: Sequence[str], counts: Sequence[int]) -> tuple[str, ...]:
        sides = zip(("query text", "text"), texts, cuts, counts, strict=True)
        return tuple(
            f"The {name} was shortened to its first {self._count(cut):,} tokens of {count:,} for the model."
            for name, text, cut, count in sides
            if cut != text
        )


def _shares(counts: Sequence[int], room: int) -> tuple[int, int]:
    """Return the numbers of tokens that the query and the candidate may have."""
    query, candidate = counts
    for_candidate = max(min(candidate, room // _PARTS), room - query)
    return room - min(candidate, for_candidate), for_candidate


def _with_text(content: Content, text: str) -> Content:
    return Content(image=content.picture, text=text or None)


def _bytes(text: str) -> int:
    """Return the size of a text, also after a tokenizer has normalised it."""
    return max(
        len(text.encode("utf-8", "replace")), len(unicodedata.normalize("NFKC", text).encode("utf-8", "replace"))
    )
