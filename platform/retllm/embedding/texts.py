"""Texts of users as an encoder may be given them: no word of theirs is one of the tokenizer's own."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

# what such words are made of; an ampersand would be read once more as the beginning of a character's name
_BRACKETS = str.maketrans(dict.fromkeys("<>[]{}|&", " "))


class Harmless:
    """Takes the words that mean more than their letters out of a text; any other text stays as it is.

    CLIP reads a vector off where its text ends, so that a caption with the word for "end of text" would be found by
    its first half alone.

    Args:
        tokenizer: of open_clip, of either kind.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._words = frozenset(_plain(word) for word in _own_words(tokenizer) if word != word.translate(_BRACKETS))
        clean = getattr(tokenizer, "clean_fn", None)
        self._clean: Callable[[str], str] = clean if callable(clean) else str

    def __call__(self, text: str) -> str:
        """The text to encode."""
        # as the tokenizer will see it: names of characters resolved, wide letters made plain
        seen = _plain(self._clean(text))
        return seen.translate(_BRACKETS) if any(word in seen for word in self._words) else text


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _own_words(tokenizer: Any) -> set[str]:
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        added = getattr(inner, "added_tokens_decoder", {})
        return {str(word) for word in added.values()} | set(getattr(inner, "all_special_tokens", ()))
    special = set(getattr(tokenizer, "all_special_ids", ()) or ())
    return {word for word, token in getattr(tokenizer, "encoder", {}).items() if token in special}
