"""An adaptive search opens further waves only if the scores require them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from tests.unit.search.pools import LIKELY, UNLIKELY, fails_for, pool_of, ready_units, run_fine, scores_of
from tests.unit.stand_ins import FakeScorer, run, view_of

from retllm.db.enums import JobState, Stage
from retllm.db.session import transaction
from retllm.fine import Content
from retllm.history import control
from retllm.queue.worker import WorkerContext

WAVES = {"first": 3, "step": 3, "clear_score": 0.0, "clear_gap": 2.0}


def test_waves_stop_when_the_best_candidate_is_clear_and_the_others_stay_in_coarse_order(
    context: WorkerContext, world
) -> None:
    search_id, texts = pool_of(context, world, 8, adaptive=WAVES)
    assert [len(unit.payload["items"]) for unit in world.units(search_id, Stage.FINE)] == [2, 1]
    scorer = FakeScorer(scores_of({texts[1]: LIKELY}))
    run(context, world, search_id, scorer)
    assert scorer.texts == texts[:3]
    view = view_of(world, search_id)
    assert (view.job.state, view.job.progress, view.provisional) == (JobState.SUCCEEDED, 1.0, False)
    assert [row.text for row in view.candidates] == [texts[1], texts[0], texts[2], *texts[3:]]
    assert [row.score for row in view.candidates[3:]] == [None] * 5


def test_waves_continue_until_the_best_candidate_is_clear_or_all_are_scored(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 8, adaptive=WAVES)
    scorer = FakeScorer(scores_of({texts[5]: LIKELY, texts[6]: LIKELY}))
    run(context, world, search_id, scorer)
    # texts[5] is clear after the second wave
    assert scorer.texts == texts[:6]

    search_id, texts = pool_of(context, world, 8, adaptive=WAVES, mode="choice")
    scorer = FakeScorer(scores_of({texts[0]: LIKELY, texts[1]: 0.9}))
    run(context, world, search_id, scorer)
    assert scorer.texts == texts
    assert [len(unit.payload["items"]) for unit in world.units(search_id, Stage.FINE)] == [2, 1, 2, 1, 2]
    assert view_of(world, search_id).job.state is JobState.SUCCEEDED


def test_without_waves_all_units_are_ready_at_once(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 5, adaptive=False)
    scorer = FakeScorer(scores_of({}, LIKELY))
    assert len(ready_units(world, search_id)) == 3
    run(context, world, search_id, scorer)
    assert scorer.texts == texts


def test_progress_never_decreases_and_is_complete_only_at_the_end(context: WorkerContext, world) -> None:
    search_id, _ = pool_of(context, world, 8, adaptive=WAVES, mode="verbalized")
    scorer = FakeScorer(scores_of({}))
    seen = []
    while ready := ready_units(world, search_id):
        job = view_of(world, search_id).job
        seen.append(job.progress)
        (fine,) = [stage for stage in job.stages if stage.stage is Stage.FINE]
        assert fine.items_done <= fine.items_total <= 8
        run_fine(context, ready[0], scorer)
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == 0.99, "all candidates have a score, but ties wait for their entropy"
    assert view_of(world, search_id).job.progress == 1.0


def test_a_candidate_that_cannot_be_scored_does_not_stop_the_waves_and_can_be_retried(
    context: WorkerContext, world
) -> None:
    search_id, texts = pool_of(context, world, 8, adaptive=WAVES)
    run(context, world, search_id, FakeScorer(fails_for(texts[1])))
    view = view_of(world, search_id)
    assert view.job.state is JobState.PARTIAL
    assert sum(row.score is not None for row in view.candidates) == 7
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
    again = FakeScorer(scores_of({texts[1]: LIKELY}))
    run(context, world, search_id, again)
    assert again.texts == [texts[1]]
    view = view_of(world, search_id)
    assert (view.job.state, view.candidates[0].text) == (JobState.SUCCEEDED, texts[1])


def test_a_retry_that_makes_the_best_candidate_less_clear_opens_another_wave(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 8, adaptive=WAVES)

    def score(content: Content) -> tuple[float, float]:
        return fails_for(texts[1], otherwise=LIKELY if content.text == texts[0] else UNLIKELY)(content)

    first = FakeScorer(score)
    run(context, world, search_id, first)
    assert set(first.texts) == set(texts[:3])
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
    again = FakeScorer(scores_of({texts[1]: LIKELY}))
    run(context, world, search_id, again)
    assert again.texts == [texts[1], *texts[3:]]
    assert view_of(world, search_id).job.state is JobState.SUCCEEDED


def test_no_wave_follows_a_wave_in_which_every_unit_failed(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 8, adaptive=WAVES)
    run(context, world, search_id, FakeScorer(fails_for(*texts)))
    assert world.job(search_id).state is JobState.FAILED
    named = {item for unit in world.units(search_id, Stage.FINE) for item in unit.payload["items"]}
    assert len(named) == 3
    with transaction(world.sessions) as session:
        assert len(control.retry_job(session, world.user, search_id).units) == 3
    run(context, world, search_id, FakeScorer(scores_of({})))
    assert world.job(search_id).state is JobState.SUCCEEDED
    assert sum(row.score is not None for row in view_of(world, search_id).candidates) == 8


def test_a_cancelled_search_opens_no_wave_and_a_retry_continues_it(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 8, adaptive=WAVES)
    first, last = ready_units(world, search_id)
    run_fine(context, first, FakeScorer(scores_of({})))

    class Cancelled(FakeScorer):
        def score(self, *args, **kwargs):
            with transaction(world.sessions) as session:
                control.cancel_job(session, world.user, search_id)
            return super().score(*args, **kwargs)

    run_fine(context, last, Cancelled(scores_of({})))
    assert world.job(search_id).state is JobState.CANCELLED
    assert len(world.units(search_id, Stage.FINE)) == 2
    with transaction(world.sessions) as session:
        assert [unit.unit_id for unit in control.retry_job(session, world.user, search_id).units] == [last]
    scorer = FakeScorer(scores_of({}))
    run(context, world, search_id, scorer)
    assert scorer.texts == texts[2:]
    assert world.job(search_id).state is JobState.SUCCEEDED


def test_two_workers_that_end_a_wave_at_the_same_time_open_the_next_once(context: WorkerContext, world) -> None:
    search_id, texts = pool_of(context, world, 8, adaptive={**WAVES, "first": 4})
    together = threading.Barrier(2, timeout=60)

    def score(content: Content) -> tuple[float, float]:
        if content.text in (texts[1], texts[3]):
            together.wait()
        return UNLIKELY, 0.1

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(run_fine, context, unit, FakeScorer(score)) for unit in ready_units(world, search_id)]
        assert all(one.result() for one in done)
    units = world.units(search_id, Stage.FINE)
    assert [unit.seq for unit in units] == [0, 1, 2, 3]
    assert len({item for unit in units for item in unit.payload["items"]}) == 7


def test_workers_are_notified_of_the_units_of_a_further_wave(context: WorkerContext, world) -> None:
    notified: list[UUID] = []

    class Recorder:
        def notify(self, units) -> int:
            notified.extend(unit_id for unit_id, *_ in units)
            return len(units)

    search_id, _ = pool_of(context, world, 8, adaptive=WAVES)
    recording = WorkerContext(context.sessions, context.storage, context.settings, Recorder(), "tester:3")
    for unit in ready_units(world, search_id):
        assert not notified
        run_fine(recording, unit, FakeScorer(scores_of({})))
    assert notified == ready_units(world, search_id)
