"""Which jobs the history shows: one set of filters for its list, its counts, its bulk actions and its exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, JobState
from retllm.db.tables import Candidate, Item, Job, Score, Search, User
from retllm.identity.access import changeable_jobs, within_visible
from retllm.identity.actor import Actor

MAX_COUNTED = 1_000
"""Jobs of one state beyond which their number is not looked up for a list."""

Condition = sa.ColumnElement[bool]


@dataclass(frozen=True)
class JobFilters:
    """Which jobs; None, the empty text and no states filter nothing. Days are whole days in UTC, both included."""

    kind: JobKind | None = None
    states: tuple[JobState, ...] = ()
    collection_id: UUID | None = None
    person: str | None = None
    since: date | None = None
    until: date | None = None
    text: str = ""

    def matching(self, actor: Actor) -> list[Condition]:
        """What is true of the jobs that match, of those that ``actor`` may see."""
        found = [within_visible(actor, Job.collection_id)]
        if self.kind is not None:
            found.append(Job.kind == self.kind)
        if self.states:
            found.append(Job.state.in_(self.states))
        if self.collection_id is not None:
            found.append(Job.collection_id == self.collection_id)
        if self.person is not None:
            found.append(Job.user_id == sa.select(User.id).where(User.name == self.person).scalar_subquery())
        # keys begin with the time they were made at, so the primary key serves days
        if self.since is not None:
            found.append(Job.id >= _first_key(self.since))
        if self.until is not None and self.until < date.max:
            found.append(Job.id < _first_key(self.until + timedelta(days=1)))
        if self.text:
            # no index finds a part of a text, so it is looked up for each job on the way from the newest on; said in
            # this form, the database takes a match for nothing rare and goes that way
            holds = Search.query_text.icontains(self.text, autoescape=True)
            found.append(sa.select(holds).where(Search.id == Job.id).correlate(Job).scalar_subquery())
        return found


def _first_key(day: date) -> UUID:
    """The least UUID v7 that can be made on ``day``."""
    moment = datetime.combine(day, time(), UTC)
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def page(
    session: Session, actor: Actor, filters: JobFilters, *, after: UUID | None = None, limit: int = 50
) -> Sequence[Job]:
    """Jobs that match, newest first; ``after`` is the last key of the page before."""
    query = sa.select(Job).where(*filters.matching(actor)).order_by(Job.id.desc()).limit(limit)
    return session.scalars(query if after is None else query.where(Job.id < after)).all()


def counts(session: Session, actor: Actor, filters: JobFilters) -> dict[JobState, int]:
    """How many jobs there are in each state, whatever states the filters name; ``MAX_COUNTED`` + 1 stands for more."""
    conditions = replace(filters, states=()).matching(actor)

    def number(state: JobState) -> sa.ScalarSelect[int]:
        # in the order of an index, whose first entries are then enough
        some = sa.select(Job.id).where(Job.state == state, *conditions).order_by(Job.id.desc()).limit(MAX_COUNTED + 1)
        return sa.select(sa.func.count()).select_from(some.subquery()).scalar_subquery()

    return dict(zip(JobState, session.execute(sa.select(*map(number, JobState))).one(), strict=True))


@dataclass(frozen=True)
class Reach:
    """Of the jobs that somebody wants something done to: how many there are, and how many it can be done to."""

    matching: int
    possible: int
    foreign: int
    """somebody else's, which this account may not change; the rest is in a state that does not allow it"""

    @property
    def unsuited(self) -> int:
        """Those whose state does not allow it."""
        return self.matching - self.possible - self.foreign


def reach(session: Session, actor: Actor, conditions: Sequence[Condition], allowed: Condition) -> Reach:
    """Count exactly what an action comes to; ``allowed`` is true of the jobs whose state allows it."""
    mine = changeable_jobs(actor)
    query = sa.select(
        sa.func.count(), sa.func.count().filter(sa.and_(mine, allowed)), sa.func.count().filter(sa.not_(mine))
    ).where(*conditions)
    return Reach(*session.execute(query.select_from(Job)).one())


def keys(
    session: Session,
    actor: Actor,
    conditions: Sequence[Condition],
    allowed: Condition,
    *,
    after: UUID | None = None,
    limit: int = 200,
) -> list[UUID]:
    """Keys of the jobs that an action can be done to, newest first; ``after`` is the last key of the batch before."""
    query = sa.select(Job.id).where(*conditions, allowed, changeable_jobs(actor)).order_by(Job.id.desc()).limit(limit)
    return list(session.scalars(query if after is None else query.where(Job.id < after)))


@dataclass(frozen=True)
class SearchOutcome:
    """What a search came to, in short: its question, and the best item of its final order."""

    text: str | None
    has_picture: bool
    no_match: bool | None
    best_item: UUID | None = None
    best_name: str | None = None
    best_text: str | None = None
    best_has_thumbnail: bool = False
    best_score: float | None = None


def is_best() -> Condition:
    """True of the candidate that is first in the final order of its search."""
    # the number stands in the statement, so that the index of the first ones can be told to fit
    return Candidate.final_rank == sa.literal_column("1")


def results(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, SearchOutcome]:
    """The question and the best item of those of the jobs that are searches, with one query."""
    best = sa.and_(Candidate.search_id == Search.id, is_best(), Candidate.search_id.in_(job_ids))
    judged = sa.and_(
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
            Search.no_match,
            Item.id,
            Item.name,
            sa.func.left(Item.text, 200),
            Item.thumbnail_key.is_not(None),
            Score.score,
        )
        .select_from(Search)
        .outerjoin(Candidate, best)
        .outerjoin(Item, Item.id == Candidate.item_id)
        .outerjoin(Score, judged)
        .where(Search.id.in_(job_ids))
    )
    return {row[0]: SearchOutcome(*row[1:]) for row in session.execute(query)}
