"""Stuck work is reported with reason and advice; work that progresses or waits its turn is not."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.factories import make_collection

from retllm.db.enums import Stage
from retllm.db.jobs import Unit
from retllm.db.operations import Worker
from retllm.db.session import transaction
from retllm.errors import MediaRejected, ModelUnavailable
from retllm.indexing.submit import submit_index
from retllm.operations import queues, stuck, workers
from retllm.operations.workers import WorkerReport
from retllm.queue import claim as claims
from retllm.queue.claim import Claim
from retllm.queue.routing import ONE_SCORER

RECENTLY = sa.func.now() - timedelta(seconds=20)
AN_HOUR_AGO = sa.func.now() - timedelta(minutes=61)


@pytest.fixture
def job_id(world) -> UUID:
    """An index job of two units, submitted an hour ago."""
    world.add_texts("a", "b", "c", "d")
    with transaction(world.sessions) as session:
        made = submit_index(session, world.user, world.collection_id, world.settings).job.id
    _set(world, run_after=AN_HOUR_AGO, announced_at=AN_HOUR_AGO)
    return made


def _set(world, unit_id: UUID | None = None, **values: Any) -> None:
    change = sa.update(Unit).values(values)
    with transaction(world.sessions) as session:
        session.execute(change if unit_id is None else change.where(Unit.id == unit_id))


def _worker(world, name: str = "gpu1:7", *served: str, error: str | None = None) -> None:
    model = {"name": "CLIP", "revision": None, "loaded": error is None, "error": error}
    with transaction(world.sessions) as session:
        workers.record(session, WorkerReport(name, served or ("query", "embed"), "cpu", "0", [model]))


def _found(world) -> list[stuck.Stuck]:
    with transaction(world.sessions) as session:
        return stuck.find(session, world.settings)


def _only(world) -> tuple[str, str]:
    (one,) = _found(world)
    return one.what, one.advice


def _claimed(world, job_id: UUID, worker: str = "gpu1:7") -> Claim:
    return world.must_claim(world.units(job_id)[0].id, worker)


def test_without_units_nothing_is_stuck(world) -> None:
    assert _found(world) == []
    _worker(world)
    assert _found(world) == []


def test_units_without_a_live_worker_are_stuck(world, job_id: UUID) -> None:
    _worker(world, "other:1", "score")
    what, advice = _only(world)
    assert what == "2 units wait in the queue embed, the first for 61 min: no live worker serves it."
    assert "retllm up" in advice
    _worker(world)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Worker).values(seen_at=AN_HOUR_AGO))
    assert "no live worker" in _only(world)[0], "a silent worker does not serve its queues"


def test_units_of_a_paused_queue_are_stuck(world, job_id: UUID) -> None:
    _worker(world)
    with transaction(world.sessions) as session:
        queues.pause(session, ONE_SCORER, world.user, "embed", "a new GPU")
    what, advice = _only(world)
    assert what.endswith("in the queue embed, the first for 61 min: ada paused it (a new GPU).")
    assert advice.startswith("Resume it")


def test_a_paused_or_unserved_queue_without_units_is_not_reported(world) -> None:
    with transaction(world.sessions) as session:
        queues.pause(session, ONE_SCORER, world.user, "embed")
    assert _found(world) == []


def test_ready_units_with_an_idle_worker_indicate_a_missing_dispatcher(world, job_id: UUID) -> None:
    _worker(world)
    what, advice = _only(world)
    assert what.endswith("no dispatcher notifies the workers, which are idle.")
    assert "`retllm dispatch`" in advice
    # the same if workers were never notified
    _set(world, announced_at=None)
    assert "no dispatcher" in _only(world)[0]


def test_announced_units_with_an_idle_worker_indicate_a_different_redis(world, job_id: UUID) -> None:
    _worker(world)
    _set(world, announced_at=RECENTLY)
    what, advice = _only(world)
    assert what.endswith("a dispatcher sent notifications, but the worker gpu1:7 is idle and does not claim the work.")
    assert "REDIS_URL" in advice


def test_units_that_wait_for_a_busy_worker_are_not_stuck(world, job_id: UUID) -> None:
    _worker(world)
    _claimed(world, job_id)
    assert _found(world) == [], "the only worker is busy"
    _worker(world, "gpu2:8")
    assert len(_found(world)) == 1, "another worker is idle"
    _set(world, world.units(job_id)[1].id, run_after=RECENTLY)
    assert _found(world) == [], "the unit has just become ready"


def test_a_worker_between_two_units_is_not_idle(world, job_id: UUID) -> None:
    _worker(world)
    claims.complete(world.sessions, _claimed(world, job_id), lambda *_: [])
    assert _found(world) == []
    _set(world, world.units(job_id)[0].id, finished_at=AN_HOUR_AGO)
    assert len(_found(world)) == 1


def test_expired_leases_indicate_a_missing_dispatcher(world, job_id: UUID) -> None:
    _worker(world)
    held = _claimed(world, job_id)
    _set(world, world.units(job_id)[1].id, run_after=RECENTLY)
    _set(world, held.unit_id, lease_until=RECENTLY)
    assert _found(world) == [], "a dispatcher may still take the unit back"
    _set(world, held.unit_id, lease_until=AN_HOUR_AGO)
    what, advice = _only(world)
    assert what == "1 unit has an expired lease, the first for 61 min: no dispatcher takes them back."
    assert "`retllm dispatch`" in advice


def test_a_worker_that_holds_one_unit_for_a_long_time_is_reported(world, job_id: UUID) -> None:
    _worker(world)
    held = _claimed(world, job_id)
    assert _found(world) == []
    _set(world, held.unit_id, started_at=AN_HOUR_AGO)
    what, advice = _only(world)
    assert what == f"The worker gpu1:7 has held one unit (embed, job {job_id}) for 61 min."
    assert "stop that worker" in advice


def test_a_model_that_cannot_be_loaded_is_reported_with_the_waiting_units(world, job_id: UUID) -> None:
    _worker(world, error="There is no folder /models/clip.")
    first, second = world.units(job_id)
    for unit in (first, second):
        claim = world.must_claim(unit.id)
        claims.fail(world.sessions, claim, ModelUnavailable("There is no folder /models/clip."), world.settings)
    _set(world, run_after=sa.func.now() + timedelta(seconds=8))
    what, advice = _only(world)
    assert what == (
        "The worker gpu1:7 can't load the model CLIP (There is no folder /models/clip); "
        "2 units of query and embed wait."
    )
    assert "retllm doctor" in advice
    _worker(world)
    assert _found(world) == [], "the model is loaded now, and the units will be retried"


def test_a_worker_whose_scorer_is_on_a_server_is_not_told_to_load_a_model(world) -> None:
    model = {"name": "openai:org/judge", "revision": None, "loaded": False, "error": "The server is away."}
    with transaction(world.sessions) as session:
        workers.record(session, WorkerReport("gpu1:7", ["score"], "server", "0", [model]))
    what, advice = _only(world)
    assert what == "The worker gpu1:7 can't use the model openai:org/judge (The server is away)."
    assert advice.startswith("Start or correct the server")


def test_dead_units_are_reported_for_a_day(world, job_id: UUID) -> None:
    _worker(world)
    for unit in world.units(job_id):
        claim = world.must_claim(unit.id)
        with transaction(world.sessions) as session:
            session.execute(sa.update(Unit).values(payload={"items": unit.payload["items"][:1]}))
        claims.fail(world.sessions, claim, MediaRejected("The picture can't be read."), world.settings)
    what, advice = _only(world)
    told = (
        rf"2 units died in the last 24 h, the last one \d+ s ago in job {job_id}: [abcd]: The picture can't be read\."
    )
    assert re.fullmatch(told, what), "the item is named"
    assert "retllm jobs retry" in advice
    _set(world, finished_at=sa.func.now() - timedelta(hours=25))
    assert _found(world) == []


def test_each_of_several_causes_is_reported(world, job_id: UUID) -> None:
    world.add_units(job_id, Stage.FINE, {"items": []})
    found = [one.what for one in _found(world)]
    assert [what.partition(":")[0].rpartition("queue ")[2].partition(",")[0] for what in found] == ["embed", "score"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 days")],
)
def test_a_duration_is_formatted_in_a_suitable_unit(seconds: int, text: str) -> None:
    assert stuck.format_duration(timedelta(seconds=seconds)) == text


def test_deleted_collections_that_are_not_removed_for_long_are_reported(world) -> None:
    with transaction(world.sessions) as session:
        gone = [make_collection(world.user.id, name, deleted_at=sa.func.now()) for name in "ab"]
        session.add_all(gone)
    assert not _found(world)
    with transaction(world.sessions) as session:
        session.execute(sa.text("UPDATE collections SET deleted_at = now() - interval '3 hours' WHERE name = 'a'"))
    what, advice = _only(world)
    assert what == "1 deleted collection is not removed yet for 3 h."
    assert "collection.not_removed" in advice
    with transaction(world.sessions) as session:
        session.execute(sa.text("UPDATE collections SET deleted_at = now() - interval '2 hours' WHERE name = 'b'"))
    assert _only(world)[0] == "2 deleted collections are not removed yet, the first for 3 h."
