"""After any sequence of steps by users, workers and dispatchers the rows match a small model."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.chaos.client_log import Accepted, ClientLog, Ending, client_violations
from tests.soak import scaled
from tests.unit.queue.core_model import ATTEMPTS, MClaim, MJob, in_pairs
from tests.unit.queue.plain_results import embed, results
from tests.unit.stand_ins import SilentNotifier

from retllm.db.enums import AttemptOutcome, JobState, Stage, UnitState
from retllm.db.jobs import Attempt, Job, Unit
from retllm.db.searches import Score
from retllm.db.session import transaction
from retllm.db.tables import Collection, Embedding, new_id
from retllm.db.vectors import register_model
from retllm.errors import Conflict, JobCancelled, MediaRejected, ModelUnavailable, RetllmError, StaleClaim
from retllm.history import control
from retllm.indexing.submit import submit_index
from retllm.queue import claim as claims
from retllm.queue.audit import violations
from retllm.queue.claim import Lease
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.submission import Submitted
from retllm.search.request import SearchRequest
from retllm.search.submit import submit_search

pytestmark = pytest.mark.slow

PICK = st.integers(0, 10_000)
ACTIONS_ON_CLAIMS = ("renew", "complete", "fail", "release", "expire")
ACTIONS = ("claim", "claim", *ACTIONS_ON_CLAIMS, "complete", "fail", "rescue", "cancel", "retry", "submit_again")
ERRORS = st.sampled_from([RuntimeError("no memory"), MediaRejected("bad"), ModelUnavailable("no folder")])


class Machine(RuleBasedStateMachine):
    """Users, workers and a dispatcher, which call the functions of the platform."""

    world: Any

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[MJob] = []
        self.claims: list[MClaim] = []
        self.log = ClientLog()
        with transaction(self.world.sessions) as session:
            name = self.world.settings.embedders
            self.model = register_model(
                session, name=next(iter(name)), revision="1", dimension=3, preprocessing_hash="1"
            ).id

    # helpers

    def _one(self, number: int) -> MJob:
        return self.jobs[number % len(self.jobs)]

    def _held(self, number: int) -> MClaim:
        """Choose a claim: mostly a live one, often of a job that is being cancelled, sometimes a stale one."""
        live = [held for held in self.claims if self._is_live(held)]
        cancelling = [held for held in live if held.job.cancel]
        among = [self.claims, live, live, cancelling][number % 4] or self.claims
        return among[number // 4 % len(among)]

    def _is_live(self, claim: MClaim) -> bool:
        unit = claim.job.units[claim.key]
        return unit.holder == id(claim) and unit.state is UnitState.LEASED and not claim.expired

    def _collection(self, count: int) -> tuple[UUID, list[str]]:
        key = new_id()
        with transaction(self.world.sessions) as session:
            session.add(Collection(id=key, owner_id=self.world.user.id, name=str(key)))
        self.world.collection_id = key
        return key, sorted(str(item) for item in self.world.add_texts(*[f"{key} {n}" for n in range(count)]))

    def _accept(self, job: MJob, submitted: Submitted) -> None:
        assert submitted.job.id == job.id
        self.log.accepted.append(Accepted(job.id, job.key))

    def _fenced(self, claim: MClaim, action: Callable[[], object]) -> bool:
        """Run the action; return whether it took effect, which must be so exactly for a live claim."""
        if self._is_live(claim):
            action()
            return True
        with pytest.raises(StaleClaim):
            action()
        return False

    # one rule, to control the mixture: most steps need a claimed unit

    @rule(action=st.sampled_from(ACTIONS), which=PICK, unit=PICK, error=ERRORS)
    def step(self, action: str, which: int, unit: int, error: Exception) -> None:
        live = any(self._is_live(held) for held in self.claims)
        if action in ACTIONS_ON_CLAIMS and not (live or (self.claims and which % 3 == 0)):
            action = "claim"
        if action == "expire" and any(held.expired for held in self.claims):
            action = "rescue"
        getattr(self, action)(which, unit, error)

    # users

    @initialize(count=st.integers(1, 5))
    def submit_index(self, count: int) -> None:
        collection, items = self._collection(count)
        key = uuid.uuid4().hex
        with transaction(self.world.sessions) as session:
            done = submit_index(session, self.world.user, collection, self.world.settings, idempotency_key=key)
        job = MJob(done.job.id, key, "index", collection, items)
        job.add(Stage.EMBED, in_pairs(items))
        self.jobs.append(job)
        self._accept(job, done)

    @initialize(count=st.integers(1, 5))
    def submit_search(self, count: int) -> None:
        collection, items = self._collection(count)
        with transaction(self.world.sessions) as session:
            embed(session, self.model, collection, items, new_id())
        key = uuid.uuid4().hex
        done = self._search(collection, key)
        job = MJob(done.job.id, key, "search", collection, items)
        job.add(Stage.COARSE, [[]])
        self.jobs.append(job)
        self._accept(job, done)

    def _search(self, collection: UUID, key: str) -> Submitted:
        with transaction(self.world.sessions) as session:
            return submit_search(
                session,
                self.world.user,
                collection,
                SearchRequest(text="what"),
                self.world.settings,
                idempotency_key=key,
            )

    def submit_again(self, which: int, _: int, __: Exception) -> None:
        """A repeated request returns the job of the first one."""
        job = self._one(which)
        if job.kind == "search":
            done = self._search(job.collection, job.key)
        else:
            with transaction(self.world.sessions) as session:
                done = submit_index(
                    session, self.world.user, job.collection, self.world.settings, idempotency_key=job.key
                )
        assert not done.created
        self._accept(job, done)

    def cancel(self, which: int, _: int, __: Exception) -> None:
        job = self._one(which)

        def action() -> None:
            with transaction(self.world.sessions) as session:
                control.cancel_job(session, self.world.user, job.id)

        if job.over and job.state is not JobState.CANCELLED:
            with pytest.raises(Conflict):
                action()
            return
        action()
        if not job.over:
            job.cancel = True
            job.drop_waiting()

    def retry(self, which: int, _: int, __: Exception) -> None:
        job = self._one(which)

        def action() -> None:
            with transaction(self.world.sessions) as session:
                control.retry_job(session, self.world.user, job.id)

        if not job.over or job.state is JobState.SUCCEEDED:
            with pytest.raises(Conflict):
                action()
            return
        action()
        job.state, job.cancel = JobState.QUEUED, False
        for unit in job.units.values():
            if unit.state in (UnitState.DEAD, UnitState.CANCELLED):
                unit.state, unit.attempt = UnitState.READY, 0
        job.finish_if_complete()

    # workers

    def claim(self, which: int, unit: int, _: Exception) -> None:
        """A notification may name any unit, even a done one; only a ready one can be claimed."""
        job = self._one(which)
        ready = [key for key, one in job.units.items() if one.state is UnitState.READY]
        among = sorted(ready if ready and unit % 4 else job.units)
        key = among[unit // 4 % len(among)]
        expected = job.units[key]
        found = [row.id for row in self.world.units(job.id, key[0]) if row.seq == key[1]]
        claim = self.world.claim(found[0])
        if job.over or job.cancel or expected.state is not UnitState.READY:
            assert claim is None
            return
        assert claim is not None
        held = MClaim(claim, job, key)
        expected.state, expected.holder = UnitState.LEASED, id(held)
        expected.attempt += 1
        expected.trail.append((expected.attempt, None))
        if job.state is JobState.QUEUED:
            job.state = JobState.RUNNING
        self.claims.append(held)

    def renew(self, which: int, _: int, __: Exception) -> None:
        held = self._held(which)
        lease = Lease(self.world.sessions, held.real, self.world.settings)
        lease._renew()
        if not self._is_live(held):
            with pytest.raises(StaleClaim):
                lease.check()
        elif held.job.cancel:
            with pytest.raises(JobCancelled):
                lease.check()
        else:
            lease.check()

    def complete(self, which: int, _: int, __: Exception) -> None:
        held = self._held(which)
        unit = held.job.units[held.key]
        if not self._fenced(held, lambda: claims.complete(self.world.sessions, held.real, results(held, self.model))):
            return
        unit.holder = None
        unit.ended(AttemptOutcome.CANCELLED if held.job.cancel else AttemptOutcome.COMMITTED)
        if held.job.cancel:
            unit.state = UnitState.CANCELLED
            held.job.drop_waiting()
            return
        unit.state = UnitState.DONE
        held.job.finish_if_complete()

    def fail(self, which: int, _: int, error: Exception) -> None:
        held = self._held(which)
        unit = held.job.units[held.key]
        if not self._fenced(held, lambda: claims.fail(self.world.sessions, held.real, error, self.world.settings)):
            return
        unit.ended(AttemptOutcome.FAILED)
        if held.job.cancel:
            unit.state, unit.holder = UnitState.CANCELLED, None
            held.job.drop_waiting()
            return
        permanent = isinstance(error, RetllmError) and not error.retryable
        held.job.give_up(held.key, permanent=permanent, split=not isinstance(error, ModelUnavailable))

    def release(self, which: int, _: int, __: Exception) -> None:
        held = self._held(which)
        unit = held.job.units[held.key]
        if not self._fenced(held, lambda: claims.release(self.world.sessions, held.real)):
            return
        unit.ended(AttemptOutcome.CANCELLED if held.job.cancel else AttemptOutcome.RETURNED)
        unit.state, unit.holder = UnitState.READY, None
        unit.attempt -= 1
        if held.job.cancel:
            held.job.drop_waiting()

    # time and the dispatcher

    def expire(self, which: int, _: int, __: Exception) -> None:
        held = self._held(which)
        if self._is_live(held):
            held.expired = True
            with transaction(self.world.sessions) as session:
                past = sa.func.clock_timestamp() - sa.text("interval '1 second'")
                session.execute(sa.update(Unit).where(Unit.id == held.real.unit_id).values(lease_until=past))

    def rescue(self, _: int, __: int, ___: Exception) -> None:
        Dispatcher(self.world.sessions, SilentNotifier(), self.world.settings).rescue()  # type: ignore[arg-type]
        for held in self.claims:
            unit = held.job.units[held.key]
            if held.expired and unit.holder == id(held):
                unit.ended(AttemptOutcome.LOST)
                held.job.give_up(held.key, permanent=False, split=True)
                if held.job.cancel:
                    held.job.drop_waiting()
        self.claims = [held for held in self.claims if not held.expired] + [
            MClaim(held.real, held.job, held.key) for held in self.claims if held.expired
        ]

    # what is true after every step

    @invariant()
    def rows_match_the_model(self) -> None:
        if not self.jobs:
            return
        by_id = {job.id: job for job in self.jobs}
        with self.world.sessions() as session:
            rows = session.scalars(sa.select(Job).where(Job.id.in_(by_id))).all()
            units = session.scalars(sa.select(Unit).where(Unit.job_id.in_(by_id))).all()
            trails, held = defaultdict(list), [unit.id for unit in units]
            for one in session.scalars(sa.select(Attempt).where(Attempt.unit_id.in_(held)).order_by(Attempt.token)):
                trails[one.unit_id].append((one.number, one.outcome))
        for row in rows:
            job = by_id[row.id]
            assert (row.state, row.cancel_requested) == (job.state, job.cancel)
            assert (row.finished_at is not None) == job.over
            here = {
                (unit.stage, unit.seq): (unit.state, unit.attempt, unit.payload.get("items", []), trails[unit.id])
                for unit in units
                if unit.job_id == row.id
            }
            assert here == {key: (unit.state, unit.attempt, unit.items, unit.trail) for key, unit in job.units.items()}
            if job.state is JobState.SUCCEEDED:
                assert row.finished_at is not None
                self.log.endings.append(Ending(row.id, row.finished_at))
        assert len(rows) == len(self.jobs)

    def teardown(self) -> None:
        """Every accepted job exists, was done once, and has exactly its results."""
        if not self.jobs:
            return
        assert [str(one) for one in violations(self.world.sessions)] == []
        assert [str(one) for one in client_violations(self.world.sessions, self.log)] == []
        with self.world.sessions() as session:
            for job in self.jobs:
                done = [item for unit in job.units.values() if unit.state is UnitState.DONE for item in unit.items]
                table = Embedding.item_id if job.kind == "index" else Score.item_id
                owner = Embedding.collection_id == job.collection if job.kind == "index" else Score.search_id == job.id
                written = sorted(str(item) for item in session.scalars(sa.select(table).where(owner)))
                assert written == sorted(done)


@pytest.mark.timeout(scaled(600, 1800))
def test_no_sequence_of_steps_loses_accepted_work_or_does_it_twice(world: Any) -> None:
    world.settings = world.settings.model_copy(
        update={"max_attempts": ATTEMPTS, "lease_seconds": 3600, "default_k": 5, "tie_decimals": 12}
    )

    class MachineOfWorld(Machine):
        pass

    MachineOfWorld.world = world
    run_state_machine_as_test(
        MachineOfWorld,
        settings=settings(
            max_examples=scaled(24, 400),
            stateful_step_count=40,
            deadline=None,
            database=None,
            # no shrinking of failures, which would take minutes
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
