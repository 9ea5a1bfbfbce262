"""A pair is not scored again in another search, unless the score could be different."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.queue.test_dispatcher import Recorder
from tests.unit.stand_ins import FakeScorer, SilentNotifier, index, png, run, search, view_of

from retllm.db.searches import CachedScore
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item, new_id
from retllm.media.ingest import Ingest
from retllm.operations.maintenance import maintenance_tasks
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.worker import WorkerContext
from retllm.search import score_cache
from retllm.search.submit import StoredPicture


def _scorer(**named: object) -> FakeScorer:
    return FakeScorer(lambda content: (0.8, 0.25), **named)


@pytest.fixture
def texts(context: WorkerContext, world) -> list[str]:
    world.add_texts("red circle", "red square", "red moon")
    index(context, world)
    return ["red circle", "red square", "red moon"]


def _run_search(
    context: WorkerContext, world, scorer: FakeScorer | None = None, **fields: object
) -> tuple[FakeScorer, UUID]:
    scorer = scorer or _scorer()
    search_id = search(world, **{"text": "red", "k": 3} | fields)
    run(context, world, search_id, scorer)
    return scorer, search_id


def test_the_scores_of_the_same_pairs_in_another_search_come_from_the_cache(
    context: WorkerContext, world, texts: list[str]
) -> None:
    first, one = _run_search(context, world)
    again, two = _run_search(context, world)
    assert (len(first.asked), len(again.asked)) == (3, 0)
    before, after = view_of(world, one), view_of(world, two)
    assert [row.cached for row in before.candidates + after.candidates] == [False] * 3 + [True] * 3
    for column in ("text", "score", "log_odds", "entropy", "injected_layer", "uncertainty", "decided_by"):
        assert [getattr(row, column) for row in after.candidates] == [
            getattr(row, column) for row in before.candidates
        ], column
    assert (after.scorer_version, after.prompt_version) == (before.scorer_version, before.prompt_version)


def test_only_new_pairs_are_scored(context: WorkerContext, world, texts: list[str]) -> None:
    _run_search(context, world, k=1)
    world.add_texts("red star")
    index(context, world)
    again, _ = _run_search(context, world, k=4)
    assert len(again.asked) == 3
    assert "red star" in again.texts


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ({"text": "a red"}, "v1"),
        ({"mode": "choice"}, "v1"),
        ({"injection": {"alpha": 0.1}}, "v1"),
        ({}, "v2"),
    ],
)
def test_pairs_are_scored_again_for_another_query_mode_injection_or_scorer(
    context: WorkerContext, world, texts: list[str], fields: dict[str, object], version: str
) -> None:
    _run_search(context, world)
    again, _ = _run_search(context, world, _scorer(version=version), **fields)
    assert len(again.asked) == 3


def test_a_pair_with_a_changed_caption_is_scored_again(context: WorkerContext, world, texts: list[str]) -> None:
    _run_search(context, world)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Item).where(Item.text == "red moon").values(text="red sun"))
    again, _ = _run_search(context, world)
    assert again.texts == ["red sun"]


def test_the_score_of_the_same_picture_in_another_collection_is_reused(context: WorkerContext, world) -> None:
    for number in range(2):
        if number:
            with transaction(world.sessions) as session:
                other = Collection(id=new_id(), owner_id=world.user.id, name="others")
                session.add(other)
            world.collection_id = other.id
        ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
        for name, colour in (("red.png", (250, 0, 0)), ("blue.png", (0, 0, 250 - number))):
            ingest.add_picture(name, png(colour))
        index(context, world)
        scorer, search_id = _run_search(context, world, k=2)
        cached = {row.name for row in view_of(world, search_id).candidates if row.cached}
        assert (len(scorer.asked), cached) == ((2, set()), (1, {"red.png"}))[number]


def test_a_query_picture_is_identified_by_its_digest(context: WorkerContext, world, texts: list[str]) -> None:
    context.storage.put("queries/q/picture", png((0, 0, 240)))
    for digest, asked in (("1" * 64, 3), ("1" * 64, 0), ("2" * 64, 3)):
        search_id = search(world, StoredPicture("queries/q/picture", digest), k=3)
        scorer = _scorer()
        run(context, world, search_id, scorer)
        assert len(scorer.asked) == asked


def test_a_search_with_a_trace_uses_only_cached_scores_with_a_trace(
    context: WorkerContext, world, texts: list[str]
) -> None:
    _run_search(context, world)
    traced, _ = _run_search(context, world, trace=True)
    assert len(traced.asked) == 3
    again, two = _run_search(context, world, trace=True)
    assert len(again.asked) == 0
    assert [row.has_trace for row in view_of(world, two).candidates] == [True] * 3
    plain, three = _run_search(context, world)
    assert len(plain.asked) == 0
    assert [row.has_trace for row in view_of(world, three).candidates] == [False] * 3


def test_the_entropy_of_a_tie_comes_from_cached_true_false_scores(
    context: WorkerContext, world, texts: list[str]
) -> None:
    _run_search(context, world)
    written, search_id = _run_search(context, world, mode="verbalized")
    assert written.modes == ["verbalized"] * 3
    assert [row.entropy for row in view_of(world, search_id).candidates] == [0.25] * 3


def test_a_pair_without_a_score_is_scored_again(context: WorkerContext, world, texts: list[str]) -> None:
    silent = FakeScorer(lambda content: (None, None))
    _run_search(context, world, silent, mode="verbalized")
    again, _ = _run_search(context, world, mode="verbalized")
    assert again.modes.count("verbalized") == 3


def test_a_cache_of_size_zero_is_neither_filled_nor_used(context: WorkerContext, world, texts: list[str]) -> None:
    _run_search(context, world)
    off = WorkerContext(
        context.sessions,
        context.storage,
        world.settings.model_copy(update={"score_cache_rows": 0}),
        SilentNotifier(),
        "tester:2",
    )
    assert len(_run_search(off, world)[0].asked) == 3
    with transaction(world.sessions) as session:
        session.execute(sa.delete(CachedScore))
    _run_search(off, world)
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(CachedScore)) == 0


def _fill(world, count: int) -> None:
    with transaction(world.sessions) as session:
        for number in range(count):
            age = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, number)
            session.add(CachedScore(key=f"{number:02}", score=0.5, tokens=1, created_at=age))


def test_pruning_deletes_the_oldest_scores_beyond_the_limit(world) -> None:
    _fill(world, 9)
    with transaction(world.sessions) as session:
        assert score_cache.prune(session, 4) == 5
        assert sorted(session.scalars(sa.select(CachedScore.key))) == ["00", "01", "02", "03"]
        assert score_cache.prune(session, 4) == 0


def test_the_dispatcher_prunes_the_cache_periodically(world) -> None:
    _fill(world, 9)
    settings = world.settings.model_copy(update={"score_cache_rows": 6})
    dispatcher = Dispatcher(
        world.sessions, Recorder(), settings, maintenance_tasks(world.sessions, Recorder(), settings)
    )

    def rows() -> int:
        with transaction(world.sessions) as session:
            return session.scalar(sa.select(sa.func.count()).select_from(CachedScore)) or 0

    dispatcher.round()
    assert rows() == 6
    with transaction(world.sessions) as session:
        session.add(CachedScore(key="new", score=0.5, tokens=1))
    dispatcher.round()
    assert rows() == 7, "not pruned again before the next period"
