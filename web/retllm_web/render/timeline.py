"""The steps of a job, with their times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from retllm.db.enums import OPEN_UNITS, OVER_JOBS, JobKind, JobState, Stage, UnitState
from retllm.db.state_words import JOB_STATES
from retllm.history.job_views import JobView, StageProgress
from retllm.search.results import SearchView

# the kinds of job that only do something with what is there, and what
_OF_ITEMS = {JobKind.DUPLICATES: "Comparing", JobKind.MAP: "Laying out", JobKind.OCR: "Reading"}


class StepStatus(StrEnum):
    """The state of a step: that of a job, or one of two states of a step without any work."""

    NOT_STARTED = "not started"  # no unit of it has started
    RUNNING = JOB_STATES[JobState.RUNNING]  # some of its units are open
    SUCCEEDED = JOB_STATES[JobState.SUCCEEDED]  # all of it is done
    PARTIAL = JOB_STATES[JobState.PARTIAL]  # over; some of it failed
    FAILED = JOB_STATES[JobState.FAILED]  # over; all of it failed
    CANCELLED = JOB_STATES[JobState.CANCELLED]  # ended by a person
    NOT_REACHED = "not reached"  # the job ended before this step


@dataclass(frozen=True)
class Step:
    """One step: when it began, how many seconds it took (None while it lasts), and its result as text."""

    name: str
    status: StepStatus
    began_at: datetime | None = None
    seconds: float | None = None
    text: str = ""


def timeline(job: JobView, search: SearchView | None, *, receiving: bool = False) -> list[Step]:
    """Return the steps of a job in their order; ``receiving`` is true for an upload that takes more files."""
    stages = {stage.stage: stage for stage in job.stages}
    steps = [_queued(job)]
    if job.kind is JobKind.UPLOAD:
        files = _stage("Files", job, stages.get(Stage.MEDIA), "files")
        if receiving and job.state not in OVER_JOBS:
            # how many are still to come, and what is in them, is not known
            text = f"{files.text} that arrived" if files.text else ""
            files = replace(files, status=StepStatus.RUNNING, began_at=job.created_at, seconds=None, text=text)
        steps.append(files)
    if name := _OF_ITEMS.get(job.kind):
        steps.append(_stage(name, job, stages.get(Stage.MEDIA)))
        return [*steps, _end("End", job, job.finished_at if job.state in OVER_JOBS else None)]
    if job.kind is not JobKind.SEARCH:
        steps.append(_stage("Embedding", job, stages.get(Stage.EMBED), "items"))
        return [*steps, _end("End", job, job.finished_at if job.state in OVER_JOBS else None)]
    coarse_at = search.coarse_at if search else None
    steps.append(_coarse(job, stages.get(Stage.COARSE), search, coarse_at))
    steps.append(_fine(job, stages.get(Stage.FINE), search))
    final = _end("Final order", job, search.final_at if search else None)
    if search is not None and _none_judged(job, search):
        final = replace(final, status=StepStatus.FAILED, text="not judged")
    return [*steps, final]


def _none_judged(job: JobView, search: SearchView) -> bool:
    return job.state in OVER_JOBS and search.final_at is not None and bool(search.candidates) and not search.judged


def _queued(job: JobView) -> Step:
    if job.started_at is not None:
        waited = (job.started_at - job.created_at).total_seconds()
        return Step("Queued", StepStatus.SUCCEEDED, job.created_at, max(0.0, waited))
    over = job.state in OVER_JOBS
    ended = StepStatus.CANCELLED if job.state is JobState.CANCELLED else StepStatus.SUCCEEDED
    return Step("Queued", ended if over else StepStatus.RUNNING, job.created_at)


def _coarse(job: JobView, stage: StageProgress | None, search: SearchView | None, coarse_at: datetime | None) -> Step:
    if stage is None and coarse_at is not None:
        return Step("Coarse stage", StepStatus.SUCCEEDED, job.started_at)
    step = _stage("Coarse stage", job, stage)
    if search is None or not search.candidates:
        return step
    text = f"{len(search.candidates):,} candidates"
    if search.searched_items is not None:
        about = "about " if search.exact is False else ""
        text += f" of {about}{search.searched_items:,}"
    return replace(step, text=text)


def _fine(job: JobView, stage: StageProgress | None, search: SearchView | None) -> Step:
    """Return the fine stage with counts of candidates, since one unit scores several."""
    step = _stage("Fine stage", job, stage)
    if search is None or stage is None:
        return step
    scored = sum(candidate.score is not None for candidate in search.candidates)
    failed = sum(candidate.error is not None for candidate in search.candidates)
    text = f"{scored:,} of {len(search.candidates):,} scored" + (f", {failed:,} failed" if failed else "")
    return replace(step, text=text, status=StepStatus.FAILED if _none_judged(job, search) else step.status)


def _stage(name: str, job: JobView, stage: StageProgress | None, what: str = "") -> Step:
    status = _status(job, stage)
    if stage is None:
        return Step(name, status)
    text = f"{stage.items_done:,} of {stage.items_total:,} {what}".strip() if stage.items_total else ""
    if stage.items_failed:
        text += f", {stage.items_failed:,} failed"
    return Step(name, status, stage.started_at, stage.seconds if stage.finished_at else None, text)


def _status(job: JobView, stage: StageProgress | None) -> StepStatus:
    over = job.state in OVER_JOBS
    if stage is None:
        nothing_to_do = job.state is JobState.SUCCEEDED
        return StepStatus.SUCCEEDED if nothing_to_do else StepStatus.NOT_REACHED if over else StepStatus.NOT_STARTED
    if any(stage.units.get(state) for state in OPEN_UNITS):
        started = stage.started_at is not None
        return StepStatus.RUNNING if started else StepStatus.NOT_STARTED
    if stage.units.get(UnitState.CANCELLED):
        return StepStatus.CANCELLED
    if stage.units.get(UnitState.DEAD):
        return StepStatus.PARTIAL if stage.units.get(UnitState.DONE) else StepStatus.FAILED
    return StepStatus.SUCCEEDED


def _end(name: str, job: JobView, at: datetime | None) -> Step:
    if at is None:
        return Step(name, StepStatus.NOT_REACHED if job.state in OVER_JOBS else StepStatus.NOT_STARTED)
    total = job.seconds if job.seconds is not None else max(0.0, (at - job.created_at).total_seconds())
    status = {
        JobState.PARTIAL: StepStatus.PARTIAL,
        JobState.FAILED: StepStatus.FAILED,
        JobState.CANCELLED: StepStatus.CANCELLED,
    }.get(job.state, StepStatus.SUCCEEDED)
    return Step(name, status, at, total, "in total")
