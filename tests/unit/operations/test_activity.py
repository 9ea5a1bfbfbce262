"""The statistics of a window match numbers computed by hand, and each account sees only its own collections."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta

import pytest

from retllm.db.enums import ItemKind, JobKind, JobState, Role, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.operations import activity, queues, workers
from retllm.operations.activity import WINDOWS, Activity
from retllm.queue.routing import ONE_SCORER


def _ended(world, state: JobState, ago: timedelta, seconds: float = 1.0, kind: JobKind = JobKind.SEARCH) -> Job:
    end = datetime.now(UTC) - ago
    job = Job(
        id=new_id(),
        kind=kind,
        state=state,
        user_id=world.user.id,
        collection_id=world.collection_id,
        params={},
        created_at=end - timedelta(seconds=seconds),
        finished_at=end,
        error="no GPU" if state is JobState.FAILED else None,
    )
    with transaction(world.sessions) as session:
        session.add(job)
    return job


def _activity(world, window: str = "24h", user: Actor | None = None) -> Activity:
    with transaction(world.sessions) as session:
        return activity.activity(session, user or world.user, WINDOWS[window])


def _bob(world) -> Actor:
    with transaction(world.sessions) as session:
        return Actor.unlimited(accounts.create_user(session, "bob", "a-long-password", Role.EDITOR))


def test_jobs_are_counted_in_the_interval_in_which_they_ended(world) -> None:
    hours = [timedelta(minutes=minutes) for minutes in (0, 61, 62, 600, 24 * 60 + 61)]
    for ago in hours:
        _ended(world, JobState.SUCCEEDED, ago)
    _ended(world, JobState.FAILED, timedelta(minutes=1))
    _ended(world, JobState.PARTIAL, timedelta(minutes=1))
    _ended(world, JobState.CANCELLED, timedelta(minutes=1), kind=JobKind.INDEX)
    got = _activity(world)
    assert len(got.pieces) == 24
    assert got.pieces[-1].start <= datetime.now(UTC) < got.pieces[-1].start + timedelta(hours=1)
    assert (got.total.succeeded, got.total.failed, got.total.cancelled) == (4, 2, 1)
    assert sum(one.succeeded for one in got.pieces) == 4, "jobs that ended before the window are excluded"
    found = {one.start: one.succeeded for one in got.pieces if one.succeeded}
    expected = [(datetime.now(UTC) - ago).replace(minute=0, second=0, microsecond=0) for ago in hours[:-1]]
    assert set(found) == set(expected)
    assert _activity(world, "7d").total.succeeded == 5
    assert len(_activity(world, "7d").pieces) == 28


def test_the_latency_includes_only_successful_searches(world) -> None:
    taken = [1.0, 2.0, 3.0, 4.0, 10.0]
    for seconds in taken:
        _ended(world, JobState.SUCCEEDED, timedelta(seconds=5), seconds)
    _ended(world, JobState.FAILED, timedelta(seconds=5), 500)
    _ended(world, JobState.SUCCEEDED, timedelta(seconds=5), 500, kind=JobKind.INDEX)
    total = _activity(world).total
    assert total.searches == 5
    assert total.p50 == pytest.approx(statistics.median(taken))
    assert total.p95 == pytest.approx(statistics.quantiles(taken, n=20, method="inclusive")[-1])


def test_without_jobs_the_counts_are_zero_and_the_latencies_none(world) -> None:
    got = _activity(world)
    assert (got.total.succeeded, got.total.items, got.total.p50, got.total.p95) == (0, 0, None, None)
    assert {one.p50 for one in got.pieces} == {None}


def test_items_are_counted_when_their_unit_is_done(world) -> None:
    job = _ended(world, JobState.SUCCEEDED, timedelta(0), kind=JobKind.INDEX)
    with transaction(world.sessions) as session:
        for seq, state in enumerate((UnitState.DONE, UnitState.DONE, UnitState.DEAD)):
            payload = {"items": ["a", "b", "c"]}
            unit = Unit(job_id=job.id, stage=Stage.EMBED, seq=seq, state=state, payload=payload)
            unit.finished_at = datetime.now(UTC)
            session.add(unit)
    assert _activity(world).total.items == 6


def test_other_accounts_see_no_activity_in_a_private_collection(world) -> None:
    world.add_texts("a", "b")
    _ended(world, JobState.FAILED, timedelta(0))
    bob = _bob(world)
    assert _activity(world, user=bob).total.failed == 0
    with transaction(world.sessions) as session:
        assert activity.latest_failures(session, bob) == []
        assert activity.holdings(session, bob) == activity.Holdings(0, {})
        assert activity.holdings(session, world.user) == activity.Holdings(1, {ItemKind.TEXT: 2})


def test_failed_and_partially_succeeded_jobs_are_listed_newest_first(world) -> None:
    jobs = [_ended(world, state, timedelta(0)) for state in (JobState.FAILED, JobState.PARTIAL, JobState.FAILED)]
    _ended(world, JobState.SUCCEEDED, timedelta(0))
    with transaction(world.sessions) as session:
        assert [one.id for one in activity.latest_failures(session, world.user, 2)] == [jobs[2].id, jobs[1].id]
        assert activity.latest_failures(session, world.user)[0].error == "no GPU"


def test_the_stamp_changes_with_the_data_shown_and_not_with_a_heartbeat(world) -> None:
    def stamp() -> object:
        # without the current minute, which may change during the test
        return world.in_transaction(lambda session: activity.stamp(session)[1:])  # type: ignore[index]

    def send_report(loaded: bool) -> None:
        report = workers.WorkerReport("host:1", ["score"], "cpu", "0", [{"name": "m", "loaded": loaded}])
        world.in_transaction(lambda session: workers.record(session, report))

    seen = [stamp()]
    changes = [
        lambda: send_report(False),
        lambda: send_report(True),
        lambda: world.in_transaction(lambda session: queues.pause(session, ONE_SCORER, world.user, "score")),
        lambda: _ended(world, JobState.FAILED, timedelta(0)),
        lambda: world.add_texts("new"),
        lambda: world.in_transaction(lambda session: workers.leave(session, "host:1")),
    ]
    for change in changes:
        change()
        seen.append(stamp())
    assert len(set(map(str, seen))) == len(seen)
    send_report(True)
    before = stamp()
    send_report(True)
    assert stamp() == before, "a report without changes does not change the stamp"
