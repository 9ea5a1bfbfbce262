"""The steps that a job goes through, with their times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from retllm.db.enums import OPEN_UNITS, OVER_JOBS, JobKind, JobState, Stage, UnitState
from retllm.history.job_views import JobView, StageProgress
from retllm.search.results import SearchView


class StepStatus(StrEnum):
    """How far a step is."""

    AHEAD = "ahead"  # nothing of it has begun
    NOW = "at work"  # a part of it is waiting or at work
    DONE = "done"  # all of it is done
    PARTIAL = "done in part"  # over, and some of it failed
    FAILED = "failed"  # over, and all of it failed
    STOPPED = "stopped"  # ended by a person
    UNREACHED = "not reached"  # the job ended before it


@dataclass(frozen=True)
class Step:
    """One step: since when, how many seconds it took (None while it lasts), and what came of it in words."""

    name: str
    standing: StepStatus
    began_at: datetime | None = None
    seconds: float | None = None
    told: str = ""


def timeline(job: JobView, search: SearchView | None) -> list[Step]:
    """The steps of a job, in their order."""
    stages = {one.stage: one for one in job.stages}
    steps = [_queued(job)]
    if job.kind is JobKind.INDEX:
        steps.append(_stage("Embedding", job, stages.get(Stage.EMBED)))
        return [*steps, _end("Over", job, job.finished_at if job.state in OVER_JOBS else None)]
    coarse_at = search.coarse_at if search else None
    steps.append(_coarse(job, stages.get(Stage.COARSE), search, coarse_at))
    steps.append(_fine(job, stages.get(Stage.FINE), search))
    return [*steps, _end("Final order", job, search.final_at if search else None)]


def _queued(job: JobView) -> Step:
    if job.started_at is not None:
        waited = (job.started_at - job.created_at).total_seconds()
        return Step("Queued", StepStatus.DONE, job.created_at, max(0.0, waited))
    over = job.state in OVER_JOBS
    stopped = StepStatus.STOPPED if job.state is JobState.CANCELLED else StepStatus.DONE
    return Step("Queued", stopped if over else StepStatus.NOW, job.created_at)


def _coarse(job: JobView, stage: StageProgress | None, search: SearchView | None, coarse_at: datetime | None) -> Step:
    if stage is None and coarse_at is not None:
        return Step("Coarse stage", StepStatus.DONE, job.started_at)
    step = _stage("Coarse stage", job, stage)
    if search is None or not search.candidates:
        return step
    told = f"{len(search.candidates):,} candidates"
    if search.searched_items is not None:
        told += f" of {search.searched_items:,}"
    return replace(step, told=told)


def _fine(job: JobView, stage: StageProgress | None, search: SearchView | None) -> Step:
    """Told by candidates and not by units, which take several of them at once."""
    step = _stage("Fine stage", job, stage)
    if search is None or stage is None:
        return step
    judged = sum(one.score is not None for one in search.candidates)
    failed = sum(one.error is not None for one in search.candidates)
    told = f"{judged:,} of {len(search.candidates):,} judged" + (f", {failed:,} failed" if failed else "")
    return replace(step, told=told)


def _stage(name: str, job: JobView, stage: StageProgress | None) -> Step:
    standing = _standing(job, stage)
    if stage is None:
        return Step(name, standing)
    told = f"{stage.items_done:,} of {stage.items_total:,}" if stage.items_total else ""
    if stage.items_failed:
        told += f", {stage.items_failed:,} failed"
    return Step(name, standing, stage.started_at, stage.seconds if stage.finished_at else None, told)


def _standing(job: JobView, stage: StageProgress | None) -> StepStatus:
    over = job.state in OVER_JOBS
    if stage is None:
        nothing_to_do = job.state is JobState.SUCCEEDED
        return StepStatus.DONE if nothing_to_do else StepStatus.UNREACHED if over else StepStatus.AHEAD
    if any(stage.units.get(state) for state in OPEN_UNITS):
        begun = stage.started_at is not None
        return StepStatus.NOW if begun else StepStatus.AHEAD
    if stage.units.get(UnitState.CANCELLED):
        return StepStatus.STOPPED
    if stage.units.get(UnitState.DEAD):
        return StepStatus.PARTIAL if stage.units.get(UnitState.DONE) else StepStatus.FAILED
    return StepStatus.DONE


def _end(name: str, job: JobView, at: datetime | None) -> Step:
    if at is None:
        return Step(name, StepStatus.UNREACHED if job.state in OVER_JOBS else StepStatus.AHEAD)
    whole = max(0.0, (at - job.created_at).total_seconds())
    standing = {
        JobState.PARTIAL: StepStatus.PARTIAL,
        JobState.FAILED: StepStatus.FAILED,
        JobState.CANCELLED: StepStatus.STOPPED,
    }.get(job.state, StepStatus.DONE)
    return Step(name, standing, at, whole, "in all")
