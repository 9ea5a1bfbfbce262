"""A worker scores units of several searches together; each is claimed, checked and ended by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError
from tests.unit.job_world import World
from tests.unit.search.pools import ready_units
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, search, view_of

from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.session import Sessions, transaction
from retllm.errors import ScoreUnreadable, ServerAway
from retllm.fine import Content
from retllm.history import control
from retllm.queue import turns
from retllm.queue.audit import violations
from retllm.queue.claim import Claim, claim_unit
from retllm.queue.turns import Turns, claim_companions
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit, run_units
from retllm.search import fine_worker
from retllm.search.coarse_worker import coarse_unit
from retllm.settings import Settings

QUERIES = ("red circle", "blue moon", "green tree")


class Together(FakeScorer):
    """Records the queries of each call."""

    def __init__(self, answer: Callable[[Content], tuple[float | None, float | None]]) -> None:
        super().__init__(answer)
        self.calls: list[list[str | None]] = []
        self.before: Callable[[], object] = lambda: None

    def score_pairs(self, pairs: Sequence[tuple[Content, Content]], *arguments: object, **ways: object) -> list[Any]:
        self.calls.append([query.text for query, _ in pairs])
        self.before()
        return super().score_pairs(pairs, *arguments, **ways)


@pytest.fixture
def searches(context: WorkerContext, world: World) -> list[UUID]:
    """Three searches with three units of two candidates each."""
    world.add_texts(*(f"{query} {number}" for query in QUERIES for number in range(2)))
    index(context, world)
    found = [search(world, text=query, k=6) for query in QUERIES]
    for key in found:
        run_unit(context, world.units(key)[0].id, lambda c, held: coarse_unit(c, held, lambda _: FakeEmbedder()))
        assert len(ready_units(world, key)) == 3
    return found


def do(context: WorkerContext, unit_id: UUID, scorer: FakeScorer, items: int) -> bool:
    return run_units(context, unit_id, lambda c, held: fine_worker.fine_units(c, held, scorer), items=items)


def states(world: World, key: UUID) -> list[str]:
    return [unit.state.value for unit in world.units(key, Stage.FINE)]


def test_one_call_scores_units_of_all_searches_in_turn(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    scorer = Together(lambda _: (0.7, 0.1))
    assert do(context, ready_units(world, searches[0])[0], scorer, 8)
    assert scorer.calls == [[QUERIES[0]] * 2 + [QUERIES[1]] * 2 + [QUERIES[2]] * 2 + [QUERIES[0]] * 2]
    assert [states(world, key).count("done") for key in searches] == [2, 1, 1]
    while left := [unit for key in searches for unit in ready_units(world, key)]:
        assert do(context, left[0], scorer, 100)
    assert len(scorer.calls) == 2
    assert {view_of(world, key).job.state for key in searches} == {JobState.SUCCEEDED}
    assert violations(world.sessions) == []


def test_searches_of_which_less_is_in_work_come_first(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    first = world.must_claim(ready_units(world, searches[0])[0])
    world.must_claim(ready_units(world, searches[1])[0])
    claimed = list(claim_companions(world.sessions, first, 8, "w1", world.settings, Turns()))
    assert [claim.job_id for claim in claimed] == [searches[2], searches[0], searches[1]]


def test_a_unit_that_is_tried_again_is_done_alone_and_never_with_others(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    def fail() -> None:
        raise RuntimeError("the device is gone")

    failing = Together(lambda _: (0.7, 0.1))
    failing.before = fail
    again = ready_units(world, searches[0])[0]
    assert do(context, again, failing, 2)
    scorer = Together(lambda _: (0.7, 0.1))
    assert do(context, ready_units(world, searches[1])[0], scorer, 100)
    assert [states(world, key) for key in searches] == [["ready", "done", "done"], ["done"] * 3, ["done"] * 3]
    assert do(context, again, scorer, 100)
    assert scorer.calls[-1] == [QUERIES[0]] * 2


def test_what_fails_for_all_is_tried_for_each_and_counts_for_its_own_unit(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    def answer(content: Content) -> tuple[float, float]:
        if content.text == "blue moon 1":
            raise OSError("the storage is away")
        return 0.7, 0.1

    scorer = Together(answer)
    assert do(context, ready_units(world, searches[0])[0], scorer, 100)
    failed = [unit for key in searches for unit in world.units(key, Stage.FINE) if unit.state is not UnitState.DONE]
    assert [unit.state for unit in failed] == [UnitState.READY] * 3
    assert {unit.error for unit in failed} == {"OSError: the storage is away"}
    assert {unit.job_id for unit in failed} == set(searches)


def test_a_pair_that_cannot_be_scored_costs_no_other_pair(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    def answer(content: Content) -> tuple[float, float]:
        if content.text == "blue moon 1":
            raise ScoreUnreadable("not finite")
        return 0.7, 0.1

    assert do(context, ready_units(world, searches[0])[0], Together(answer), 100)
    for key in searches:
        view = view_of(world, key)
        assert view.job.state is JobState.SUCCEEDED
        assert {row.text: row.score for row in view.candidates if row.score is None} == {"blue moon 1": None}


def test_a_server_that_is_away_is_asked_once_for_all_units(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    def away() -> None:
        raise ServerAway("The server is away.")

    scorer = Together(lambda _: (0.7, 0.1))
    scorer.before = away
    assert do(context, ready_units(world, searches[0])[0], scorer, 6)
    assert len(scorer.calls) == 1
    waiting = [unit for key in searches for unit in world.units(key, Stage.FINE) if unit.error]
    assert [(unit.state, unit.attempt, unit.error) for unit in waiting] == [
        (UnitState.READY, 0, "The server is away.")
    ] * 3


def test_if_the_database_fails_in_claiming_more_units_those_that_were_claimed_are_done(
    context: WorkerContext, world: World, searches: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[UUID] = []

    def claim_one(sessions: Sessions, unit_id: UUID, worker: str, settings: Settings) -> Claim | None:
        if len(claimed) == 2:
            raise OperationalError("claim", {}, Exception("the server is restarting"))
        claimed.append(unit_id)
        return claim_unit(sessions, unit_id, worker, settings)

    monkeypatch.setattr(turns, "claim_unit", claim_one)
    assert do(context, ready_units(world, searches[0])[0], Together(lambda _: (0.7, 0.1)), 100)
    assert sum(states(world, key).count("done") for key in searches) == 2
    assert sum(states(world, key).count("ready") for key in searches) == 7


def test_a_search_that_is_cancelled_in_the_call_loses_only_its_own_scores(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    def cancel() -> None:
        with transaction(world.sessions) as session:
            control.cancel_job(session, world.user, searches[1])

    scorer = Together(lambda _: (0.7, 0.1))
    scorer.before = cancel
    assert do(context, ready_units(world, searches[0])[0], scorer, 6)
    assert [states(world, key).count("done") for key in searches] == [1, 0, 1]
    view = view_of(world, searches[1])
    assert view.job.state is JobState.CANCELLED
    assert [row.score for row in view.candidates] == [None] * 6


def test_a_unit_whose_lease_was_lost_is_left_out_and_the_others_are_stored(
    context: WorkerContext, world: World, searches: list[UUID]
) -> None:
    scorer = Together(lambda _: (0.7, 0.1))

    def do_it(context: WorkerContext, held: Sequence[LeasedUnit]) -> list[object]:
        held[1].lease._lost.set()
        return list(fine_worker.fine_units(context, held, scorer))

    assert run_units(context, ready_units(world, searches[0])[0], do_it, items=6)  # type: ignore[arg-type]
    assert scorer.calls == [[QUERIES[0]] * 2 + [QUERIES[2]] * 2]
    assert [states(world, key).count("done") for key in searches] == [1, 0, 1]
