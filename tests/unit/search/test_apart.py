"""What fails for one pair at the server of its scorer, or after some pairs, costs no other pair its score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.job_world import World
from tests.unit.search.pools import ready_units
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, search, view_of

from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.errors import RetllmError, ServerAway, ServerBusy, ServerFailed
from retllm.fine import Content
from retllm.history import control
from retllm.queue.audit import violations
from retllm.queue.worker import WorkerContext, run_unit, run_units
from retllm.search import fine_worker
from retllm.search.coarse_worker import coarse_unit

QUERIES = ("red circle", "blue moon", "green tree")
SLOW = "The server answers other requests, but fails at this pair."
ITEMS = 6


class Apart(FakeScorer):
    """Scores all pairs, except those of which ``error_of`` returns an error."""

    def __init__(self, error_of: Callable[[str, str], RetllmError | None]) -> None:
        super().__init__(lambda _: (0.7, 0.1))
        self.error_of = error_of
        self.calls: list[list[tuple[str, str]]] = []

    def score_each(self, pairs: Sequence[tuple[Content, Content]], *arguments: Any, **ways: Any) -> list[Any]:
        names = [(str(query.text), str(candidate.text)) for query, candidate in pairs]
        self.calls.append(names)
        scores = self.score_pairs(pairs, *arguments, **ways)
        return [self.error_of(*name) or score for name, score in zip(names, scores, strict=True)]


@pytest.fixture
def searches(context: WorkerContext, world: World) -> list[UUID]:
    """Three searches of the same six texts, each with three units of two candidates."""
    world.add_texts(*(f"{query} {number}" for query in QUERIES for number in range(2)))
    index(context, world)
    found = [search(world, text=query, k=ITEMS) for query in QUERIES]
    for key in found:
        run_unit(context, world.units(key)[0].id, lambda c, held: coarse_unit(c, held, lambda _: FakeEmbedder()))
    return found


def go_on(context: WorkerContext, world: World, scorer: Apart, searches: Sequence[UUID], calls: int) -> None:
    """Let a worker claim what is ready, ``calls`` times at most; waits pass at once."""
    for _ in range(calls):
        with transaction(world.sessions) as session:
            session.execute(sa.update(Unit).where(Unit.state == UnitState.READY).values(run_after=sa.func.now()))
        left = [unit for key in searches for unit in ready_units(world, key)]
        if not left:
            return
        run_units(context, left[0], lambda c, held: fine_worker.fine_units(c, held, scorer), items=100)


def fine(world: World, key: UUID) -> list[Unit]:
    return list(world.units(key, Stage.FINE))


def open_items(world: World, key: UUID) -> list[tuple[int, int, str | None]]:
    return [
        (len(unit.payload["items"]), unit.attempt, unit.error) for unit in fine(world, key) if unit.state == "ready"
    ]


def slow_at(*pairs: tuple[str, str]) -> Callable[[str, str], RetllmError | None]:
    return lambda query, text: ServerFailed(SLOW) if (query, text) in pairs else None


def test_searches_of_the_same_call_end_with_it_and_a_slow_pair_is_alone_from_then_on(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    guilty = ("red circle", "blue moon 1")
    scorer = Apart(slow_at(guilty))
    go_on(context, world, scorer, searches, 1)
    assert [view_of(world, key).job.state for key in searches] == [JobState.RUNNING] + [JobState.SUCCEEDED] * 2
    assert [row.score is None for row in view_of(world, searches[0]).candidates].count(True) == 1
    assert open_items(world, searches[0]) == [(1, 1, SLOW)]
    assert violations(world.sessions) == []
    go_on(context, world, scorer, searches, 100)
    # its attempts are those of any unit, and nothing else is asked about with it
    assert scorer.calls[1:] == [[guilty]] * (context.settings.max_attempts - 1)
    view = view_of(world, searches[0])
    assert view.job.state is JobState.PARTIAL
    assert [(row.text, row.error) for row in view.candidates if row.score is None] == [("blue moon 1", SLOW)]
    assert violations(world.sessions) == []


def test_a_pair_that_does_better_at_a_retry_completes_its_search(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    scorer = Apart(slow_at(("red circle", "blue moon 1"), ("red circle", "blue moon 0")))
    go_on(context, world, scorer, searches, 100)
    assert view_of(world, searches[0]).job.state is JobState.PARTIAL
    scorer.error_of = lambda *_: None
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, searches[0])
    go_on(context, world, scorer, searches, 100)
    view = view_of(world, searches[0])
    assert view.job.state is JobState.SUCCEEDED
    assert not any(row.error for row in view.candidates)
    assert violations(world.sessions) == []


def test_units_of_slow_pairs_only_are_asked_about_in_as_many_calls_as_one_pair(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    """Each pair has its own error, so nothing is to be found out by units of one item."""
    scorer = Apart(lambda query, _: ServerFailed(SLOW) if query == "red circle" else None)
    go_on(context, world, scorer, searches, 100)
    units, attempts = 3, context.settings.max_attempts
    assert len([call for call in scorer.calls if call[0][0] == "red circle"]) <= units * attempts
    assert {unit.state for unit in fine(world, searches[0])} == {UnitState.DEAD}
    assert [view_of(world, key).job.state for key in searches] == [JobState.FAILED] + [JobState.SUCCEEDED] * 2
    assert violations(world.sessions) == []


@pytest.mark.parametrize("error", [ServerAway("away", 60), ServerBusy("busy", 60)])
def test_what_was_scored_before_the_server_went_away_is_stored_and_the_rest_waits(
    context: WorkerContext, world: World, searches: list[UUID], error: ServerAway
) -> None:
    count = 0

    def gone(*_: str) -> RetllmError | None:
        nonlocal count
        count += 1
        return error if count > 3 else None

    scorer = Apart(gone)
    go_on(context, world, scorer, searches, 1)
    scored = [row.score for key in searches for row in view_of(world, key).candidates]
    assert len(scored) - scored.count(None) == 3
    waiting = [unit for key in searches for unit in fine(world, key) if unit.state == "ready"]
    assert {(unit.attempt, unit.error) for unit in waiting} == {(0, error.message)}
    with world.sessions() as session:
        assert not session.scalars(
            sa.select(Unit).where(Unit.run_after <= sa.func.now(), Unit.error.is_not(None))
        ).all()
    assert violations(world.sessions) == []
    scorer.error_of = lambda *_: None
    go_on(context, world, scorer, searches, 100)
    assert {view_of(world, key).job.state for key in searches} == {JobState.SUCCEEDED}
    assert sum(len(call) for call in scorer.calls) == 2 * len(scored) - 3
    assert violations(world.sessions) == []


def test_entropies_of_ties_are_asked_for_apart_too(context: WorkerContext, world: World) -> None:
    world.add_texts("red circle", "red square", "red moon")
    index(context, world)
    key = search(world, text="red circle", k=3, mode="verbalized")
    run_unit(context, world.units(key)[0].id, lambda c, held: coarse_unit(c, held, lambda _: FakeEmbedder()))
    scorer = Apart(lambda *_: None)
    go_on(context, world, scorer, [key], 1)
    passes = [unit for unit in fine(world, key) if unit.payload.get("pass")]
    assert passes
    scorer.error_of = slow_at(("red circle", "red moon"))
    go_on(context, world, scorer, [key], 100)
    assert view_of(world, key).job.state is JobState.PARTIAL
    assert violations(world.sessions) == []
