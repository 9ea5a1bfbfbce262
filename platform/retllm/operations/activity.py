"""Numbers for the overview: contents, recently ended jobs and latencies, latest failures of visible collections."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from retllm.db.counts import CollectionCount, UnitCount
from retllm.db.enums import ItemKind, JobKind, JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.operations import PausedQueue, Worker
from retllm.db.searches import Search
from retllm.db.state_words import PROBLEMS
from retllm.db.tables import Collection, Item
from retllm.db.uploads import UploadFile
from retllm.history.file_counts import FileCounts, file_counts
from retllm.history.job_views import name_of_collections
from retllm.history.named_items import NamedItem, dead_items, problem_files
from retllm.identity.access import visible_collections, visible_jobs, within_visible
from retllm.identity.actor import Actor
from retllm.indexing.counts import items_in
from retllm.operations.workers import ALIVE_SECONDS

_MAX_UNITS = 200
_SUCCEEDED_LOOKED_AT = 200


@dataclass(frozen=True)
class Window:
    """A period until now, divided into equal pieces."""

    name: str
    words: str
    span: timedelta
    piece: timedelta


WINDOWS = {
    "24h": Window("24h", "the last 24 hours", timedelta(hours=24), timedelta(hours=1)),
    "7d": Window("7d", "the last 7 days", timedelta(days=7), timedelta(hours=6)),
}


@dataclass(frozen=True)
class Piece:
    """What ended in one piece of a window. ``items`` counts embedded items of all collections.

    ``p50`` and ``p95`` are seconds from the request of a search to its final order; None if no search ended.
    """

    start: datetime
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    searches: int = 0
    items: int = 0
    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True)
class Activity:
    """The pieces of a window, oldest first, and their ``total``."""

    window: Window
    pieces: list[Piece]
    total: Piece


def activity(session: Session, actor: Actor, window: Window) -> Activity:
    """Return what ended in the window."""
    now = datetime.now(UTC)
    # pieces begin at round times; the last one contains now
    end = datetime.fromtimestamp(
        (now.timestamp() // window.piece.total_seconds() + 1) * window.piece.total_seconds(), UTC
    )
    start = end - window.span
    jobs = {row["piece"]: row for row in _jobs(session, actor, window, start)}
    items = _items(session, window, start)
    starts = [start + number * window.piece for number in range(int(window.span / window.piece))]
    pieces = [_piece(at, jobs.get(at, {}), items.get(at, 0)) for at in starts]
    return Activity(window, pieces, _piece(start, jobs.get(None, {}), sum(items.values())))


def _piece(start: datetime, jobs: Any, items: int) -> Piece:
    values = {name: value for name, value in dict(jobs).items() if name != "piece"}
    return Piece(start=start, items=items, **values)


def _jobs(session: Session, actor: Actor, window: Window, start: datetime) -> list[Any]:
    """Return one row for each piece with ended jobs, and one for all of them, whose piece is None."""
    ended = (
        sa.select(
            sa.func.date_bin(window.piece, Job.finished_at, start).label("piece"),
            Job.state,
            Job.kind,
            Job.seconds.label("seconds"),
        )
        .where(Job.finished_at >= start, visible_jobs(actor))
        .subquery()
    )
    whole = ended.c.state.in_([JobState.SUCCEEDED, JobState.PARTIAL])
    searched = sa.and_(whole, ended.c.kind == JobKind.SEARCH)

    def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.count().filter(condition)

    def percentile(share: float) -> sa.ColumnElement[float]:
        value = sa.func.percentile_cont(share).within_group(ended.c.seconds).filter(searched)
        return sa.cast(value, sa.Float)

    query = sa.select(
        ended.c.piece,
        count(ended.c.state == JobState.SUCCEEDED).label("succeeded"),
        count(ended.c.state.in_([JobState.FAILED, JobState.PARTIAL])).label("failed"),
        count(ended.c.state == JobState.CANCELLED).label("cancelled"),
        count(searched).label("searches"),
        percentile(0.5).label("p50"),
        percentile(0.95).label("p95"),
    ).group_by(sa.func.grouping_sets(sa.tuple_(ended.c.piece), sa.tuple_()))
    return [row._mapping for row in session.execute(query)]


def _items(session: Session, window: Window, start: datetime) -> dict[datetime, int]:
    # a window begins with an hour
    piece = sa.func.date_bin(window.piece, UnitCount.hour, start).label("piece")
    query = sa.select(piece, sa.func.sum(UnitCount.items).label("embedded")).where(UnitCount.hour >= start)
    query = query.group_by(piece)
    return {row.piece: int(row.embedded) for row in session.execute(query)}


@dataclass(frozen=True)
class Holdings:
    """The numbers of collections and items that an account may see."""

    collections: int
    items: dict[ItemKind, int]


def holdings(session: Session, actor: Actor) -> Holdings:
    """Count the collections, and the items by kind."""
    collections = sa.select(sa.func.count()).select_from(Collection).where(visible_collections(actor))
    items = (
        items_in(within_visible(actor, CollectionCount.collection_id))
        .add_columns(CollectionCount.kind)
        .group_by(CollectionCount.kind)
    )
    return Holdings(session.scalars(collections).one(), {kind: items for items, kind in session.execute(items)})


@dataclass(frozen=True)
class Failure:
    """A job that failed or partially succeeded, or an upload of which files are missing, with its ``files``.

    ``about`` names the first of the items or files that failed.
    """

    id: UUID
    kind: JobKind
    state: JobState
    error: str | None
    finished_at: datetime | None
    collection: str
    query: str | None
    files: FileCounts | None
    about: list[NamedItem]


def latest_failures(session: Session, actor: Actor, limit: int = 5) -> list[Failure]:
    """Return the newest jobs that failed or partially succeeded, and uploads with rejected files or files not sent."""

    def newest(state: JobState) -> sa.Select[tuple[UUID]]:
        seen = sa.select(Job.id).where(Job.state == state, visible_jobs(actor))
        return sa.select(seen.order_by(Job.id.desc()).limit(limit).subquery().c.id)

    # one query for each state, so that each follows an index
    keys = sa.union_all(newest(JobState.FAILED), newest(JobState.PARTIAL), _with_problems(actor, limit)).subquery()
    query = (
        sa.select(
            Job.id,
            Job.kind,
            Job.state,
            Job.error,
            Job.finished_at,
            name_of_collections().label("collection"),
            Search.query_text.label("query"),
        )
        .join(keys, keys.c.id == Job.id)
        .outerjoin(Collection, Collection.id == Job.collection_id)
        .outerjoin(Search, Search.id == Job.id)
        .order_by(Job.id.desc())
        .limit(limit)
    )
    rows = session.execute(query).all()
    uploads = [row.id for row in rows if row.kind is JobKind.UPLOAD]
    files = file_counts(session, uploads)
    about = dead_items(session, [row.id for row in rows]) | problem_files(session, uploads)
    return [Failure(**row._mapping, files=files.get(row.id), about=about.get(row.id, [])) for row in rows]


def _with_problems(actor: Actor, limit: int) -> sa.Select[tuple[UUID]]:
    """Return a query for the newest uploads that succeeded without some of their files."""
    seen = sa.select(Job.id, Job.kind).where(Job.state == JobState.SUCCEEDED, visible_jobs(actor))
    # of few, since the files of each are looked up
    recent = seen.order_by(Job.id.desc()).limit(_SUCCEEDED_LOOKED_AT).subquery()
    problem = sa.select(UploadFile.id).where(UploadFile.job_id == recent.c.id, UploadFile.status.in_(PROBLEMS))
    found = sa.select(recent.c.id).where(recent.c.kind == JobKind.UPLOAD, problem.exists())
    return sa.select(found.order_by(recent.c.id.desc()).limit(limit).subquery().c.id)


def stamp(session: Session) -> tuple[Any, ...]:
    """Return values that change when the contents of the overview or the page of workers change, by one indexed query.

    Deletions and silent workers change them within a minute.
    """
    ready = sa.select(Unit.run_after).where(Unit.state == UnitState.READY).limit(_MAX_UNITS).subquery()
    dead = sa.select(Unit.finished_at).where(Unit.state == UnitState.DEAD).order_by(Unit.finished_at.desc())
    last_dead = dead.limit(_MAX_UNITS).subquery()
    age = sa.func.clock_timestamp() - Worker.seen_at
    worker = sa.func.concat_ws(
        "|", Worker.name, Worker.stopped_at, Worker.models, age < timedelta(seconds=ALIVE_SECONDS)
    )
    minute = sa.func.date_trunc("minute", sa.func.now())
    values = (
        minute,
        sa.select(Job.id).order_by(Job.id.desc()).limit(1),
        sa.select(sa.func.max(Job.finished_at)),
        sa.select(Item.id).order_by(Item.id.desc()).limit(1),
        sa.select(Collection.id).order_by(Collection.id.desc()).limit(1),
        sa.select(sa.func.count()).select_from(ready),
        sa.select(sa.func.max(ready.c.run_after)),
        sa.select(sa.func.count()).where(Unit.state == UnitState.LEASED),
        sa.select(sa.func.max(Unit.started_at)).where(Unit.state == UnitState.LEASED),
        sa.select(sa.func.count()).select_from(last_dead),
        sa.select(sa.func.max(last_dead.c.finished_at)),
        sa.select(sa.func.max(Unit.finished_at)).where(Unit.state == UnitState.DONE, Unit.stage == Stage.EMBED),
        sa.select(sa.func.md5(sa.func.string_agg(worker, aggregate_order_by(sa.literal(","), Worker.name)))),
        sa.select(sa.func.count()).select_from(PausedQueue),
        sa.select(sa.func.max(PausedQueue.created_at)),
    )
    columns = [value.scalar_subquery() if isinstance(value, sa.Select) else value for value in values]
    return tuple(session.execute(sa.select(*columns)).one())
