"""One search over several collections: what it is asked of, what it finds, and in which order."""

from __future__ import annotations

from uuid import uuid4

import pytest
import sqlalchemy as sa
from tests.factories import make_collection, store
from tests.unit.search.several import ask, expel, fill, key_of, person, seen, texts_of
from tests.unit.stand_ins import FakeScorer, run
from tests.unit.two_embedders import LETTERS, LETTERS_NAME, MAIN, both, even, set_up

from retllm.db.enums import JobState, Role, TokenScope
from retllm.db.searches import CachedScore, Search, SearchCollection
from retllm.db.session import transaction
from retllm.errors import Conflict, Forbidden, InvalidInput, NotFound
from retllm.identity.actor import Actor
from retllm.queue.worker import WorkerContext
from retllm.search import several
from retllm.search.request import SeveralRequest

TEXTS = ["red circle", "blue moon", "red square", "a circle", "red red circle", "green", "circle square red", "night"]


def test_the_order_is_that_of_one_collection_with_all_items(context: WorkerContext, world) -> None:
    keys = [fill(context, world, name, *TEXTS[start::3]) for start, name in enumerate("abc")]
    whole = fill(context, world, "whole", *TEXTS)
    parts = ask(world, keys, k=5)
    together = ask(world, [whole], k=5)
    for search_id in (parts, together):
        run(context, world, search_id, FakeScorer(even))
    found, expected = seen(world, parts), seen(world, together)
    assert [round(row.similarity or 0, 6) for row in found.candidates] == [
        round(row.similarity or 0, 6) for row in expected.candidates
    ]
    assert (found.searched_items, found.exact) == (len(TEXTS), True)
    assert [row.coarse_rank for row in found.candidates] == [1, 2, 3, 4, 5]


def test_a_result_says_which_collection_it_is_from(context: WorkerContext, world) -> None:
    one = fill(context, world, "one", "red circle", "night")
    two = fill(context, world, "two", "a red circle")
    search_id = ask(world, [two, one])
    run(context, world, search_id, FakeScorer(even))
    view = seen(world, search_id)
    named = {row.text: (row.collection_id, row.collection_name) for row in view.candidates}
    assert named == {"red circle": (one, "one"), "night": (one, "one"), "a red circle": (two, "two")}
    assert [(found.id, found.name) for found in view.collections] == [(one, "one"), (two, "two")]
    assert view.hidden_collections == 0
    assert (view.job.collection_id, view.job.collection_name) == (None, "2 collections")
    assert (view.job.state, view.job.progress) == (JobState.SUCCEEDED, 1.0)
    assert [stage.items_done for stage in view.job.stages] == [0, 3]


def test_the_filter_holds_in_each_collection(context: WorkerContext, world) -> None:
    keys = [fill(context, world, name, "red circle", "red moon", "night") for name in "ab"]
    search_id = ask(world, keys, filter='text ~ "red"', k=3)
    run(context, world, search_id, FakeScorer(even))
    assert sorted(map(str, texts_of(seen(world, search_id)))) == ["red circle", "red circle", "red moon"]


def test_captions_of_all_collections_are_ranked_together(context: WorkerContext, world) -> None:
    keys = [fill(context, world, "a", "a red circle", "night"), fill(context, world, "b", "red red circle", "moon")]
    search_id = ask(world, keys, coarse={"embedders": [], "captions": True})
    run(context, world, search_id, FakeScorer(even))
    view = seen(world, search_id)
    assert [row.sources["captions"].rank for row in view.candidates if row.sources] == [1, 2]
    scores = [row.sources["captions"].score for row in view.candidates if row.sources]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    (source,) = view.sources
    assert (source.searched, source.found, source.revision) == (4, 2, "english")


def test_collections_with_other_main_embedders_are_fused_by_rank(context: WorkerContext, world) -> None:
    one = fill(context, world, "main", "red circle", "blue moon")
    main = world.settings.embedder
    context = set_up(context, world, embedder=LETTERS_NAME)
    two = fill(context, world, "letters", "dire circle", "night", embedders=both, embedder=LETTERS)
    context = set_up(context, world, embedder=main, extra_embedders=[LETTERS_NAME])
    search_id = ask(world, [one, two])
    run(context, world, search_id, FakeScorer(even), both)
    view = seen(world, search_id)
    assert view.embedder == MAIN
    assert {row.text: sorted(row.sources or {}) for row in view.candidates} == {
        "red circle": [MAIN],
        "blue moon": [MAIN],
        "dire circle": [LETTERS],
        "night": [LETTERS],
    }
    # first of both, then the second of both
    assert sorted(map(str, texts_of(view)[:2])) == ["dire circle", "red circle"]


def test_a_named_collection_that_cannot_be_searched_is_refused_by_name(context: WorkerContext, world) -> None:
    full = fill(context, world, "full", "red circle")
    with transaction(world.sessions) as session:
        empty, raw = make_collection(world.user.id, "none yet"), make_collection(world.user.id, "raw")
        store(session, empty, raw)
    world.collection_id = raw.id
    world.add_texts("not indexed")
    with pytest.raises(Conflict, match=r"Empty: “none yet”\. Not indexed with local-dir:embedder yet: “raw”\."):
        ask(world, [full, empty.id, raw.id])
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Search)) == 0


def test_all_are_those_that_the_account_may_search_now(context: WorkerContext, world) -> None:
    mine = fill(context, world, "mine", "red circle")
    other = person(world, "bob", role=Role.EDITOR)
    fill(context, world, "bob's own", "red square", owner_id=other.id)
    shared = fill(context, world, "shared", "red moon", owner_id=other.id, visibility="everyone")
    with transaction(world.sessions) as session:
        store(session, make_collection(world.user.id, "empty"))
    search_id = ask(world, "all")
    run(context, world, search_id, FakeScorer(even))
    fill(context, world, "later", "red night")
    view = seen(world, search_id)
    assert {found.id for found in view.collections} == {mine, shared}
    assert sorted(map(str, texts_of(view))) == ["red circle", "red moon"]
    assert world.job(search_id).params["collections"] == "all"


def test_too_many_collections_are_refused(context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        fill(context, world, name, "red circle")
    monkeypatch.setattr(several, "MAX_COLLECTIONS", 2)
    with pytest.raises(InvalidInput, match="You may search 3 collections, and one search takes 2 at most"):
        ask(world, "all")
    with pytest.raises(ValueError, match="at most 100"):
        SeveralRequest(text="x", collections=[uuid4() for _ in range(101)])


def test_without_anything_to_search_the_request_is_refused(world) -> None:
    with pytest.raises(Conflict, match="is empty: upload something first"):
        ask(world, "all")
    world.add_texts("not indexed")
    with pytest.raises(Conflict, match="Not indexed with local-dir:embedder yet: “papers”"):
        ask(world, "all")


def test_a_collection_that_the_account_may_not_see_is_not_found(context: WorkerContext, world) -> None:
    mine = fill(context, world, "mine", "red circle")
    other = person(world, "bob", role=Role.EDITOR)
    private = fill(context, world, "private", "red circle", owner_id=other.id)
    with pytest.raises(NotFound, match=str(private)):
        ask(world, [mine, private])


def test_the_same_key_gives_the_same_search(context: WorkerContext, world) -> None:
    keys = [fill(context, world, name, "red circle") for name in "ab"]
    first = ask(world, keys, key="k")
    assert ask(world, keys, key="k") == first
    with pytest.raises(Conflict, match="different request"):
        ask(world, keys[::-1], key="k")
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(SearchCollection)) == 2


def test_a_score_of_a_search_of_one_is_used_again(context: WorkerContext, world) -> None:
    keys = [fill(context, world, name, text) for name, text in (("a", "red circle"), ("b", "a red circle"))]
    first, second = ask(world, keys), ask(world, keys)
    for search_id in (first, second):
        run(context, world, search_id, FakeScorer(even))
    assert [row.cached for row in seen(world, second).candidates] == [True, True]
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(CachedScore)) == 2


def test_nothing_is_claimed_about_matches(context: WorkerContext, world) -> None:
    """The threshold is learned in each collection by itself."""
    key = fill(context, world, "many", *(f"red {number}" for number in range(60)))
    other = fill(context, world, "other", "red circle")
    world.collection_id = key
    scorer = FakeScorer(lambda content: (0.99 if (content.text or "").endswith("7") else 0.01, 0.1))
    search_id = ask(world, [key, other], k=61)
    run(context, world, search_id, scorer)
    view = seen(world, search_id)
    assert (view.match_threshold, view.no_match) == (None, None)


def test_an_account_that_loses_a_right_no_longer_sees_what_was_found_there(context: WorkerContext, world) -> None:
    kept = fill(context, world, "kept", "red circle", "red moon")
    lost = fill(context, world, "lost", "a red circle")
    asker = person(world, "vera", kept, lost)
    search_id = ask(world, [kept, lost], actor=asker)
    run(context, world, search_id, FakeScorer(even))
    assert len(seen(world, search_id, asker).candidates) == 3
    expel(world, asker, lost)
    view = seen(world, search_id, asker)
    assert sorted(map(str, texts_of(view))) == ["red circle", "red moon"]
    assert ([found.name for found in view.collections], view.hidden_collections) == (["kept"], 1)
    assert "lost" not in view.model_dump_json()
    expel(world, asker, kept)
    with pytest.raises(NotFound):
        seen(world, search_id, asker)


def test_another_member_sees_what_was_found_in_their_collections(context: WorkerContext, world) -> None:
    open_to_both = fill(context, world, "open", "red circle")
    own = fill(context, world, "own", "a red circle")
    search_id = ask(world, [open_to_both, own])
    run(context, world, search_id, FakeScorer(even))
    member, stranger = person(world, "vera", open_to_both), person(world, "walt")
    view = seen(world, search_id, member)
    assert (texts_of(view), view.hidden_collections) == (["red circle"], 1)
    assert "own" not in {found.name for found in view.collections}
    with pytest.raises(NotFound):
        seen(world, search_id, stranger)


def test_without_the_scope_nothing_can_be_searched(context: WorkerContext, world) -> None:
    keys = [fill(context, world, name, "red circle") for name in "ab"]
    for collections in (keys, "all"):
        with pytest.raises(Forbidden):
            ask(world, collections, actor=Actor(world.user.user, TokenScope.READ))


def test_an_item_keeps_its_rank_where_others_are_left_out(context: WorkerContext, world) -> None:
    first = fill(context, world, "first", "red circle")
    second = fill(context, world, "second", "a red circle on red")
    search_id = ask(world, [first, second])
    run(context, world, search_id, FakeScorer(even))
    (row,) = seen(world, search_id, person(world, "vera", second)).candidates
    assert (row.rank, row.item_id) == (2, key_of(world, "a red circle on red"))
