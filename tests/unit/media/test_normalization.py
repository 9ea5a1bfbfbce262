"""Normalising takes linear time, since runs of marks are bounded, and changes nothing else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import TooLarge
from retllm.media import texts
from retllm.media.names import clean_name
from retllm.media.normalization import composed
from retllm.settings import Settings

# marks of different classes, which have to be sorted; the last two have a class only when they are decomposed
MARKS = "\u0315\u0300\u0323\u0f73\uff9e"
MOST = 30


def longest_run(text: str) -> int:
    """Return the longest run of marks, as every form of normalisation sees it."""
    longest = run = 0
    for character in unicodedata.normalize("NFKD", text):
        run = run + 1 if unicodedata.combining(character) else 0
        longest = max(longest, run)
    return longest


@given(st.text(st.one_of(st.sampled_from(MARKS), st.characters()), max_size=400))
def test_runs_of_marks_are_bounded_and_the_result_stays_the_same(text: str) -> None:
    result = composed(text)
    # the character before may end with marks, and a mark may be made of several
    assert longest_run(result) <= 4 * MOST
    assert composed(result) == result
    assert result.replace("\u034f", "") == composed(text.replace("\u034f", "")).replace("\u034f", "")


@pytest.mark.parametrize("text", ["cafe\u0301", "日本語が" * 50, "e" + "\u0301\u0323" * (MOST // 2), "नमस्ते" * 20, ""])
def test_ordinary_text_is_in_nfc(text: str) -> None:
    assert composed(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("marks", [MARKS, "\u0315\u0300", "\u0f73\u0315", "\uff9e\u0315"])
def test_hostile_names_and_texts_have_no_long_run(marks: str, settings: Settings) -> None:
    assert longest_run(clean_name("a" + marks * 20_000 + ".png")) <= 4 * MOST
    settings = settings.model_copy(update={"max_text_chars": 20_000})
    assert longest_run(texts.clean_text("a" + marks * 2_000, settings)) <= 4 * MOST


def test_a_text_that_is_much_too_long_is_not_normalised(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "composed", lambda _: pytest.fail("it was normalised"))
    with pytest.raises(TooLarge, match="RETLLM_MAX_TEXT_CHARS"):
        texts.clean_text("a" * (4 * settings.max_text_chars + 1), settings)
