"""The words for states and outcomes."""

from __future__ import annotations

import pytest

from retllm.db.enums import FileStatus
from retllm.db.state_words import PROBLEMS, again_words, outcome_counts


@pytest.mark.parametrize(
    ("again", "words"),
    [
        ((1, 0, 0), "Trying again: 1 unit."),
        ((40, 1200, 0), "Trying again: 1,200 files."),
        (
            (1200, 1, 2),
            "Trying again: 1 file, 2 sheets or documents with rows or pages left out.",
        ),
        ((0, 0, 0), "Nothing was left to try again."),
        ((1, 3, 0, 1), "Trying again: 3 files. 1 rejected file is not kept: send it again."),
        ((1, 1, 0, 1200), "Trying again: 1 file. 1,200 rejected files are not kept: send them again."),
    ],
)
def test_a_retry_is_told_in_words(again: tuple[int, ...], words: str) -> None:
    assert again_words(*again) == words


def test_outcomes_are_counted_without_what_was_read_for_its_rows() -> None:
    counts = {FileStatus.NOT_SENT: 1, FileStatus.READ: 2, FileStatus.ADDED: 3000, FileStatus.REJECTED: 0}
    assert outcome_counts(counts, {}) == "3,000 added, 1 not sent"
    assert outcome_counts(counts, {}, PROBLEMS) == "1 not sent"
    assert outcome_counts({}, {}) == ""


@pytest.mark.parametrize(
    ("count", "parts", "told"),
    [
        (12, {"row": 10}, "12 not sent (2 files, 10 rows)"),
        (1, {"row": 1}, "1 row not sent"),
        (1003, {"page": 1, "row": 1001}, "1,003 not sent (1 file, 1 page, 1,001 rows)"),
    ],
)
def test_what_is_no_file_is_counted_apart(count: int, parts: dict[str, int], told: str) -> None:
    assert outcome_counts({FileStatus.NOT_SENT: count}, {FileStatus.NOT_SENT: parts}) == told
