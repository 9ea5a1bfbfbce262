"""Workers, queues and dead units through the API."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller, RecordingNotifier

from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.operations import workers
from retllm.operations.workers import WorkerReport
from retllm_web.http.services import Services

# the key of no object
UNKNOWN_ID = "018f3c5e-0000-7000-8000-000000000000"


@pytest.fixture
def job_id(ada: Caller) -> str:
    """An index job of ada's over two texts."""
    key = ada.post("/collections", json={"name": "Birds"}).json["id"]
    ada.post(f"/collections/{key}/items?index=false", json={"items": [{"text": "a robin"}, {"text": "a wren"}]})
    return str(ada.post(f"/collections/{key}/index").json["id"])


@pytest.fixture
def dead(job_id: str, served: Services) -> str:
    """The key of its unit, which is dead."""
    with transaction(served.sessions) as session:
        unit = session.scalars(sa.select(Unit).where(Unit.job_id == job_id)).one()
        unit.state, unit.attempt, unit.finished_at = UnitState.DEAD, 4, sa.func.now()
        unit.error, unit.traceback = "OSError: disk", "Traceback"
        job = session.get_one(Job, unit.job_id)
        job.state, job.finished_at = JobState.FAILED, sa.func.now()
        return str(unit.id)


def _queue(answer: Any, name: str) -> Any:
    return next(one for one in answer.json["queues"] if one["name"] == name)


def test_workers_are_listed_with_their_state_and_models(ada: Caller, served: Services) -> None:
    model = {"name": "clip", "revision": None, "loaded": False, "error": "no GPU"}
    with transaction(served.sessions) as session:
        workers.record(session, WorkerReport("gpu:1", ["score"], "cuda", "0.1.0", [model]))
    (one,) = ada.get("/system/workers").json["workers"]
    assert (one["name"], one["state"], one["models"], one["units"]) == ("gpu:1", "alive", [model], [])


def test_the_job_of_a_worker_is_hidden_from_accounts_without_access(
    root: Caller, ada: Caller, bob: Caller, job_id: str, served: Services
) -> None:
    with transaction(served.sessions) as session:
        workers.record(session, WorkerReport("cpu:1", ["embed"], "cpu", "0.1.0"))
        session.execute(sa.update(Unit).values(state=UnitState.LEASED, worker="cpu:1"))

    def held(caller: Caller) -> list[tuple[str, str | None]]:
        (one,) = caller.get("/system/workers").json["workers"]
        return [(unit["stage"], unit["job_id"]) for unit in one["units"]]

    assert held(ada) == held(root) == [("embed", job_id)]
    assert held(bob) == [("embed", None)]


def test_only_administrators_pause_and_resume_queues(
    root: Caller, ada: Caller, job_id: str, notified: RecordingNotifier
) -> None:
    assert _queue(ada.get("/system/queues"), "embed")["waiting"] == 1
    assert ada.post("/system/queues/embed/pause", json={}).status_code == 403
    answer = root.post("/system/queues/embed/pause", json={"reason": "a new GPU"})
    assert answer.status_code == 200
    pause = _queue(ada.get("/system/queues"), "embed")["pause"]
    assert (pause["by"], pause["reason"]) == ("root", "a new GPU")
    assert ada.post("/system/queues/embed/resume").status_code == 403
    notified.units.clear()
    (waited_for,) = ada.get(f"/jobs/{job_id}").json["pauses"]
    assert (waited_for["queue"], waited_for["by"], waited_for["reason"]) == ("embed", "root", "a new GPU")
    assert _queue(root.post("/system/queues/embed/resume"), "embed")["pause"] is None
    assert ada.get(f"/jobs/{job_id}").json["pauses"] == []
    assert [unit.stage for unit in notified.units] == [Stage.EMBED]


def test_hints_are_counted_if_redis_is_reachable(ada: Caller) -> None:
    assert all(isinstance(one["hints"], int) for one in ada.get("/system/queues").json["queues"])


def test_a_queue_that_does_not_exist_is_not_found(root: Caller) -> None:
    for answer in (
        root.post("/system/queues/score:openai:org/judge/pause", json={}),
        root.post("/system/queues/pictures/resume"),
        root.get("/system/dead-units?queue=pictures"),
    ):
        assert answer.status_code == 404
        assert answer.json["error"]["message"].endswith("The queues are query, media, embed, score.")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("embed/pause", {"reason": 5}),
        ("embed/pause", {"reason": "x" * 501}),
        ("embed/pause", {"reason": "a\0b"}),
        ("embed/pause", {"because": "x"}),
    ],
)
def test_an_invalid_pause_request_is_rejected(root: Caller, path: str, body: Any) -> None:
    assert root.post(f"/system/queues/{path}", json=body).status_code == 422


def test_dead_units_can_be_listed_and_requeued_only_with_access_to_their_job(
    ada: Caller, bob: Caller, dead: str, job_id: str
) -> None:
    (one,) = ada.get("/system/dead-units?queue=embed&text=DISK").json["units"]
    assert (one["id"], one["job_id"], one["may"], one["traceback"]) == (dead, job_id, True, "Traceback")
    assert ada.get("/system/dead-units?queue=score").json == {"units": [], "next": None}
    assert bob.get("/system/dead-units").json["units"] == []
    assert bob.post("/system/dead-units/requeue", json={"units": [dead]}).json == {
        "requeued": 0,
        "refused": {"no longer dead": 1},
    }
    assert ada.post("/system/dead-units/requeue", json={"units": [dead]}).json == {"requeued": 1, "refused": {}}
    assert ada.get(f"/jobs/{job_id}").json["state"] == "queued"


@pytest.mark.parametrize(
    "query",
    [
        "after=x",
        "after=0001-01-01T00:00:00%2B23:59_" + UNKNOWN_ID,
        "after=9999-12-31T23:59:59-23:59_" + UNKNOWN_ID,
        "text=%00",
        "limit=0",
        "other=1",
    ],
)
def test_invalid_filters_of_dead_units_are_rejected(ada: Caller, query: str) -> None:
    assert ada.get(f"/system/dead-units?{query}").status_code == 422


@pytest.mark.parametrize("body", [{}, {"units": []}, {"units": ["x"]}, {"units": [1]}, {"units": "x"}])
def test_requeueing_without_valid_units_is_rejected(ada: Caller, body: Any) -> None:
    assert ada.post("/system/dead-units/requeue", json=body).status_code == 422
