"""The formats of numbers and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from retllm.db.enums import DecidedBy, ItemKind, JobKind, JobState, Stage
from retllm_web.pages import formats

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "just now"),
        (3, "just now"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (7199, "1 hour ago"),
        (86400 * 3, "3 days ago"),
    ],
)
def test_an_age_is_told_in_one_unit(seconds: int, said: str) -> None:
    assert formats.ago(NOW - timedelta(seconds=seconds), NOW) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (0.012, "0.01 s"), (12.4, "12 s"), (59.9, "60 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")],
)
def test_a_duration_is_told_in_few_figures(value: float | None, said: str) -> None:
    assert formats.seconds(value) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_bytes_are_told_in_units_that_people_read(count: int, said: str) -> None:
    assert formats.size(count) == said


@pytest.mark.parametrize(("share", "said"), [(0, "0 %"), (0.999, "99 %"), (0.29, "29 %"), (1, "100 %")])
def test_only_all_of_it_is_100_percent(share: float, said: str) -> None:
    assert formats.percent(share) == said


def test_every_state_and_kind_has_words() -> None:
    assert set(formats.STATES) == set(JobState)
    assert set(formats.STAGES) == set(Stage)
    assert set(formats.JOB_KINDS) == set(JobKind)
    assert set(formats.DECIDED) == set(DecidedBy)
    assert set(formats.KINDS) == set(ItemKind)
