"""Reviewed searches and their summaries."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from tests.unit.review.conftest import World

from retllm.db.enums import ItemState
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item, new_id
from retllm.review import marks, reviewed, summary
from retllm.review.measures import Verdict
from retllm.review.search import review_of

MONDAY = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)


def _mark(world: World, search, relevant=(), wrong=()) -> None:
    with transaction(world.sessions) as session:
        for place in (*relevant, *wrong):
            marks.set_mark(session, world.ada, search, world.items[place], place in relevant)


def _read(world: World, **limits):
    with world.sessions() as session:
        return reviewed.reviewed(session, [world.collection_id], **limits)


def test_each_search_is_measured_by_the_marks_of_its_query(world):
    first = world.search("a bird", coarse=[0, 1, 2], final=[1, 0, 2])
    second = world.search("a bird", coarse=[1, 2, 0], final=[2, 1, 0], mode="choice")
    missed = world.search("a fish", coarse=[0, 1], final=[0, 1])
    _mark(world, first, relevant=[1], wrong=[0])
    _mark(world, missed, relevant=[9])
    found = {one.search_id: one for one in _read(world)}
    assert {key: one.measures.verdict for key, one in found.items()} == {
        first: Verdict.HIT,
        second: Verdict.FINE_MISS,
        missed: Verdict.COARSE_MISS,
    }
    assert (found[second].measures.coarse.recall_at_1, found[second].measures.fine.recall_at_1) == (1, 0)
    assert found[first].measures.marked == 2
    # the review of one search has the same measures
    with world.sessions() as session:
        one = review_of(session, world.ada, second)
    assert one.measures.verdict is Verdict.FINE_MISS
    assert one.measures.fine.ndcg[10] == found[second].measures.fine.ndcg[10]
    assert (one.measures.pool, one.measures.marked) == (3, 2)


def test_a_running_search_is_not_measured(world):
    search = world.search("a bird", coarse=[0], final=None)
    _mark(world, search, relevant=[0])
    assert _read(world) == []
    with world.sessions() as session:
        assert review_of(session, world.ada, search).measures.verdict is Verdict.UNKNOWN


def test_a_deleted_item_does_not_count(world):
    search = world.search("a bird", coarse=[0, 1], final=[1, 0])
    _mark(world, search, relevant=[0, 9])
    with transaction(world.sessions) as session:
        for place in (0, 9):
            session.get_one(Item, world.items[place]).state = ItemState.DELETED
    (one,) = _read(world)
    assert (one.measures.verdict, one.measures.relevant) == (Verdict.UNKNOWN, 0)
    with world.sessions() as session:
        assert review_of(session, world.ada, search).measures.verdict is Verdict.UNKNOWN


def test_searches_of_another_collection_are_excluded(world):
    with transaction(world.sessions) as session:
        other = Collection(id=new_id(), owner_id=world.ada.id, name="other")
        session.add(other)
    here = world.search("a bird", [0], [0])
    world.search("a bird", [], [], collection_id=other.id)
    _mark(world, here, relevant=[0])
    assert [one.search_id for one in _read(world)] == [here]
    with world.sessions() as session:
        found = reviewed.reviewed_collections(session, world.ada, after=None, limit=5)
        assert [one.id for one in found] == [world.collection_id]
        assert reviewed.reviewed_collections(session, world.bob, after=None, limit=5) == []


def test_the_most_recently_reviewed_queries_come_first_up_to_a_limit(world):
    searches = [world.search(f"question {number}", [0], [0]) for number in range(4)]
    again = world.search("question 2", [0], [0])
    for number in (3, 1, 0, 2):
        _mark(world, searches[number], relevant=[0])
    assert [one.search_id for one in _read(world)] == [again, *(searches[number] for number in (2, 0, 1, 3))]
    assert [one.search_id for one in _read(world, questions=2, searches=1)] == [again, searches[0]]


def test_a_collection_is_read_with_one_query(world):
    for number in range(3):
        _mark(world, world.search(f"question {number}", [0, 1], [1, 0]), relevant=[1])
    counted = []
    with world.sessions() as session:
        sa.event.listen(session.get_bind(), "before_cursor_execute", lambda *args: counted.append(args[2]))
        assert len(reviewed.reviewed(session, [world.collection_id])) == 3
    assert len(counted) == 1


def test_means_exclude_unknown_verdicts(world):
    hit, miss = world.search("a", [0, 1], [1, 0]), world.search("b", [0, 1], [0, 1])
    unknown = world.search("c", [0], [0])
    _mark(world, hit, relevant=[1])
    _mark(world, miss, relevant=[1])
    _mark(world, unknown, wrong=[0])
    made = summary.means(one.measures for one in _read(world))
    assert made.known == 2
    assert (made.recall_coarse, made.recall_fine) == (0, 0.5)
    assert made.share(Verdict.FINE_MISS) == 0.5
    assert made.ndcg_fine == pytest.approx((1 + 0.6309297536) / 2)
    assert made.verdicts[Verdict.UNKNOWN] == 1
    nothing = summary.means([])
    assert (nothing.known, nothing.recall_fine, nothing.share(Verdict.HIT)) == (0, None, None)


def test_searches_are_grouped_by_day_and_by_week_from_monday(world):
    for days, order in ((0, [0, 1]), (6, [1, 0]), (7, [1, 0])):
        world.search("a bird", [0, 1], order, at=MONDAY + dt.timedelta(days=days))
    _mark(world, world.search("a bird", [0], None), relevant=[1])
    weeks = summary.over_time(_read(world), "week")
    assert {day.isoformat(): one.recall_fine for day, one in weeks.items()} == {"2026-03-02": 0.5, "2026-03-09": 1}
    assert [day.day for day in summary.over_time(_read(world), "day")] == [2, 8, 9]


def test_settings_are_compared_on_their_common_queries(world):
    for text, right in (("a", 0), ("b", 1), ("c", 1)):
        search = world.search(text, [0, 1], [0, 1])
        _mark(world, search, relevant=[right])
    world.search("b", [0, 1], [0, 1], mode="choice")
    # the newer search of a query and settings replaces the older one
    world.search("b", [0, 1], [1, 0], mode="choice")
    world.search("d", [0], [0], mode="choice")
    first, second = summary.by_settings(_read(world))
    assert (first.setting.mode, len(first.searches), first.gain) == ("true_false", 3, None)
    assert first.means.recall_fine == pytest.approx(1 / 3)
    assert (second.setting.mode, len(second.searches), second.shared, second.gain) == ("choice", 1, 1, 1.0)
    assert summary.by_settings([]) == []


def test_two_scorers_are_two_settings(world):
    for text in ("a", "b"):
        _mark(world, world.search(text, [0, 1], [0, 1]), relevant=[1])
    world.search("a", [0, 1], [1, 0], scorer="other", scorer_version="v2")
    first, second = summary.by_settings(_read(world))
    assert (first.setting.scorer, len(first.searches)) == ("scorer", 2)
    assert (second.setting.scorer, second.shared, second.gain) == ("other", 1, 1.0)
