"""Accounts take turns: many jobs of one do not delay those of another."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.factories import make_job, make_search, make_user, store
from tests.unit.job_world import World

from retllm.db.enums import OPEN_UNITS, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.operations import queues
from retllm.queue import claim as claims
from retllm.queue.claim import Claim
from retllm.queue.routing import Notification, routing_of
from retllm.queue.turns import Turns, claim_notified, claim_some, waiting_unit
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit
from retllm.settings import Settings


def account(world: World, name: str) -> UUID:
    with transaction(world.sessions) as session:
        user = make_user(name)
        store(session, user)
        return user.id


def submit(
    world: World, user_id: UUID, stage: Stage = Stage.COARSE, units: int = 1, scorer: str = "scorer"
) -> list[UUID]:
    """Add a search with ready units; return their keys."""
    with transaction(world.sessions) as session:
        job = make_job(user_id, world.collection_id)
        store(session, job, make_search(job.id, scorer=scorer))
    return world.add_units(job.id, stage, *[{"items": [str(new_id())]} for _ in range(units)])


def take(world: World, named: UUID, turns: Turns, worker: str = "w1") -> Claim | None:
    return claim_notified(world.sessions, named, worker, world.settings, turns)


def end(world: World, claim: Claim) -> None:
    with transaction(world.sessions) as session:
        changed = {"state": UnitState.DONE, "token": None, "lease_until": None, "finished_at": sa.func.now()}
        session.execute(sa.update(Unit).where(Unit.id == claim.unit_id).values(changed))


def work_off(world: World, hints: Sequence[UUID]) -> list[UUID]:
    """Follow the hints in their order, as one worker does; return the accounts of the units that it did."""
    turns, done = Turns(), []
    for hint in hints:
        claim = take(world, hint, turns)
        if claim is not None:
            done.append(claim.user_id)
            end(world, claim)
    return done


@pytest.mark.parametrize("stage", [Stage.COARSE, Stage.FINE, Stage.EMBED, Stage.MEDIA])
def test_the_first_unit_of_another_account_is_next_however_many_hints_are_ahead_of_it(
    world: World, stage: Stage
) -> None:
    bob = account(world, "bob")
    hints = [unit for _ in range(20) for unit in submit(world, world.user.id, stage)]
    turns = Turns()
    first = take(world, hints[0], turns)
    assert first is not None
    assert first.unit_id == hints[0]
    submit(world, bob, stage)
    second = take(world, hints[1], turns)
    assert second is not None
    assert second.user_id == bob


def test_accounts_alternate_and_every_unit_is_done_once(world: World) -> None:
    bob, cleo = account(world, "bob"), account(world, "cleo")
    hints = [submit(world, world.user.id)[0] for _ in range(9)]
    hints += submit(world, bob, units=3) + submit(world, cleo, units=2)
    done = work_off(world, hints)
    assert {frozenset(done[at : at + 3]) for at in (0, 3)} == {frozenset({world.user.id, bob, cleo})}
    assert set(done[6:8]) == {world.user.id, bob}
    assert done[8:] == [world.user.id] * 6
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).where(Unit.state.in_(OPEN_UNITS))) == 0


def test_the_account_with_fewer_units_in_work_comes_first(world: World) -> None:
    bob = account(world, "bob")
    submit(world, world.user.id, units=2)
    others = submit(world, bob, units=3)
    world.must_claim(others[0])
    world.must_claim(others[1])
    # another worker, which has served neither
    turns = Turns()
    found = [take(world, hint, turns) for hint in others]
    assert [claim and claim.user_id for claim in found] == [world.user.id, world.user.id, bob]


def test_an_index_that_is_built_costs_no_turn(world: World) -> None:
    """Its unit is in work for hours, but the database works, not a worker."""
    with transaction(world.sessions) as session:
        job = make_job(world.user.id, world.collection_id)
        store(session, job)
    (build,) = world.add_units(job.id, Stage.EMBED, {"items": [], "index": str(new_id())})
    world.must_claim(build, "w0")
    bob = account(world, "bob")
    own, others = submit(world, world.user.id, Stage.EMBED), submit(world, bob, Stage.EMBED, units=4)
    assert world.user.id in work_off(world, [*others, *own])[:2]


def test_the_jobs_of_one_account_are_done_in_the_order_of_their_hints(world: World) -> None:
    hints = [submit(world, world.user.id)[0] for _ in range(5)]
    turns = Turns()
    found = [take(world, hint, turns) for hint in hints]
    assert [claim.unit_id for claim in found if claim] == hints


def test_the_hint_of_a_unit_that_is_done_serves_another(world: World) -> None:
    first, second = submit(world, world.user.id), submit(world, world.user.id)
    end(world, world.must_claim(first[0]))
    claim = take(world, first[0], Turns())
    assert claim is not None
    assert claim.unit_id == second[0]
    assert take(world, first[0], Turns()) is None, "nothing is left"


def test_the_hint_of_a_deleted_unit_changes_nothing(world: World) -> None:
    submit(world, world.user.id)
    assert take(world, new_id(), Turns()) is None


def fail(world: World, *units: UUID) -> None:
    """Let the first attempt at these units fail; the next one is due."""
    for unit in units:
        claims.fail(world.sessions, world.must_claim(unit), RuntimeError("broken"), world.settings)


def test_a_unit_that_is_tried_again_is_claimed_when_it_is_its_accounts_turn(world: World) -> None:
    bob = account(world, "bob")
    backlog = submit(world, bob, units=30)
    again = submit(world, world.user.id)[0]
    fail(world, again)
    turns = Turns()
    # its own hint is behind those of all others
    found = [take(world, hint, turns) for hint in backlog[:2]]
    assert (again, 2) in [(claim.unit_id, claim.attempt) for claim in found if claim]


def test_units_that_are_tried_again_delay_no_other_account(world: World) -> None:
    bob = account(world, "bob")
    hints = submit(world, world.user.id, units=10)
    fail(world, *hints)
    submit(world, bob)
    assert bob in work_off(world, hints)[:2]


def test_a_unit_whose_next_attempt_is_not_due_keeps_no_turn(world: World) -> None:
    bob = account(world, "bob")
    later = submit(world, world.user.id)[0]
    fail(world, later)
    with transaction(world.sessions) as session:
        an_hour = sa.func.now() + sa.text("interval '1 hour'")
        session.execute(sa.update(Unit).where(Unit.id == later).values(run_after=an_hour))
    hints = submit(world, bob, units=3)
    assert work_off(world, [later, *hints]) == [bob] * 3


def test_work_at_one_scorer_takes_no_turn_at_another(world: World) -> None:
    extra = world.settings.model_dump(exclude_unset=True) | {"extra_scorers": ["/models/other"]}
    world.settings = Settings.model_validate(extra)
    bob = account(world, "bob")
    for unit in submit(world, bob, Stage.FINE, units=4, scorer="other"):
        assert claims.claim_unit(world.sessions, unit, "w2", world.settings.serving("other")) is not None
    hints = [submit(world, world.user.id, Stage.FINE)[0] for _ in range(10)]
    submit(world, bob, Stage.FINE)
    assert bob in work_off(world, hints)[:2]


def test_accounts_whose_jobs_are_cancelled_keep_no_turn(world: World) -> None:
    for number in range(6):
        submit(world, account(world, f"gone{number}"), Stage.FINE)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Job).values(cancel_requested=True))
    hints = submit(world, world.user.id, Stage.FINE, units=3)
    assert len(list(claim_some(world.sessions, Stage.FINE, 2, "w1", world.settings, Turns()))) == 2
    claim = take(world, hints[0], Turns())
    assert claim is not None
    assert claim.user_id == world.user.id


def test_many_workers_at_once_claim_each_unit_once(world: World) -> None:
    bob = account(world, "bob")
    hints = submit(world, world.user.id, units=8) + submit(world, bob, units=8)

    def one(number: int) -> Claim | None:
        return take(world, hints[number], Turns(), f"w{number}")

    with ThreadPoolExecutor(16) as pool:
        found = [claim for claim in pool.map(one, range(16)) if claim is not None]
    assert len({claim.unit_id for claim in found}) == len(found)
    # a worker that meets others at all its candidates leaves the rest to the next hint
    assert len(found) >= 8


def test_nothing_is_claimed_from_a_paused_queue(world: World) -> None:
    bob = account(world, "bob")
    hint = submit(world, world.user.id)[0]
    submit(world, bob)
    with transaction(world.sessions) as session:
        queues.pause(session, routing_of(world.settings), world.user, "query")
    assert take(world, hint, Turns()) is None


def test_units_that_are_done_together_are_of_several_accounts(world: World) -> None:
    bob = account(world, "bob")
    for _ in range(6):
        submit(world, world.user.id, Stage.FINE)
    later = submit(world, bob, Stage.FINE, units=2)
    found = list(claim_some(world.sessions, Stage.FINE, 4, "w1", world.settings, Turns()))
    assert [claim.user_id for claim in found].count(bob) == 2
    assert {claim.unit_id for claim in found if claim.user_id == bob} == set(later)


def test_a_worker_remembers_whom_it_served(world: World, context: WorkerContext) -> None:
    bob = account(world, "bob")
    done: list[UUID] = []
    hints = [submit(world, world.user.id)[0] for _ in range(3)] + submit(world, bob, units=3)

    def do(_: WorkerContext, held: LeasedUnit) -> list[Notification]:
        done.append(held.claim.user_id)
        end(world, held.claim)
        return []

    for hint in hints:
        run_unit(context, hint, do)
    assert done[:4] in ([bob, world.user.id] * 2, [world.user.id, bob] * 2)


def test_a_unit_that_waits_is_that_of_the_account_in_turn(world: World) -> None:
    bob, turns = account(world, "bob"), Turns()
    assert waiting_unit(world.sessions, Stage.EMBED, world.settings, turns) is None
    own, others = submit(world, world.user.id, Stage.EMBED, units=2), submit(world, bob, Stage.EMBED)
    submit(world, bob, Stage.COARSE)
    turns.note(world.user.id)
    assert waiting_unit(world.sessions, Stage.EMBED, world.settings, turns) == others[0]
    turns.note(bob)
    assert waiting_unit(world.sessions, Stage.EMBED, world.settings, turns) == own[0]
    fail(world, own[1])
    assert waiting_unit(world.sessions, Stage.EMBED, world.settings, turns) == own[1]


def test_what_is_remembered_is_bounded() -> None:
    turns = Turns()
    users = [new_id() for _ in range(1_500)]
    for user in users:
        turns.note(user)
    assert turns.served() == users[-1_000:]
    turns.note(users[600])
    assert turns.served()[-1] == users[600]
    assert len(turns.served()) == 1_000
