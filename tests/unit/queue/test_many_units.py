"""A job of thousands of units is added, cancelled and retried by few statements."""

from __future__ import annotations

import sqlalchemy as sa
from tests.factories import make_job, store
from tests.unit.job_world import World

from retllm.db.counts import UnitCount
from retllm.db.enums import JobKind, JobState, Stage, UnitState
from retllm.db.session import transaction
from retllm.history import control
from retllm.queue.audit import violations
from retllm.queue.notifications import FIRST_NOTIFIED

UNITS = 2500


def test_units_are_added_and_reopened_together(world: World) -> None:
    """Each statement adds rows to the counts, which every page sums."""
    params = {"embedder": "local-dir:/models/embedder", "item_image_weight": 0.7}
    with transaction(world.sessions) as session:
        job = make_job(world.user.id, world.collection_id, kind=JobKind.INDEX, params=params)
        store(session, job)
    payloads = [{"items": [], "number": number} for number in range(UNITS)]
    world.add_units(job.id, Stage.EMBED, *payloads)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, job.id)
    assert world.job(job.id).state is JobState.CANCELLED

    with transaction(world.sessions) as session:
        notified = control.retry_job(session, world.user, job.id).units
    units = world.units(job.id)
    assert [unit.payload for unit in units] == payloads
    assert {(unit.state, unit.attempt, unit.finished_at) for unit in units} == {(UnitState.READY, 0, None)}
    first = units[:FIRST_NOTIFIED]
    assert [one.unit_id for one in notified] == [unit.id for unit in first]
    assert [unit for unit in units if unit.announced_at is not None] == first
    with world.sessions() as session:
        rows = session.scalar(sa.select(sa.func.count()).select_from(UnitCount)) or 0
    assert rows < UNITS / 5
    assert [one for one in violations(world.sessions) if one.rule.endswith("counts_are_right")] == []
