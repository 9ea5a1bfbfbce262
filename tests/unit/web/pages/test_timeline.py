"""The steps of a job with their states and times."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retllm.db.enums import JobKind, JobState, Stage, UnitState
from retllm.history.job_views import JobView, StageProgress
from retllm_web.render.timeline import Step, StepStatus, timeline

BEGAN = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


def _at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def _stage(units: dict[UnitState, int], **more: Any) -> StageProgress:
    plain: dict[str, Any] = {
        "stage": Stage.EMBED,
        "items_total": 10,
        "items_done": 0,
        "items_failed": 0,
        "seconds": None,
    }
    return StageProgress(**{**plain, "started_at": None, "finished_at": None, "units": units, **more})


def _index(state: JobState, *stages: StageProgress, **more: Any) -> list[Step]:
    plain: dict[str, Any] = {"started_at": None, "finished_at": None, "cancel_requested": False, "error": None}
    finished_at = more.get("finished_at")
    plain["seconds"] = None if finished_at is None else max(0.0, (finished_at - BEGAN).total_seconds())
    job = JobView(
        id=uuid.uuid4(),
        kind=JobKind.INDEX,
        state=state,
        collection_id=uuid.uuid4(),
        collection_name="c",
        user_name="ada",
        created_at=BEGAN,
        progress=0,
        stages=list(stages),
        errors=[],
        files=None,
        params={},
        **{**plain, **more},
    )
    return timeline(job, None)


def _statuses(steps: list[Step]) -> list[str]:
    return [step.status.value for step in steps]


def test_a_queued_job_has_only_its_first_step_running() -> None:
    steps = _index(JobState.QUEUED, _stage({UnitState.READY: 2}))
    assert _statuses(steps) == ["running", "not started", "not started"]
    assert (steps[0].began_at, steps[0].seconds) == (BEGAN, None)


def test_a_running_step_has_a_start_time_but_no_duration() -> None:
    steps = _index(
        JobState.RUNNING,
        _stage({UnitState.DONE: 1, UnitState.LEASED: 1}, items_done=5, started_at=_at(3), seconds=4.0),
        started_at=_at(3),
    )
    assert _statuses(steps) == ["succeeded", "running", "not started"]
    assert (steps[0].seconds, steps[1].began_at, steps[1].seconds, steps[1].text) == (
        3.0,
        _at(3),
        None,
        "5 of 10 items",
    )


@pytest.mark.parametrize(
    ("state", "units", "status"),
    [
        (JobState.SUCCEEDED, {UnitState.DONE: 2}, StepStatus.SUCCEEDED),
        (JobState.SUCCEEDED, {UnitState.SPLIT: 1, UnitState.DONE: 2}, StepStatus.SUCCEEDED),
        (JobState.PARTIAL, {UnitState.DONE: 1, UnitState.DEAD: 1}, StepStatus.PARTIAL),
        (JobState.FAILED, {UnitState.DEAD: 2}, StepStatus.FAILED),
        (JobState.CANCELLED, {UnitState.DONE: 1, UnitState.CANCELLED: 1}, StepStatus.CANCELLED),
    ],
)
def test_an_ended_job_shows_how_each_step_ended(
    state: JobState, units: dict[UnitState, int], status: StepStatus
) -> None:
    stage = _stage(units, started_at=_at(3), finished_at=_at(7), seconds=4.0)
    steps = _index(state, stage, started_at=_at(3), finished_at=_at(7))
    assert [step.status for step in steps] == [StepStatus.SUCCEEDED, status, status]
    assert [step.seconds for step in steps] == [3.0, 4.0, 7.0]


def test_the_time_before_a_retry_is_not_part_of_the_total() -> None:
    stage = _stage({UnitState.DONE: 2}, started_at=_at(3), finished_at=_at(3600), seconds=4.0)
    steps = _index(JobState.SUCCEEDED, stage, started_at=_at(3), finished_at=_at(3600), seconds=9.0)
    assert [step.seconds for step in steps] == [3.0, 4.0, 9.0]


def test_a_job_cancelled_while_queued_shows_all_steps_as_cancelled() -> None:
    steps = _index(JobState.CANCELLED, _stage({UnitState.CANCELLED: 1}), finished_at=_at(2))
    assert _statuses(steps) == ["cancelled", "cancelled", "cancelled"]
    assert steps[0].seconds is None


def test_a_job_without_units_shows_all_steps_as_succeeded() -> None:
    assert _statuses(_index(JobState.SUCCEEDED, finished_at=_at(0))) == ["succeeded", "succeeded", "succeeded"]


def test_a_clock_set_back_gives_no_negative_durations() -> None:
    steps = _index(JobState.SUCCEEDED, _stage({UnitState.DONE: 1}), started_at=_at(-5), finished_at=_at(-1))
    assert [step.seconds for step in steps if step.seconds is not None] == [0.0, 0.0]
