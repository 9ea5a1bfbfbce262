"""Evaluation runs as lines of the history: the searches of one are listed as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import OVER_JOBS, JobKind, JobState, RunSource
from retllm.db.jobs import Job
from retllm.db.reviews import EvaluationRun
from retllm.db.tables import Collection, User
from retllm.history import listing
from retllm.history.listing import JobFilters
from retllm.identity.access import within_visible
from retllm.identity.actor import Actor


@dataclass(frozen=True)
class RunLine:
    """A run with its searches by state; ``user_name`` is None if the account was deleted."""

    id: UUID
    name: str
    collection_id: UUID
    collection_name: str
    user_name: str | None
    created_at: datetime
    states: Mapping[JobState, int]

    @property
    def searches(self) -> int:
        """How many searches it has, without deleted ones."""
        return sum(self.states.values())

    @property
    def over(self) -> int:
        """How many of them have ended."""
        return sum(number for state, number in self.states.items() if state in OVER_JOBS)

    @property
    def state(self) -> JobState:
        """The state of all of them together."""
        return state_of(self.states)


def state_of(states: Mapping[JobState, int]) -> JobState:
    """Return the state of several jobs together, of which ``states`` has the number in each state."""
    present = {state for state, number in states.items() if number}
    if len(present) == 1:
        return present.pop()
    if not present.issubset(OVER_JOBS):
        return JobState.RUNNING
    return JobState.PARTIAL if present else JobState.SUCCEEDED


@dataclass(frozen=True)
class GroupedPage:
    """A page of the history with runs as one line each: ``jobs`` and ``runs`` are sorted together by their keys."""

    jobs: Sequence[Job]
    runs: Sequence[RunLine]
    next: UUID | None


def page(
    session: Session, actor: Actor, filters: JobFilters, *, after: UUID | None = None, limit: int = 50
) -> GroupedPage:
    """Return a page of single jobs and of runs that match, newest first; ``after`` is ``next`` of the page before.

    Both have keys that begin with the time of their creation, so each is read by an index from ``after`` on.
    """
    single = sa.select(Job).where(Job.run_id.is_(None), *filters.matching(actor)).order_by(Job.id.desc())
    grouped = _matching(actor, filters).order_by(EvaluationRun.id.desc())
    if after is not None:
        single, grouped = single.where(Job.id < after), grouped.where(EvaluationRun.id < after)
    jobs = {job.id: job for job in session.scalars(single.limit(limit + 1))}
    runs = set(session.scalars(grouped.limit(limit + 1)))
    keys = sorted({*jobs, *runs}, reverse=True)
    shown = keys[:limit]
    return GroupedPage(
        jobs=[jobs[key] for key in shown if key in jobs],
        runs=_lines(session, [key for key in shown if key in runs]),
        next=shown[-1] if len(keys) > limit else None,
    )


def _matching(actor: Actor, filters: JobFilters) -> sa.Select[UUID]:
    """Return the query for the keys of runs that match the filters."""
    if filters.kind not in (None, JobKind.SEARCH):
        return sa.select(EvaluationRun.id).where(sa.false())
    collection_id = sa.type_coerce(EvaluationRun.collection_id, sa.Uuid())
    conditions = [EvaluationRun.source == RunSource.REVIEWED, within_visible(actor, collection_id)]
    if filters.collection_id is not None:
        conditions.append(EvaluationRun.collection_id == filters.collection_id)
    if filters.person is not None:
        person = sa.select(User.id).where(User.name == filters.person).scalar_subquery()
        conditions.append(EvaluationRun.user_id == person)
    conditions += listing.in_days(EvaluationRun.id, filters)
    return sa.select(EvaluationRun.id).where(*conditions)


def _lines(session: Session, keys: Sequence[UUID]) -> list[RunLine]:
    """Return those of these runs of which a search is left."""
    if not keys:
        return []
    query = (
        sa.select(
            EvaluationRun.id,
            EvaluationRun.name,
            EvaluationRun.collection_id,
            Collection.name.label("collection_name"),
            User.name.label("user_name"),
            EvaluationRun.created_at,
            *map(_number, JobState),
        )
        .join(Collection, Collection.id == EvaluationRun.collection_id)
        .outerjoin(User, User.id == EvaluationRun.user_id)
        .where(EvaluationRun.id.in_(keys))
    )
    lines = []
    for row in session.execute(query):
        values = dict(row._mapping)
        states = {state: number for state in JobState if (number := values.pop(f"in_{state}"))}
        lines.append(RunLine(**values, states=states))
    return [line for line in lines if line.searches]


def _number(state: JobState) -> sa.Label[int]:
    """Return the number of searches of a run in one state; each is counted by an index of its own part."""
    some = sa.select(sa.func.count()).where(Job.run_id == EvaluationRun.id, Job.state == state)
    return some.correlate(EvaluationRun).scalar_subquery().label(f"in_{state}")
