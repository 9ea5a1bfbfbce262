"""Control tokens in the text of a user are encoded as plain text; other texts are not changed."""

from __future__ import annotations

import html
from functools import lru_cache
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retllm.embedding import Embedder
from retllm.embedding.texts import TextSanitizer
from retllm.settings import PRESETS

#: CLIP's own tokenizer, and one from the transformers library
TOKENIZERS = {"simple": "ViT-B-32", "of transformers": PRESETS["demo"].embedder}
WORDS = {
    "simple": ["<start_of_text>", "<end_of_text>"],
    "of transformers": ["<s>", "</s>", "<pad>", "<unk>"],
}


@lru_cache
def _tokenizer(kind: str) -> Any:
    return open_clip.get_tokenizer(TOKENIZERS[kind])


def _controls(kind: str, text: str) -> list[int]:
    """The control tokens of an encoded text in order, with the padding at the end counted once."""
    tokenizer = _tokenizer(kind)
    row = tokenizer([text])[0]
    inner = getattr(tokenizer, "tokenizer", None)
    special = set(inner.all_special_ids if inner else tokenizer.all_special_ids)
    found = [int(token) for token in torch.unique_consecutive(row) if int(token) in special]
    unknown = inner.unk_token_id if inner else None
    return [token for token in found if token != unknown]


def _disguises(word: str) -> list[str]:
    wide = "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in word)
    once = html.escape(word)
    return [
        word,
        word.upper(),
        wide,
        once,
        html.escape(once),
        html.escape(html.escape(once)),
        word[:4] + "\ufeff" + word[4:],
    ]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_control_words_of_the_tokenizer_are_encoded_as_plain_text(kind: str) -> None:
    sanitize = TextSanitizer(_tokenizer(kind))
    plain = _controls(kind, "a cat")
    assert plain
    for word in WORDS[kind]:
        for disguise in _disguises(word):
            for text in (f"a {disguise} cat", disguise, f"{word} {disguise}{disguise}"):
                assert _controls(kind, sanitize(text)) == plain, text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_combination_of_fragments_makes_a_control_token(kind: str) -> None:
    sanitize = TextSanitizer(_tokenizer(kind))
    plain = _controls(kind, "a cat")
    pieces = [disguise for word in WORDS[kind] for disguise in _disguises(word)]
    cut = st.sampled_from(pieces).flatmap(lambda piece: st.integers(0, len(piece)).map(lambda end: piece[:end]))
    letters = st.sampled_from(["a", " ", "<", ">", "/", "&", "amp;", "lt;", "gt;", "_", "end", "s", "\u200b", "猫"])

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.lists(cut | letters | st.sampled_from(pieces), min_size=1, max_size=6).map("".join))
    def check(text: str) -> None:
        if text.strip():
            assert _controls(kind, sanitize(f"a {text} b")) == plain

    check()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_other_texts_are_not_changed(kind: str) -> None:
    sanitize = TextSanitizer(_tokenizer(kind))
    for text in (
        "a red square",
        "3 < 4 & 5 > 2 [sic] {x} | y",
        "ＡＢＣ ½ &lt;b&gt; naïve 猫\n",
        "end of text",
        "<b>bold</b>",
    ):
        assert sanitize(text) == text


def test_an_end_token_in_a_caption_does_not_hide_the_rest(embedder: Embedder) -> None:
    """Otherwise the embedding would depend only on the text before the token."""
    short, hidden, open_ = embedder.embed_texts(["a cat", "a cat<end_of_text> on a car", "a cat end_of_text on a car"])
    assert np.abs(short - hidden).max() > 1e-3
    np.testing.assert_allclose(hidden, open_, atol=1e-6)
