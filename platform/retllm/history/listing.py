"""Filters of the history, shared by its list, its counts, its bulk actions and its exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, JobKind, JobState
from retllm.db.jobs import Job
from retllm.db.many import one_of
from retllm.db.searches import Candidate, Score, Search
from retllm.db.tables import Item, User
from retllm.db.uploads import UploadFile
from retllm.identity.access import changeable_jobs, visible_jobs, within_visible
from retllm.identity.actor import Actor
from retllm.media.normalization import composed

MAX_COUNTED = 1_000
"""Maximum number of jobs of one state that are counted for a list."""
MAX_COMPARED = 10_000
"""Maximum number of searches that are compared with a text for one page."""

Condition = sa.ColumnElement[bool]


@dataclass(frozen=True)
class JobFilters:
    """Filters of jobs; None, an empty text and empty states do not filter. Days are in UTC, both inclusive."""

    kind: JobKind | None = None
    states: tuple[JobState, ...] = ()
    collection_id: UUID | None = None
    person: str | None = None
    since: date | None = None
    until: date | None = None
    text: str = ""
    outcomes: tuple[FileStatus, ...] = ()
    """Only uploads of which a file, entry or row has one of these outcomes."""
    run_id: UUID | None = None
    """Only the searches of this evaluation run."""

    @property
    def is_grouped(self) -> bool:
        """Whether the history lists the searches of a run as one; a filter that tells them apart finds single ones."""
        return self.run_id is None and not (self.states or self.text or self.outcomes)

    def matching(self, actor: Actor) -> list[Condition]:
        """Return conditions that select the matching jobs that ``actor`` may see."""
        conditions = [visible_jobs(actor)]
        if self.kind is not None:
            conditions.append(Job.kind == self.kind)
        if self.states:
            conditions.append(Job.state.in_(self.states))
        if self.collection_id is not None:
            conditions.append(Job.collection_id == self.collection_id)
        if self.person is not None:
            conditions.append(Job.user_id == sa.select(User.id).where(User.name == self.person).scalar_subquery())
        if self.run_id is not None:
            conditions.append(Job.run_id == self.run_id)
        conditions += in_days(Job.id, self)
        if self.outcomes:
            some = (
                sa.select(sa.true()).where(UploadFile.job_id == Job.id, UploadFile.status.in_(self.outcomes)).limit(1)
            )
            # looked up by index for each upload, from the newest on, as below
            conditions += [Job.kind == JobKind.UPLOAD, some.correlate(Job).scalar_subquery()]
        if self.text:
            # no index supports substring search, so jobs are checked one by one from the newest on
            conditions.append(_has_text(self.text))
        return conditions


def in_days(key: sa.orm.attributes.InstrumentedAttribute[UUID], filters: JobFilters) -> list[Condition]:
    """Return the conditions that what has this key was created in the days of the filters."""
    conditions: list[Condition] = []
    # keys begin with their creation time, so the primary key index serves ranges of days
    if filters.since is not None:
        conditions.append(key >= _first_key(filters.since))
    if filters.until is not None and filters.until < date.max:
        conditions.append(key < _first_key(filters.until + timedelta(days=1)))
    return conditions


def _first_key(day: date) -> UUID:
    """Return the smallest possible UUID v7 of ``day``."""
    moment = datetime.combine(day, time(), UTC)
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


@dataclass(frozen=True)
class JobPage:
    """A page of jobs, newest first.

    Attributes:
        next: the key to request the next page; None on the last one.
        numbers: the jobs in each state, ignoring the filter by state; ``MAX_COUNTED`` + 1 means more than the maximum.
        compared: how many searches were compared with the text, if there are older ones; then ``numbers`` counts these.
    """

    jobs: Sequence[Job]
    next: UUID | None
    numbers: dict[JobState, int]
    compared: int | None = None


def find(session: Session, actor: Actor, filters: JobFilters, *, after: UUID | None = None, limit: int = 50) -> JobPage:
    """Return a page of matching jobs with the numbers of jobs; ``after`` is ``next`` of the page before.

    A page of searches with a text may have few jobs or none, although there are more pages.
    """
    if filters.text:
        return _compared(session, actor, filters, after, limit)
    jobs, following = page(session, actor, filters, after=after, limit=limit)
    return JobPage(jobs, following, counts(session, actor, filters))


def page(
    session: Session, actor: Actor, filters: JobFilters, *, after: UUID | None = None, limit: int = 50
) -> tuple[Sequence[Job], UUID | None]:
    """Return a page of matching jobs, newest first, and the key to request the next one; see :func:`find`."""
    if filters.text:
        found = _compared(session, actor, filters, after, limit)
        return found.jobs, found.next
    query = sa.select(Job).where(*filters.matching(actor)).order_by(Job.id.desc()).limit(limit + 1)
    rows = session.scalars(query if after is None else query.where(Job.id < after)).all()
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def _compared(session: Session, actor: Actor, filters: JobFilters, after: UUID | None, limit: int) -> JobPage:
    """Compare the newest searches with the text, one by one, since no index supports substring search."""
    others = replace(filters, states=(), text="").matching(actor)
    query = sa.select(Job.id, Job.state, _has_text(filters.text)).where(Job.kind == JobKind.SEARCH, *others)
    query = query.order_by(Job.id.desc()).limit(MAX_COMPARED)
    rows = session.execute(query if after is None else query.where(Job.id < after)).all()
    matches = [(key, state) for key, state, matched in rows if matched]
    keys = [key for key, state in matches if not filters.states or state in filters.states]
    jobs = session.scalars(sa.select(Job).where(Job.id.in_(keys[:limit])).order_by(Job.id.desc())).all()
    last = rows[-1].id if len(rows) == MAX_COMPARED else None
    numbers = Counter(state for _, state in matches)
    return JobPage(
        jobs,
        keys[limit - 1] if len(keys) > limit else last,
        {state: numbers[state] for state in JobState},
        compared=MAX_COMPARED if last else None,
    )


def _has_text(text: str) -> sa.ScalarSelect[bool]:
    """Return the condition that the query of a search has a text.

    With a scalar subquery the planner does not assume that matches are rare, and reads from the newest on.
    """
    contains = sa.select(Search.query_text.icontains(composed(text), autoescape=True)).where(Search.id == Job.id)
    return contains.correlate(Job).scalar_subquery()


def counts(session: Session, actor: Actor, filters: JobFilters) -> dict[JobState, int]:
    """Count the jobs in each state, ignoring the filter by state; ``MAX_COUNTED`` + 1 means more than the maximum."""
    conditions = replace(filters, states=()).matching(actor)

    def count(state: JobState) -> sa.ScalarSelect[int]:
        # in index order, so that only the first entries are read
        some = sa.select(Job.id).where(Job.state == state, *conditions).order_by(Job.id.desc()).limit(MAX_COUNTED + 1)
        return sa.select(sa.func.count()).select_from(some.subquery()).scalar_subquery()

    return dict(zip(JobState, session.execute(sa.select(*map(count, JobState))).one(), strict=True))


@dataclass(frozen=True)
class ActionCounts:
    """The number of jobs that an action matches, and of those that it can be applied to.

    ``next`` is the key of the last job that was looked at, if there are older ones, which are not counted.
    """

    matching: int
    possible: int
    not_permitted: int
    """jobs of other accounts, which this account may not change; the state of the rest does not allow the action"""
    next: UUID | None = None

    @property
    def not_allowed_by_state(self) -> int:
        """The number of jobs whose state does not allow the action."""
        return self.matching - self.possible - self.not_permitted


def count_for_action(
    session: Session, actor: Actor, conditions: Sequence[Condition], allowed: Condition, text: str = ""
) -> ActionCounts:
    """Count the jobs that an action matches, among the newest ``MAX_COMPARED`` that meet the conditions.

    Args:
        allowed: true for jobs whose state allows the action.
        text: one that the query of a search must have.
    """
    query = sa.select(Job.id, _has_text(text) if text else sa.true()).where(*conditions)
    if text:
        query = query.where(Job.kind == JobKind.SEARCH)
    rows = session.execute(query.order_by(Job.id.desc()).limit(MAX_COMPARED + 1)).all()
    looked_at = rows[:MAX_COMPARED]
    matching = [key for key, is_match in looked_at if is_match]
    # apart from the conditions, with which the planner may choose to join collections for each job
    mine = changeable_jobs(actor)
    counted = sa.select(
        sa.func.count(), sa.func.count().filter(sa.and_(mine, allowed)), sa.func.count().filter(sa.not_(mine))
    ).where(one_of(Job.id, matching))
    following = looked_at[-1][0] if len(rows) > len(looked_at) else None
    return ActionCounts(*session.execute(counted.select_from(Job)).one(), following)


def keys(
    session: Session,
    actor: Actor,
    conditions: Sequence[Condition],
    allowed: Condition,
    *,
    after: UUID | None = None,
    limit: int = 200,
) -> list[UUID]:
    """Return keys of jobs that an action applies to, newest first; ``after`` is the last key of the previous batch."""
    query = sa.select(Job.id).where(*conditions, allowed, changeable_jobs(actor)).order_by(Job.id.desc()).limit(limit)
    return list(session.scalars(query if after is None else query.where(Job.id < after)))


@dataclass(frozen=True)
class SearchOutcome:
    """A summary of a search: its query, and the best item of its final order."""

    text: str | None
    has_picture: bool
    scorer: str
    no_match: bool | None
    best_item: UUID | None = None
    best_name: str | None = None
    best_text: str | None = None
    best_has_thumbnail: bool = False
    best_score: float | None = None


def is_best() -> Condition:
    """Return a condition that is true for the first candidate in the final order of a search."""
    # a literal in the statement, so that the planner can use the partial index on final_rank = 1
    return Candidate.final_rank == sa.literal_column("1")


def results(session: Session, actor: Actor, job_ids: Sequence[UUID]) -> dict[UUID, SearchOutcome]:
    """Return the query and the best item of those jobs that are searches, with one database query.

    An item that ``actor`` may not see is left out.
    """
    best = sa.and_(Candidate.search_id == Search.id, is_best(), Candidate.search_id.in_(job_ids))
    scored = sa.and_(
        Score.search_id == Search.id,
        Score.search_id.in_(job_ids),
        Score.item_id == Candidate.item_id,
        Score.scorer_version == Search.scorer_version,
    )
    query = (
        sa.select(
            Search.id,
            Search.query_text,
            Search.query_picture_key.is_not(None),
            Search.scorer,
            Search.no_match,
            *(
                # not a condition of the join, for which the planner may read all items
                sa.case((within_visible(actor, Item.collection_id), column))
                for column in (
                    Item.id,
                    Item.name,
                    sa.func.left(Item.shown_text, 200),
                    Item.shows_picture,
                    Score.score,
                )
            ),
        )
        .select_from(Search)
        .outerjoin(Candidate, best)
        .outerjoin(Item, Item.id == Candidate.item_id)
        .outerjoin(Score, scored)
        .where(Search.id.in_(job_ids))
    )
    return {row[0]: SearchOutcome(*row[1:]) for row in session.execute(query)}
