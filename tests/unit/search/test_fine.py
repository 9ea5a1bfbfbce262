"""The fine stage makes second passes, learns thresholds and stores traces only as the scores and the search require."""

from __future__ import annotations

import math
import statistics
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.factories import make_collection
from tests.unit.search.pools import UNLIKELY, fails_for, pool_of, scores_of
from tests.unit.stand_ins import FakeScorer, run, search, view_of

from retllm.db.enums import DecidedBy, ItemKind, JobState, Stage
from retllm.db.searches import Score, Search
from retllm.db.session import transaction
from retllm.errors import NotFound
from retllm.fine import learn_threshold
from retllm.history import control
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.queue.worker import WorkerContext
from retllm.search.views import trace_of


def test_tied_verbalized_scores_are_ordered_by_the_entropy_of_a_second_pass(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 4, mode="verbalized")
    entropies = {texts[0]: 0.9, texts[1]: 0.5, texts[2]: 0.2, texts[3]: 0.7}
    scores = {texts[0]: 0.8, texts[1]: 0.31, texts[2]: 0.801, texts[3]: 0.6}
    scorer = FakeScorer(lambda content: (scores[content.text or ""], entropies[content.text or ""]))
    run(context, world, search_id, scorer)
    assert scorer.texts == [*texts, texts[0], texts[2]]
    assert scorer.modes == ["verbalized"] * 4 + ["true_false"] * 2
    view = view_of(world, search_id)
    assert (view.mode, view.tie_decimals, view.job.state) == ("verbalized", 2, JobState.SUCCEEDED)
    assert [row.text for row in view.candidates] == [texts[2], texts[0], texts[3], texts[1]]
    assert [row.entropy for row in view.candidates] == [0.2, 0.9, None, None]
    assert [row.score for row in view.candidates] == [0.801, 0.8, 0.6, 0.31]
    assert view.candidates[0].decided_by is DecidedBy.ENTROPY
    assert view.scorer_version == "v1:0.3:verbalized"
    (fine,) = [stage for stage in view.job.stages if stage.stage is Stage.FINE]
    assert (fine.items_total, fine.items_done) == (4, 4)


def test_a_tie_whose_second_pass_fails_keeps_its_scores_and_can_be_retried(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 2, mode="verbalized")

    class NoSecondPass(FakeScorer):
        def score(self, query, candidates, injection, *, mode, trace):
            if mode == "true_false" and any(content.text == texts[1] for content in candidates):
                raise RuntimeError("out of memory")
            return super().score(query, candidates, injection, mode=mode, trace=trace)

    run(context, world, search_id, NoSecondPass(scores_of({}, 0.8, entropy=0.4)))
    view = view_of(world, search_id)
    assert view.job.state is JobState.PARTIAL
    assert [(row.score, row.entropy, row.error) for row in view.candidates] == [(0.8, 0.4, None), (0.8, None, None)]
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
    scorer = FakeScorer(scores_of({}, 0.8, entropy=0.3))
    run(context, world, search_id, scorer)
    assert (scorer.texts, scorer.modes) == ([texts[1]], ["true_false"])
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    assert [(row.text, row.entropy) for row in view.candidates] == [(texts[1], 0.3), (texts[0], 0.4)]


def test_an_answer_without_a_score_gives_an_error_and_the_candidate_keeps_its_coarse_rank(
    context: WorkerContext, world
) -> None:
    search_id, texts = pool_of(context, world, 4, mode="verbalized")
    run(context, world, search_id, FakeScorer(scores_of({texts[0]: 0.2, texts[1]: None, texts[2]: 0.9, texts[3]: 0.5})))
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    assert [row.text for row in view.candidates] == [texts[2], texts[1], texts[3], texts[0]]
    assert view.candidates[1].error == "It wrote no number."
    assert (view.candidates[1].score, view.candidates[1].decided_by) == (None, DecidedBy.COARSE)


def test_fusion_orders_by_log_odds_and_similarity(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 4, fusion_weight=3.0)
    scores = {texts[0]: 0.6, texts[1]: 0.61, texts[2]: 0.62, texts[3]: 0.999}
    run(context, world, search_id, FakeScorer(scores_of(dict(scores))))
    rows = {row.text: row for row in view_of(world, search_id).candidates}
    similarities = [rows[text].similarity for text in texts]
    mean, deviation = statistics.fmean(similarities), statistics.pstdev(similarities)
    expected = {
        text: math.log(scores[text] / (1 - scores[text])) + 3.0 * (rows[text].similarity - mean) / deviation
        for text in texts
    }
    for text in texts:
        assert rows[text].fused == pytest.approx(expected[text], abs=1e-5)
    assert list(rows) == sorted(texts, key=lambda text: -expected[text])
    assert list(rows) != sorted(texts, key=lambda text: -scores[text])


def test_without_fusion_candidates_have_no_fused_value(context: WorkerContext, world) -> None:
    search_id, _ = pool_of(context, world, 2)
    run(context, world, search_id, FakeScorer(scores_of({})))
    view = view_of(world, search_id)
    assert view.fusion_weight == 0
    assert [row.fused for row in view.candidates] == [None, None]
    assert [row.log_odds for row in view.candidates] == pytest.approx([math.log(0.05 / 0.95)] * 2)


@pytest.mark.parametrize("best", [0.51, 0.49])
def test_with_few_scores_nothing_is_claimed(context: WorkerContext, world, best: float) -> None:
    search_id, texts = pool_of(context, world, 3)
    assert view_of(world, search_id).no_match is None
    run(context, world, search_id, FakeScorer(scores_of({texts[2]: best})))
    view = view_of(world, search_id)
    assert (view.no_match, view.match_threshold) == (None, None)


def _fill(world, search_id: UUID, version: str, low: float, high: float, *, cached: bool = False) -> list[float]:
    """Add scores of another search in two clusters of log-odds: 200 about ``low``, 50 about ``high``."""
    values = [low + offset / 100 for offset in range(-100, 100)] + [high + offset / 25 for offset in range(-25, 25)]
    with transaction(world.sessions) as session:
        item_id = session.scalars(sa.select(Score.item_id).filter_by(search_id=search_id)).first()
        # the key allows only one row for each version, so the candidates are invented
        session.execute(
            sa.text(
                """
                WITH made AS (
                    INSERT INTO items (id, collection_id, kind, state, name, content_sha256, version, size_bytes)
                    SELECT gen_random_uuid(), collection_id, 'text', 'ready', 'x', 'x' || :tag || n, 1, 1
                    FROM items, generate_series(1, :count) n WHERE id = :item
                    RETURNING id
                ), pooled AS (
                    INSERT INTO candidates (search_id, item_id, token, coarse_rank, similarity)
                    SELECT :search, id, gen_random_uuid(), 1000 + row_number() OVER (), 0 FROM made
                    RETURNING search_id, item_id, coarse_rank
                )
                INSERT INTO scores (search_id, item_id, token, scorer_version, score, entropy, log_odds, tokens, cached)
                SELECT
                    search_id, item_id, gen_random_uuid(), :version, 0.5, 0.1,
                    (CAST(:values AS float8[]))[coarse_rank - 1000], 1, :cached
                FROM pooled
                """
            ),
            {
                "tag": f"{version} {cached}",
                "count": len(values),
                "item": item_id,
                "search": search_id,
                "version": version,
                "values": values,
                "cached": cached,
            },
        )
    return values


def test_the_match_threshold_is_learned_from_the_scores_of_the_same_scorer(context: WorkerContext, world) -> None:
    earlier, _ = pool_of(context, world, 3)
    run(context, world, earlier, FakeScorer(scores_of({})))
    values = _fill(world, earlier, "v1:0.3", low=-12.0, high=-6.0)
    # scores of another scorer and cached scores do not count
    _fill(world, earlier, "another", low=2.0, high=20.0)
    _fill(world, earlier, "v1:0.3", low=-9.0, high=30.0, cached=True)
    match, nothing = (search(world, text=f"red {n}", k=2) for n in range(2))
    run(context, world, match, FakeScorer(scores_of({}, 0.01)))
    run(context, world, nothing, FakeScorer(scores_of({}, 1e-6)))
    found = view_of(world, match)
    scored = [math.log(UNLIKELY / (1 - UNLIKELY))] * 3 + [math.log(0.01 / 0.99)] * 2
    expected = learn_threshold(values + scored)
    assert expected is not None
    assert -11 < expected.value < -7
    assert found.match_threshold == pytest.approx(expected.value, abs=1e-6)
    assert found.no_match is False
    assert view_of(world, nothing).no_match is True


def test_scores_in_other_collections_do_not_move_the_threshold(context: WorkerContext, world) -> None:
    own = world.collection_id
    with transaction(world.sessions) as session:
        other = make_collection(world.user.id, "other")
        session.add(other)
    world.collection_id = other.id
    elsewhere, _ = pool_of(context, world, 3)
    run(context, world, elsewhere, FakeScorer(scores_of({}, 0.9)))
    _fill(world, elsewhere, "v1:0.3", low=-1.0, high=9.0)
    world.collection_id = own
    search_id, _ = pool_of(context, world, 3)
    run(context, world, search_id, FakeScorer(scores_of({}, 0.9)))
    assert (view_of(world, search_id).match_threshold, view_of(world, search_id).no_match) == (None, None)


def test_scores_of_queries_of_another_kind_do_not_move_the_threshold(context: WorkerContext, world) -> None:
    by_picture, _ = pool_of(context, world, 3)
    run(context, world, by_picture, FakeScorer(scores_of({}, 0.9)))
    _fill(world, by_picture, "v1:0.3", low=-1.0, high=9.0)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Search).where(Search.id == by_picture).values(kind=ItemKind.IMAGE))
    search_id, _ = pool_of(context, world, 3)
    run(context, world, search_id, FakeScorer(scores_of({}, 0.9)))
    assert (view_of(world, search_id).match_threshold, view_of(world, search_id).no_match) == (None, None)


def test_a_match_is_unknown_if_nothing_was_scored_or_the_job_is_retried(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 3, mode="verbalized")
    run(context, world, search_id, FakeScorer(scores_of({}, None)))
    assert view_of(world, search_id).no_match is None

    _fill(world, search_id, "v1:0.3", low=0.0, high=9.0)
    search_id, texts = pool_of(context, world, 3)
    run(context, world, search_id, FakeScorer(fails_for(texts[0])))
    assert view_of(world, search_id).no_match is True
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
        assert session.get_one(Search, search_id).no_match is None
    assert view_of(world, search_id).no_match is None


def test_a_trace_is_stored_only_if_requested(context: WorkerContext, world) -> None:
    search_id, _ = pool_of(context, world, 2, trace=True)
    run(context, world, search_id, FakeScorer(scores_of({})))
    view = view_of(world, search_id)
    assert view.trace
    assert all(row.has_trace for row in view.candidates)
    with world.sessions() as session:
        for row in view.candidates:
            assert trace_of(session, search_id, row.item_id, actor=world.user) == {"of": row.text}

    plain = search(world, text="red other", k=2)
    run(context, world, plain, FakeScorer(scores_of({})))
    rows = view_of(world, plain).candidates
    assert not any(row.has_trace for row in rows)
    with transaction(world.sessions) as session:
        eve = Actor.unlimited(accounts.create_user(session, "eve", "a-long-password"))
        for user, which in ((world.user, plain), (eve, search_id)):
            with pytest.raises(NotFound):
                trace_of(session, which, rows[0].item_id, actor=user)
