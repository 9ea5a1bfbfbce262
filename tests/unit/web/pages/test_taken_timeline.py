"""The bars of when items were taken: by month, or by as many years as fit."""

from __future__ import annotations

import pytest

from retllm.filters import parse
from retllm_web.actions.item_facets import Taken
from retllm_web.pages.taken_timeline import HEIGHT, timeline


def test_a_short_time_has_a_bar_for_each_month_and_none_for_what_is_known_by_year_only() -> None:
    found = timeline([Taken(1998, None, 7), Taken(1998, 11, 1), Taken(1999, 1, 4)])
    assert [(bar.label, bar.title, bar.count) for bar in found.bars] == [
        ("Nov 1998", "November 1998", 1),
        ("Dec", "December 1998", 0),
        ("Jan 1999", "January 1999", 4),
    ]
    assert [str(part) for part in found.bars[0].parts] == ["taken = 1998-11"]
    assert [bar.height for bar in found.bars] == [HEIGHT / 4, 0, HEIGHT]
    assert found.by_year_only == 7


@pytest.mark.parametrize(
    ("first", "last", "number", "begin", "label"),
    [
        (1998, 2003, 6, "taken = 1998", "1998"),
        (1903, 1998, 10, "taken >= 1900 and taken <= 1909", "1900s"),
        (3, 1998, 20, "taken >= 0001 and taken <= 0099", "0"),
        (1, 9999, 100, "taken >= 0001 and taken <= 0099", "0"),
    ],
)
def test_a_longer_time_has_a_bar_for_one_year_or_several(
    first: int, last: int, number: int, begin: str, label: str
) -> None:
    found = timeline([Taken(first, 3, 1), Taken(last, None, 2)])
    assert len(found.bars) == number
    assert " and ".join(map(str, found.bars[0].parts)) == begin
    assert found.bars[0].label == label
    assert (found.bars[0].count, found.bars[-1].count, found.by_year_only) == (1, 2, 0)
    for bar in found.bars[:-1]:
        for part in bar.parts:
            assert parse(str(part)) == part


def test_items_without_a_time_have_no_bars() -> None:
    assert timeline([]).bars == []
    assert [bar.title for bar in timeline([Taken(1998, None, 2)]).bars] == ["1998"]
