"""Jobs of a collection in the trash stop, and a retry goes on with them when it was restored."""

from __future__ import annotations

from datetime import timedelta

from tests.unit.stand_ins import FakeEmbedder, SilentNotifier

from retllm.db.enums import JobState, UnitState
from retllm.db.session import run_transaction, transaction
from retllm.history import control
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import embed_unit
from retllm.media import records, trash
from retllm.queue.audit import violations
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.trashed import cancel_jobs
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit


def _embed(context: WorkerContext, held: LeasedUnit):
    return embed_unit(context, held, lambda _: FakeEmbedder())


def _put(world) -> None:
    run_transaction(world.sessions, lambda session: records.delete_collection(session, world.collection_id, days=30))


def _restore(world) -> None:
    run_transaction(world.sessions, lambda session: trash.restore_collection(session, world.collection_id))


def test_jobs_go_on_if_the_collection_is_restored_soon(context: WorkerContext, world) -> None:
    world.add_texts("a robin")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
    _put(world)
    assert cancel_jobs(world.sessions) == 0
    _restore(world)
    run_unit(context, world.units(job_id)[0].id, _embed)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert violations(world.sessions, quiet=True) == []


def test_jobs_are_cancelled_and_can_be_retried(context: WorkerContext, world) -> None:
    world.add_texts("a robin", "a wren", "a crow")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
    first, *others = world.units(job_id)
    assert others

    def lose(context: WorkerContext, held: LeasedUnit):
        # the worker finds that it lost the unit, and leaves it
        _put(world)
        assert cancel_jobs(world.sessions, after=timedelta(0)) == 1
        return _embed(context, held)

    run_unit(context, first.id, lose)
    _restore(world)
    states = [unit.state for unit in world.units(job_id)]
    assert states == [UnitState.LEASED, *[UnitState.CANCELLED] * len(others)]
    with transaction(world.sessions) as session:
        # as time does
        session.get_one(type(first), first.id).lease_until = first.created_at
    Dispatcher(world.sessions, SilentNotifier(), world.settings).rescue()
    assert world.job(job_id).state is JobState.CANCELLED
    assert violations(world.sessions, quiet=True) == []
    run_transaction(world.sessions, lambda session: control.retry_job(session, world.user, job_id))
    for unit in world.units(job_id):
        run_unit(context, unit.id, _embed)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert violations(world.sessions, quiet=True) == []
