"""The fine stage opens further waves and second passes only if the scores require them."""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, run, search, view_of

from retllm.db.enums import DecidedBy, JobState, Stage, UnitState
from retllm.db.searches import Score, Search
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import NotFound
from retllm.fine import Content, learn_threshold
from retllm.history import control
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.queue.worker import WorkerContext, run_unit
from retllm.search import fine_worker
from retllm.search.coarse_worker import coarse_unit
from retllm.search.views import trace_of

WAVES = {"first": 3, "step": 3, "clear_score": 0.0, "clear_gap": 2.0}
LIKELY, UNLIKELY = 0.95, 0.05


def _pool(context: WorkerContext, world, size: int, **fields: object) -> tuple[UUID, list[str]]:
    """A search whose coarse stage is done, and the texts of its candidates in coarse order.

    The first call of a test fills the collection.
    """
    with world.sessions() as session:
        filled = session.scalar(sa.select(Item.id).limit(1))
    if filled is None:
        words = [f"w{number}" for number in range(size)]
        world.add_texts(*[" ".join(["red", *words[:number]]) for number in range(size)])
        index(context, world)
    search_id = search(world, text="red", k=size, **fields)
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    rows = view_of(world, search_id).candidates
    return search_id, [row.text or "" for row in sorted(rows, key=lambda row: row.coarse_rank)]


def _ready(world, search_id: UUID) -> list[UUID]:
    return [unit.id for unit in world.units(search_id, Stage.FINE) if unit.state is UnitState.READY]


def _scores(scores: dict[str, float | None], otherwise: float | None = UNLIKELY, entropy: float = 0.1):
    return lambda content: (scores.get(content.text or "", otherwise), entropy)


def _run(context: WorkerContext, unit_id: UUID, scorer: FakeScorer) -> bool:
    return run_unit(context, unit_id, lambda b, h: fine_worker.fine_unit(b, h, scorer))


def _fails_for(*texts: str, otherwise: float = UNLIKELY) -> Callable[[Content], tuple[float, float]]:
    def score(content: Content) -> tuple[float, float]:
        if content.text in texts:
            raise RuntimeError("out of memory")
        return otherwise, 0.1

    return score


def test_waves_stop_when_the_best_candidate_is_clear_and_the_others_stay_in_coarse_order(
    context: WorkerContext, world
) -> None:
    search_id, texts = _pool(context, world, 8, adaptive=WAVES)
    assert [len(unit.payload["items"]) for unit in world.units(search_id, Stage.FINE)] == [2, 1]
    scorer = FakeScorer(_scores({texts[1]: LIKELY}))
    run(context, world, search_id, scorer)
    assert scorer.texts == texts[:3]
    view = view_of(world, search_id)
    assert (view.job.state, view.job.progress, view.provisional) == (JobState.SUCCEEDED, 1.0, False)
    assert [row.text for row in view.candidates] == [texts[1], texts[0], texts[2], *texts[3:]]
    assert [row.score for row in view.candidates[3:]] == [None] * 5


def test_waves_continue_until_the_best_candidate_is_clear_or_all_are_scored(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 8, adaptive=WAVES)
    scorer = FakeScorer(_scores({texts[5]: LIKELY, texts[6]: LIKELY}))
    run(context, world, search_id, scorer)
    # texts[5] is clear after the second wave
    assert scorer.texts == texts[:6]

    search_id, texts = _pool(context, world, 8, adaptive=WAVES, mode="choice")
    scorer = FakeScorer(_scores({texts[0]: LIKELY, texts[1]: 0.9}))
    run(context, world, search_id, scorer)
    assert scorer.texts == texts
    assert [len(unit.payload["items"]) for unit in world.units(search_id, Stage.FINE)] == [2, 1, 2, 1, 2]
    assert view_of(world, search_id).job.state is JobState.SUCCEEDED


def test_without_waves_all_units_are_ready_at_once(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 5, adaptive=False)
    scorer = FakeScorer(_scores({}, LIKELY))
    assert len(_ready(world, search_id)) == 3
    run(context, world, search_id, scorer)
    assert scorer.texts == texts


def test_progress_never_decreases_and_is_complete_only_at_the_end(context: WorkerContext, world) -> None:
    search_id, _ = _pool(context, world, 8, adaptive=WAVES, mode="verbalized")
    scorer = FakeScorer(_scores({}))
    seen = []
    while ready := _ready(world, search_id):
        job = view_of(world, search_id).job
        seen.append(job.progress)
        (fine,) = [stage for stage in job.stages if stage.stage is Stage.FINE]
        assert fine.items_done <= fine.items_total <= 8
        _run(context, ready[0], scorer)
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == 0.99, "all candidates have a score, but ties wait for their entropy"
    assert view_of(world, search_id).job.progress == 1.0


def test_a_candidate_that_cannot_be_scored_does_not_stop_the_waves_and_can_be_retried(
    context: WorkerContext, world
) -> None:
    search_id, texts = _pool(context, world, 8, adaptive=WAVES)
    run(context, world, search_id, FakeScorer(_fails_for(texts[1])))
    view = view_of(world, search_id)
    assert view.job.state is JobState.PARTIAL
    assert sum(row.score is not None for row in view.candidates) == 7
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
    again = FakeScorer(_scores({texts[1]: LIKELY}))
    run(context, world, search_id, again)
    assert again.texts == [texts[1]]
    view = view_of(world, search_id)
    assert (view.job.state, view.candidates[0].text) == (JobState.SUCCEEDED, texts[1])


def test_a_retry_that_makes_the_best_candidate_less_clear_opens_another_wave(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 8, adaptive=WAVES)

    def score(content: Content) -> tuple[float, float]:
        return _fails_for(texts[1], otherwise=LIKELY if content.text == texts[0] else UNLIKELY)(content)

    first = FakeScorer(score)
    run(context, world, search_id, first)
    assert set(first.texts) == set(texts[:3])
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
    again = FakeScorer(_scores({texts[1]: LIKELY}))
    run(context, world, search_id, again)
    assert again.texts == [texts[1], *texts[3:]]
    assert view_of(world, search_id).job.state is JobState.SUCCEEDED


def test_no_wave_follows_a_wave_in_which_every_unit_failed(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 8, adaptive=WAVES)
    run(context, world, search_id, FakeScorer(_fails_for(*texts)))
    assert world.job(search_id).state is JobState.FAILED
    named = {item for unit in world.units(search_id, Stage.FINE) for item in unit.payload["items"]}
    assert len(named) == 3
    with transaction(world.sessions) as session:
        assert len(control.retry_job(session, world.user, search_id).units) == 3
    run(context, world, search_id, FakeScorer(_scores({})))
    assert world.job(search_id).state is JobState.SUCCEEDED
    assert sum(row.score is not None for row in view_of(world, search_id).candidates) == 8


def test_a_cancelled_search_opens_no_wave_and_a_retry_continues_it(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 8, adaptive=WAVES)
    first, last = _ready(world, search_id)
    _run(context, first, FakeScorer(_scores({})))

    class Cancelled(FakeScorer):
        def score(self, *args, **kwargs):
            with transaction(world.sessions) as session:
                control.cancel_job(session, world.user, search_id)
            return super().score(*args, **kwargs)

    _run(context, last, Cancelled(_scores({})))
    assert world.job(search_id).state is JobState.CANCELLED
    assert len(world.units(search_id, Stage.FINE)) == 2
    with transaction(world.sessions) as session:
        assert [unit for unit, _ in control.retry_job(session, world.user, search_id).units] == [last]
    scorer = FakeScorer(_scores({}))
    run(context, world, search_id, scorer)
    assert scorer.texts == texts[2:]
    assert world.job(search_id).state is JobState.SUCCEEDED


def test_two_workers_that_end_a_wave_at_the_same_time_open_the_next_once(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 8, adaptive={**WAVES, "first": 4})
    together = threading.Barrier(2, timeout=60)

    def score(content: Content) -> tuple[float, float]:
        if content.text in (texts[1], texts[3]):
            together.wait()
        return UNLIKELY, 0.1

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(_run, context, unit, FakeScorer(score)) for unit in _ready(world, search_id)]
        assert all(one.result() for one in done)
    units = world.units(search_id, Stage.FINE)
    assert [unit.seq for unit in units] == [0, 1, 2, 3]
    assert len({item for unit in units for item in unit.payload["items"]}) == 7


def test_workers_are_notified_of_the_units_of_a_further_wave(context: WorkerContext, world) -> None:
    notified: list[UUID] = []

    class Recorder:
        def notify(self, units) -> int:
            notified.extend(unit_id for unit_id, _ in units)
            return len(units)

    search_id, _ = _pool(context, world, 8, adaptive=WAVES)
    recording = WorkerContext(context.sessions, context.storage, context.settings, Recorder(), "tester:3")
    for unit in _ready(world, search_id):
        assert not notified
        _run(recording, unit, FakeScorer(_scores({})))
    assert notified == _ready(world, search_id)


def test_tied_verbalized_scores_are_ordered_by_the_entropy_of_a_second_pass(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 4, mode="verbalized")
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
    search_id, texts = _pool(context, world, 2, mode="verbalized")

    class NoSecondPass(FakeScorer):
        def score(self, query, candidates, injection, *, mode, trace):
            if mode == "true_false" and any(content.text == texts[1] for content in candidates):
                raise RuntimeError("out of memory")
            return super().score(query, candidates, injection, mode=mode, trace=trace)

    run(context, world, search_id, NoSecondPass(_scores({}, 0.8, entropy=0.4)))
    view = view_of(world, search_id)
    assert view.job.state is JobState.PARTIAL
    assert [(row.score, row.entropy, row.error) for row in view.candidates] == [(0.8, 0.4, None), (0.8, None, None)]
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
    scorer = FakeScorer(_scores({}, 0.8, entropy=0.3))
    run(context, world, search_id, scorer)
    assert (scorer.texts, scorer.modes) == ([texts[1]], ["true_false"])
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    assert [(row.text, row.entropy) for row in view.candidates] == [(texts[1], 0.3), (texts[0], 0.4)]


def test_an_answer_without_a_score_gives_an_error_and_the_candidate_keeps_its_coarse_rank(
    context: WorkerContext, world
) -> None:
    search_id, texts = _pool(context, world, 4, mode="verbalized")
    run(context, world, search_id, FakeScorer(_scores({texts[0]: 0.2, texts[1]: None, texts[2]: 0.9, texts[3]: 0.5})))
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    assert [row.text for row in view.candidates] == [texts[2], texts[1], texts[3], texts[0]]
    assert view.candidates[1].error == "It wrote no number."
    assert (view.candidates[1].score, view.candidates[1].decided_by) == (None, DecidedBy.COARSE)


def test_fusion_orders_by_log_odds_and_similarity(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 4, fusion_weight=3.0)
    scores = {texts[0]: 0.6, texts[1]: 0.61, texts[2]: 0.62, texts[3]: 0.999}
    run(context, world, search_id, FakeScorer(_scores(dict(scores))))
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
    search_id, _ = _pool(context, world, 2)
    run(context, world, search_id, FakeScorer(_scores({})))
    view = view_of(world, search_id)
    assert view.fusion_weight == 0
    assert [row.fused for row in view.candidates] == [None, None]
    assert [row.log_odds for row in view.candidates] == pytest.approx([math.log(0.05 / 0.95)] * 2)


@pytest.mark.parametrize(("best", "none"), [(0.51, False), (0.49, True)])
def test_with_few_scores_a_score_above_one_half_is_a_match(
    context: WorkerContext, world, best: float, none: bool
) -> None:
    search_id, texts = _pool(context, world, 3)
    assert view_of(world, search_id).no_match is None
    run(context, world, search_id, FakeScorer(_scores({texts[2]: best})))
    view = view_of(world, search_id)
    assert (view.no_match, view.match_threshold) == (none, None)


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
    earlier, _ = _pool(context, world, 3)
    run(context, world, earlier, FakeScorer(_scores({})))
    values = _fill(world, earlier, "v1:0.3", low=-12.0, high=-6.0)
    # scores of another scorer and cached scores do not count
    _fill(world, earlier, "another", low=2.0, high=20.0)
    _fill(world, earlier, "v1:0.3", low=-9.0, high=30.0, cached=True)
    match, nothing = (search(world, text=f"red {n}", k=2) for n in range(2))
    run(context, world, match, FakeScorer(_scores({}, 0.01)))
    run(context, world, nothing, FakeScorer(_scores({}, 1e-6)))
    found = view_of(world, match)
    scored = [math.log(UNLIKELY / (1 - UNLIKELY))] * 3 + [math.log(0.01 / 0.99)] * 2
    expected = learn_threshold(values + scored)
    assert expected is not None
    assert -11 < expected.value < -7
    assert found.match_threshold == pytest.approx(expected.value, abs=1e-6)
    assert found.no_match is False
    assert view_of(world, nothing).no_match is True


def test_a_match_is_unknown_if_nothing_was_scored_or_the_job_is_retried(context: WorkerContext, world) -> None:
    search_id, texts = _pool(context, world, 3, mode="verbalized")
    run(context, world, search_id, FakeScorer(_scores({}, None)))
    assert view_of(world, search_id).no_match is None

    search_id, texts = _pool(context, world, 3)
    run(context, world, search_id, FakeScorer(_fails_for(texts[0])))
    assert view_of(world, search_id).no_match is True
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
        assert session.get_one(Search, search_id).no_match is None
    assert view_of(world, search_id).no_match is None


def test_a_trace_is_stored_only_if_requested(context: WorkerContext, world) -> None:
    search_id, _ = _pool(context, world, 2, trace=True)
    run(context, world, search_id, FakeScorer(_scores({})))
    view = view_of(world, search_id)
    assert view.trace
    assert all(row.has_trace for row in view.candidates)
    with world.sessions() as session:
        for row in view.candidates:
            assert trace_of(session, search_id, row.item_id, actor=world.user) == {"of": row.text}

    plain = search(world, text="red other", k=2)
    run(context, world, plain, FakeScorer(_scores({})))
    rows = view_of(world, plain).candidates
    assert not any(row.has_trace for row in rows)
    with transaction(world.sessions) as session:
        eve = Actor.unlimited(accounts.create_user(session, "eve", "a-long-password"))
        for user, which in ((world.user, plain), (eve, search_id)):
            with pytest.raises(NotFound):
                trace_of(session, which, rows[0].item_id, actor=user)
