"""Remove the tokenizer's control tokens from the texts of users."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

# the special characters of control tokens; an ampersand could start an HTML entity, which the tokenizer unescapes
_BRACKETS = str.maketrans(dict.fromkeys("<>[]{}|&", " "))


class TextSanitizer:
    """Removes control tokens from a text; a text without them is not changed.

    CLIP takes the vector at the end-of-text token, so only the part of a caption before such a token would be embedded.

    Args:
        tokenizer: of open_clip, of either kind.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._words = frozenset(_plain(word) for word in _own_words(tokenizer) if word != word.translate(_BRACKETS))
        clean = getattr(tokenizer, "clean_fn", None)
        self._clean: Callable[[str], str] = clean if callable(clean) else str

    def __call__(self, text: str) -> str:
        """Return the text to encode."""
        # as the tokenizer gets it: HTML entities unescaped, full-width letters normalised
        normalised = _plain(self._clean(text))
        return normalised.translate(_BRACKETS) if any(word in normalised for word in self._words) else text


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _own_words(tokenizer: Any) -> set[str]:
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        added = getattr(inner, "added_tokens_decoder", {})
        return {str(word) for word in added.values()} | set(getattr(inner, "all_special_tokens", ()))
    special = set(getattr(tokenizer, "all_special_ids", ()) or ())
    return {word for word, token in getattr(tokenizer, "encoder", {}).items() if token in special}
