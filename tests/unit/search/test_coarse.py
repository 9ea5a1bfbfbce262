"""Several sources of candidates: a search fuses the available sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, png, run, search, view_of
from tests.unit.two_embedders import (
    LETTERS,
    LETTERS_NAME,
    MAIN,
    Letters,
    add_pictures,
    both,
    even,
    letters_are_broken,
    set_up,
)

from retllm import embedding
from retllm.db.enums import ItemKind, JobState, Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.searches import Candidate, Search
from retllm.db.session import transaction
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item, new_id
from retllm.errors import Conflict, InvalidInput, ModelUnavailable
from retllm.indexing import vector_indexes
from retllm.queue.worker import WorkerContext
from retllm.search import coarse, neighbours
from retllm.search.captions import by_captions
from retllm.search.rrf import reciprocal_rank_fusion
from retllm.search.submit import StoredPicture


@pytest.fixture
def context(context: WorkerContext, world) -> WorkerContext:
    """A context with two embedders; only the picture of an item with picture and text is embedded."""
    return set_up(context, world, extra_embedders=(LETTERS_NAME,), item_image_weight=1.0)


def test_captions_find_items_that_the_embedder_cannot_find(context: WorkerContext, world) -> None:
    """The embedder compares colours of pictures or words of texts, but not pictures with texts."""
    main_only = set_up(context, world, extra_embedders=())
    add_pictures(main_only, world, a="two circling birds", b="a harbour at night", c=None, d=None, e=None)
    index(main_only, world)
    without = search(world, text="where the bird circles", k=5)
    run(main_only, world, without, FakeScorer(even))
    assert view_of(world, without).candidates[-1].name == "a.png"
    with_captions = search(world, text="where the bird circles", k=5, coarse={"captions": True})
    run(main_only, world, with_captions, FakeScorer(even))
    view = view_of(world, with_captions)
    first = view.candidates[0]
    assert (first.name, first.coarse_rank, len(view.candidates)) == ("a.png", 1, 5)
    assert set(first.sources) == {MAIN, "captions"}
    assert (first.sources[MAIN].rank, first.sources["captions"].rank) == (5, 1)
    assert first.sources["captions"].score > 0
    assert first.sources[MAIN].similarity == pytest.approx(first.similarity, abs=1e-6)
    assert [list(row.sources) for row in view.candidates[1:]] == [[MAIN]] * 4
    sources = [(source.name, source.kind, source.searched, source.found, source.unused) for source in view.sources]
    assert sources == [(MAIN, "embedder", 5, 5, None), ("captions", "captions", 2, 1, None)]


def test_two_embedders_and_the_captions_are_fused_by_their_ranks(context: WorkerContext, world) -> None:
    texts = ["red circle", "crimson disc", "rice cried led", "blue moon", "red square", "circled", "dire circle"]
    world.add_texts(*texts)
    index(context, world, both)
    search_id = search(world, text="red circle", k=4, coarse={"captions": True})
    run(context, world, search_id, FakeScorer(even), both)
    view = view_of(world, search_id)

    def by(embedder: FakeEmbedder | Letters) -> list[str]:
        nearness = embedder.embed_texts(texts) @ embedder.embed_texts(["red circle"])[0]
        return [texts[place] for place in np.argsort(-nearness, kind="stable")]

    # any word of the query, in any form
    with_a_word = {"red circle", "red square", "circled", "dire circle"}
    rankings = {MAIN: by(FakeEmbedder()), LETTERS: by(Letters())}
    for row in view.candidates:
        assert {name: place.rank for name, place in row.sources.items() if name != "captions"} == {
            name: ranking.index(row.text) + 1 for name, ranking in rankings.items()
        }
        assert ("captions" in row.sources) is (row.text in with_a_word)
    with world.sessions() as session:
        names = {item.id: item.text for item in session.scalars(sa.select(Item))}
        matches = by_captions(
            session, session.get_one(Collection, world.collection_id), "red circle", 100, list(ItemKind)
        )
    expected = reciprocal_rank_fusion({**rankings, "captions": [names[match.item_id] for match in matches]})
    assert [row.text for row in view.candidates] == [entry.key for entry in expected][:4]
    cosines = dict(
        zip(texts, FakeEmbedder().embed_texts(texts) @ FakeEmbedder().embed_texts(["red circle"])[0], strict=True)
    )
    for row in view.candidates:
        assert row.similarity == pytest.approx(cosines[row.text], abs=1e-5)


@pytest.mark.parametrize("captions", [False, True])
def test_a_search_whose_filter_takes_too_long_fails_and_says_so(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch, captions: bool
) -> None:
    add_pictures(context, world, a="a robin")
    index(context, world, embedders=both)
    monkeypatch.setattr(coarse, "_FILTER_SECONDS", 0.2)
    monkeypatch.setattr(coarse, "condition", lambda _: sa.text("(SELECT pg_sleep(60)) IS NULL"))
    slow = search(world, text="a robin", filter="name ~ a", coarse={"captions": captions})
    run(context, world, slow, FakeScorer(even), embedders=both)
    with world.sessions() as session:
        (unit,) = session.scalars(sa.select(Unit).filter_by(job_id=slow))
        assert (unit.state, unit.attempt) == (UnitState.DEAD, 1)
        assert "takes longer than 0.2 s" in (unit.error or "")


def test_candidates_are_inserted_in_the_order_of_their_items(
    context: WorkerContext, world, request: pytest.FixtureRequest
) -> None:
    """Each row locks its item, and other transactions lock items in this order."""
    inserted: list[UUID] = []

    def note(_mapper: Any, _connection: Any, candidate: Candidate) -> None:
        inserted.append(candidate.item_id)

    sa.event.listen(Candidate, "before_insert", note)
    request.addfinalizer(lambda: sa.event.remove(Candidate, "before_insert", note))
    world.add_texts("red", "red circle", "red circle and moon")
    index(context, world, both)
    search_id = search(world, text="red circle and moon", k=3)
    run(context, world, search_id, FakeScorer(even), both)
    ranked = sorted(view_of(world, search_id).candidates, key=lambda row: row.coarse_rank)
    assert inserted == [row.item_id for row in ranked[::-1]] == sorted(inserted)


def test_a_search_skips_an_embedder_that_is_not_indexed_yet_and_reports_it(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "blue moon")
    index(set_up(context, world, extra_embedders=()), world)
    set_up(context, world, extra_embedders=(LETTERS_NAME,))
    # it is not even loaded; otherwise the search would give another reason
    search_id = search(world, text="red circle", k=2)
    run(context, world, search_id, FakeScorer(even), letters_are_broken)
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    assert [row.text for row in view.candidates] == ["red circle", "blue moon"]
    assert [list(row.sources) for row in view.candidates] == [[MAIN], [MAIN]]
    main, letters = view.sources
    assert (main.revision, main.found, main.unused) == ("r1", 2, None)
    assert (letters.found, letters.unused) == (None, "The collection is not indexed with it yet: submit an index job.")


def test_a_search_skips_an_embedder_that_cannot_be_loaded_and_reports_the_reason(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "blue moon")
    index(context, world, both)
    search_id = search(world, text="red circle", k=2)
    run(context, world, search_id, FakeScorer(even), letters_are_broken)
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    assert [(source.name, source.unused) for source in view.sources] == [
        (MAIN, None),
        (LETTERS, "There is no folder /models/letters."),
    ]


def test_a_search_is_retried_if_its_only_embedder_cannot_be_loaded(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "blue moon")
    index(context, world, both)
    search_id = search(world, text="red circle", k=2, coarse={"embedders": [LETTERS]})
    run(context, world, search_id, FakeScorer(even), _broken_once())
    (coarse,) = world.units(search_id, Stage.COARSE)
    assert (coarse.state, coarse.attempt) == (UnitState.DONE, 2)
    view = view_of(world, search_id)
    assert [source.name for source in view.sources] == [LETTERS]
    assert [list(row.sources) for row in view.candidates] == [[LETTERS], [LETTERS]]
    nearness = FakeEmbedder().embed_texts(["red circle", "blue moon"]) @ FakeEmbedder().embed_texts(["red circle"])[0]
    assert [row.similarity for row in view.candidates] == pytest.approx(nearness.tolist(), abs=1e-5)


def _broken_once() -> Callable[[str], Any]:
    tries: list[str] = []

    def embedders(name: str) -> Any:
        tries.append(name)
        return letters_are_broken(name) if tries.count(LETTERS_NAME) < 2 else both(name)

    return embedders


def test_the_other_embedders_are_used_while_the_main_one_is_not_indexed(context: WorkerContext, world) -> None:
    """For example after a change of the main embedder; candidates without its embedding have no similarity."""
    world.add_texts("red circle", "blue moon")
    as_main = set_up(context, world, embedder=LETTERS_NAME, extra_embedders=())
    index(as_main, world, both)
    now = set_up(context, world, embedder="local-dir:/models/embedder", extra_embedders=(LETTERS_NAME,))
    search_id = search(world, text="red circle", k=2, fusion_weight=1)
    scorer = FakeScorer(lambda content: (0.4, 0.1) if content.text == "red circle" else (0.6, 0.1))
    run(now, world, search_id, scorer, both)
    view = view_of(world, search_id)
    assert [row.text for row in view.candidates] == ["blue moon", "red circle"]
    assert [row.similarity for row in view.candidates] == [None, None]
    assert [row.fused for row in view.candidates] == [row.log_odds for row in view.candidates]
    assert [source.unused is None for source in view.sources] == [False, True]


def test_captions_find_an_item_added_after_indexing_and_it_has_no_similarity(context: WorkerContext, world) -> None:
    world.add_texts("blue moon", "green sea")
    index(context, world, both)
    world.add_texts("red circle")
    search_id = search(world, text="red circle", k=3, coarse={"captions": True, "embedders": [MAIN]}, fusion_weight=0.5)
    run(context, world, search_id, FakeScorer(even), both)
    view = view_of(world, search_id)
    late = next(row for row in view.candidates if row.text == "red circle")
    assert (late.similarity, list(late.sources), late.fused) == (None, ["captions"], pytest.approx(late.log_odds))
    assert all(row.similarity is not None for row in view.candidates if row is not late)


def test_a_search_in_captions_only_needs_no_index(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "blue moon")
    with pytest.raises(Conflict, match=f"not indexed with {MAIN} or {LETTERS} yet"):
        search(world, text="red circle")
    search_id = search(world, text="the circles", coarse={"captions": True, "embedders": []})
    run(context, world, search_id, FakeScorer(even), both)
    view = view_of(world, search_id)
    assert [(row.text, row.similarity) for row in view.candidates] == [("red circle", None)]
    assert [source.name for source in view.sources] == ["captions"]


def test_a_picture_query_does_not_search_captions_and_reports_it(context: WorkerContext, world) -> None:
    add_pictures(context, world, a="a harbour", b=None)
    index(context, world, both)
    context.storage.put("queries/q/picture", png((50, 90, 170)))
    query = StoredPicture("queries/q/picture", "0" * 64)
    search_id = search(world, query, k=2, coarse={"captions": True})
    run(context, world, search_id, FakeScorer(even), both)
    view = view_of(world, search_id)
    assert view.candidates[0].name == "b.png"
    assert {name for row in view.candidates for name in row.sources} == {MAIN, LETTERS}
    assert [(source.name, source.unused is None) for source in view.sources] == [
        (MAIN, True),
        (LETTERS, True),
        ("captions", False),
    ]
    with pytest.raises(InvalidInput, match="no text to look for in captions"):
        search(world, query, coarse={"captions": True, "embedders": []})


@pytest.mark.parametrize(
    ("coarse", "message"),
    [
        ({"embedders": []}, "no source of candidates"),
        ({"embedders": [], "captions": False}, "no source of candidates"),
        ({"embedders": [MAIN, "hf-hub:org/other"]}, "hf-hub:org/other is not a configured embedder"),
    ],
)
def test_a_search_without_a_source_or_with_an_unknown_one_is_refused(
    context: WorkerContext, world, coarse: dict[str, object], message: str
) -> None:
    world.add_texts("red circle")
    index(context, world, both)
    with pytest.raises(InvalidInput, match=message):
        search(world, text="red", coarse=coarse)


def _plan(world, **fields: object) -> dict[str, Any] | None:
    with world.sessions() as session:
        return session.get_one(Search, search(world, text="red", **fields)).coarse


def test_the_sources_of_a_search_are_stored_with_it_and_default_to_the_settings(context: WorkerContext, world) -> None:
    world.add_texts("red circle")
    index(context, world, both)
    everything = {"captions": False, "embedders": [MAIN, LETTERS], "depth": 100, "rrf_k": 60}
    assert _plan(world) == everything
    assert _plan(world, k=80) == everything | {"depth": 160}
    assert _plan(world, coarse={"embedders": [MAIN]}) is None
    assert _plan(world, coarse={"embedders": [LETTERS_NAME, LETTERS_NAME]}) == everything | {"embedders": [LETTERS]}
    set_up(context, world, coarse_captions=True, extra_embedders=())
    assert _plan(world) == everything | {"captions": True, "embedders": [MAIN]}
    assert _plan(world, coarse={"captions": False}) is None
    assert _plan(world, coarse={}) == _plan(world)


def test_a_search_with_only_the_main_embedder_has_it_as_its_source(context: WorkerContext, world) -> None:
    main_only = set_up(context, world, extra_embedders=())
    world.add_texts("red circle", "blue moon")
    index(main_only, world)
    search_id = search(world, text="red", k=1)
    (source,) = view_of(world, search_id).sources
    assert (source.name, source.revision, source.searched, source.found) == (MAIN, None, None, None)
    run(main_only, world, search_id, FakeScorer(even))
    view = view_of(world, search_id)
    (source,) = view.sources
    assert (source.name, source.revision, source.searched, source.found) == (MAIN, "r1", 2, 1)
    assert view.candidates[0].sources is None


def test_sources_without_a_result_yet_are_listed(context: WorkerContext, world) -> None:
    world.add_texts("red circle")
    index(context, world, both)
    view = view_of(world, search(world, text="red", coarse={"captions": True}))
    assert [(source.name, source.found, source.unused) for source in view.sources] == [
        (MAIN, None, None),
        (LETTERS, None, None),
        ("captions", None, None),
    ]


@pytest.mark.slow
def test_real_encoders_are_indexed_and_fused(context: WorkerContext, world, tmp_path: Path) -> None:
    # imports torch and open_clip, which the other tests do not need
    from tests.unit.embedding.conftest import save_clip

    folders = [save_clip(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]
    names = [f"local-dir:{folder}" for folder in folders]
    loaded = {name: embedding.load_embedder(name, device="cpu") for name in names}
    served = set_up(context, world, embedder=names[0], extra_embedders=(names[1],))
    add_pictures(served, world, a=None, b=None, c=None, d=None, e=None)
    assert world.job(index(served, world, loaded.__getitem__)).state is JobState.SUCCEEDED
    search_id = search(world, text="a red bird", k=5)
    run(served, world, search_id, FakeScorer(even), loaded.__getitem__)
    view = view_of(world, search_id)
    pictures = {f"{name}.png": png((10 + 40 * n, 90, 200 - 30 * n)) for n, name in enumerate("abcde")}
    rankings, cosines = {}, {}
    for name, embedder in loaded.items():
        images = embedder.embed_images([Image.open(stream) for stream in pictures.values()])
        nearness = dict(zip(pictures, images @ embedder.embed_texts(["a red bird"])[0], strict=True))
        rankings[name] = sorted(nearness, key=lambda one: -nearness[one])
        cosines[name] = nearness
    assert [row.name for row in view.candidates] == [entry.key for entry in reciprocal_rank_fusion(rankings)]
    for row in view.candidates:
        assert row.similarity == pytest.approx(cosines[names[0]][row.name], abs=1e-5)
        assert row.sources["local-dir:second"].similarity == pytest.approx(cosines[names[1]][row.name], abs=1e-5)


@pytest.mark.slow
def test_a_search_has_all_possible_candidates_even_if_another_collection_is_nearer(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has an index of its own, made by its index job."""
    monkeypatch.setattr(vector_indexes, "EXACT_LIMIT", 0)
    monkeypatch.setattr(neighbours, "_SCANNED", 0)
    monkeypatch.setattr(neighbours, "_LEAST_SCANNED", 1)
    context = set_up(context, world, index_unit_items=200)
    ours = world.collection_id
    with transaction(world.sessions) as session:
        crowd = Collection(id=new_id(), owner_id=world.user.id, name="crowd")
        session.add(crowd)
    world.collection_id = crowd.id
    world.add_texts(*(f"red square {n}" for n in range(150)))
    index(context, world, both)
    world.collection_id = ours
    world.add_texts(*(f"blue moon {n}" for n in range(20)))
    index(context, world, both)
    for sources in (None, {"captions": True}, {"embedders": [MAIN, LETTERS]}):
        for k in (3, 10, 50):
            search_id = search(world, text="red square", k=k, coarse=sources)
            run(context, world, search_id, FakeScorer(even), both)
            view = view_of(world, search_id)
            assert world.job(search_id).state is JobState.SUCCEEDED
            assert view.searched_items == 20
            assert len(view.candidates) == min(k, 20)
            assert {row.name.partition(" ")[0] for row in view.candidates} == {"blue"}
            by_embedder = [source for source in view.sources if source.kind == "embedder"]
            assert {source.searched for source in by_embedder} == {20}
            # each source is asked for more than there are
            assert view.exact is True
            assert all(source.exact for source in by_embedder)


def test_the_searched_items_are_counted_for_each_embedder_and_in_total(context: WorkerContext, world) -> None:
    world.add_texts("red", "green")
    index(set_up(context, world, extra_embedders=()), world)
    both_serve = set_up(context, world, extra_embedders=(LETTERS_NAME,))
    world.add_texts("blue", "violet", "grey")
    index(both_serve, world, lambda name: Letters() if name == LETTERS_NAME else _broken())
    with transaction(world.sessions) as session:
        letters = sa.select(EmbeddingModel.id).filter_by(name=LETTERS).scalar_subquery()
        first = sa.select(Item.id).where(Item.name.in_(["red", "green"]))
        session.execute(sa.delete(Embedding).where(Embedding.model_id == letters, Embedding.item_id.in_(first)))
    search_id = search(world, text="red", k=10)
    run(both_serve, world, search_id, FakeScorer(even), both)
    view = view_of(world, search_id)
    assert {source.name: source.searched for source in view.sources} == {MAIN: 2, LETTERS: 3}
    assert len(view.candidates) == view.searched_items == 5


def _broken() -> Any:
    raise ModelUnavailable("There is no folder /models/embedder.")
