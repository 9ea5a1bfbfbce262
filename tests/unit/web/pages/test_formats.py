"""The formats of numbers and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from retllm.db.enums import DecidedBy, ItemKind, JobKind, JobState, Stage
from retllm_web.pages import formats

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "just now"),
        (3, "just now"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (7199, "1 hour ago"),
        (86400 * 3, "3 days ago"),
    ],
)
def test_ages_are_shown_in_one_unit(seconds: int, expected: str) -> None:
    assert formats.ago(NOW - timedelta(seconds=seconds), NOW) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0 more seconds"),
        (1, "1 more second"),
        (119, "119 more seconds"),
        (120, "2 more minutes"),
        (7199, "119 more minutes"),
        (7200, "2 more hours"),
    ],
)
def test_time_that_is_left_is_shown_in_one_unit(seconds: int, expected: str) -> None:
    assert formats.more_time(NOW + timedelta(seconds=seconds), NOW) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (0.012, "0.01 s"), (12.4, "12 s"), (59.9, "60 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")],
)
def test_durations_are_rounded(value: float | None, expected: str) -> None:
    assert formats.seconds(value) == expected


@pytest.mark.parametrize(
    ("log_odds", "expected"),
    [(0, "0.5"), (-2.25, "0.095"), (1.5, "0.82"), (-9, "0.00012"), (9, "0.99988"), (-1000, "9.9e-305")],
)
def test_log_odds_are_shown_as_the_score_that_they_mean(log_odds: float, expected: str) -> None:
    assert formats.probability(log_odds) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_sizes_are_shown_in_readable_units(count: int, expected: str) -> None:
    assert formats.size(count) == expected


@pytest.mark.parametrize(("share", "expected"), [(0, "0 %"), (0.999, "99 %"), (0.29, "29 %"), (1, "100 %")])
def test_only_a_full_share_is_shown_as_100_percent(share: float, expected: str) -> None:
    assert formats.percent(share) == expected


def test_every_state_stage_and_kind_has_a_label() -> None:
    assert set(formats.STATES) == set(JobState)
    assert set(formats.STAGES) == set(Stage)
    assert set(formats.JOB_KINDS) == set(JobKind)
    assert set(formats.DECIDED) == set(DecidedBy)
    assert set(formats.KINDS) == set(ItemKind)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ({}, ""),
        ({"image": 66, "image+text": 39, "text": 0}, "105 pictures, 39 with a caption"),
        ({"image": 0, "image+text": 1, "text": 1}, "1 picture with a caption; 1 text"),
        ({"image": 0, "image+text": 2, "text": 1200}, "2 pictures, 2 with a caption; 1,200 texts"),
        ({"image": 1}, "1 picture"),
        ({"text": 3}, "3 texts"),
    ],
)
def test_pictures_with_a_caption_are_counted_among_the_pictures(items: dict[str, int], words: str) -> None:
    assert formats.kind_counts({ItemKind(kind): number for kind, number in items.items()}) == words


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (None, "–"),
        (0.5, "0.5000"),
        (0.012345, "0.0123"),
        (0.0, "0.0000"),
        (1.0, "1.0000"),
        (0.000213, "0.00021"),
        (0.000208, "0.00021"),
        (2.1e-6, "0.0000021"),
        (2.1e-30, "2.1e-30"),
        (0.99998, "0.999980"),
    ],
)
def test_small_scores_are_told_apart(score: float | None, expected: str) -> None:
    assert formats.score_figure(score) == expected
