"""A written answer is parsed into its score, or into an error with the reason; never into a silent 0."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.fine.written import Written, quoted, truncated_answer, written_score

READABLE = {
    "Answer: 0.8750": 0.875,
    "0.875": 0.875,
    "1.0": 1.0,
    "1": 1.0,
    "0": 0.0,
    ".5": 0.5,
    "1.": 1.0,
    "**Answer:** 0.25": 0.25,
    "answer:0.3": 0.3,
    "Answer: 0.8750.": 0.875,
    "The score is 0.75, since the dog is there": 0.75,
    "- 0.5": 0.5,
    "+0.5": 0.5,
    "-0.0": 0.0,
    "Answer: <0.9000>": 0.9,
    "Answer: 0.123456": 0.123456,
    "The 2nd picture: 0.4": 0.4,
    "CLIP-L14 says 0.4": 0.4,
    "Answer:\n0.6\n": 0.6,
    "1e-3": 0.001,
}
UNREADABLE = {
    "": "empty",
    " \n": "empty",
    "True": "no number",
    "Answer: high": "no number",
    "ten": "no number",
    "Answer: 1.5": "not from 0 to 1",
    "-0.5": "not from 0 to 1",
    "7": "not from 0 to 1",
    "87%": "not a score",
    "0.87 %": "not a score",
    "1/10": "not a score",
    "1 out of 10": "not a score",
    "0,8750": "not a score",
    "0-1": "not a score",
    "0.5.1": "not a score",
    "0.5x": "no number",
}


@pytest.mark.parametrize(("text", "score"), READABLE.items())
def test_a_number_from_0_to_1_is_the_score(text: str, score: float) -> None:
    assert written_score(text, ended=True) == Written(score)


@pytest.mark.parametrize(("text", "reason"), UNREADABLE.items())
def test_any_other_answer_is_an_error_with_the_reason(text: str, reason: str) -> None:
    written = written_score(text, ended=True)
    assert written is not None
    assert written.score is None
    assert written.error is not None
    assert reason in written.error
    assert not text.strip() or quoted(text) in written.error


@pytest.mark.parametrize("text", [*READABLE, *UNREADABLE])
def test_the_first_decision_on_a_growing_answer_is_final(text: str) -> None:
    """When an answer is parsed letter by letter, except that digits after four decimals are ignored."""
    final = written_score(text, ended=True)
    early = [written_score(text[:end], ended=False) for end in range(len(text) + 1)]
    decided = next((one for one in early if one is not None), final)
    if text == "Answer: 0.123456":
        final = Written(0.1234)
    assert decided is not None
    assert final is not None
    assert decided.score == final.score
    assert (decided.error is None) == (final.error is None)


@pytest.mark.parametrize(
    "text", ["", "Answer: ", "0", "0.", "0.87", "Answer: 0.875", "1 out", "0,", "1.", "1 o", "1e", "1e-"]
)
def test_an_answer_that_could_continue_is_not_decided(text: str) -> None:
    assert written_score(text, ended=False) is None


@pytest.mark.parametrize("text", ["0.8750", "0.875 x", "0.875\n", "1 of", "0.5!", "0.5, so", "1.\n", "5.", "5;"])
def test_a_number_is_complete_after_four_decimals_or_other_text(text: str) -> None:
    done = written_score(text, ended=False)
    assert (done is None) == (text == "5.")


@given(st.floats(0, 1), st.integers(1, 6))
def test_a_score_in_the_requested_format_is_parsed_exactly(score: float, decimals: int) -> None:
    text = f"{score:.{decimals}f}"
    assert written_score(f"Answer: {text}", ended=True) == Written(float(text))


@given(st.text(max_size=30))
def test_any_text_gives_either_a_score_or_an_error(text: str) -> None:
    written = written_score(text, ended=True)
    assert written is not None
    assert (written.score is None) != (written.error is None)
    assert written.score is None or 0 <= written.score <= 1


def test_errors_quote_an_answer_on_one_line_and_shortened() -> None:
    assert quoted("a\n\tb\x00  c") == '"a b c"'
    assert quoted("x" * 100) == '"' + "x" * 59 + '…"'
    assert quoted("x" * 60) == '"' + "x" * 60 + '"'
    assert truncated_answer("I think that", 16) == Written(
        None, 'The model wrote no score within 16 tokens: "I think that".'
    )
