"""Export of the history as rows, read in batches so that memory use does not depend on the number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import RowMapping

from retllm.db.enums import JobKind
from retllm.db.jobs import Job
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, Item, User
from retllm.history.job_views import name_of_collections
from retllm.history.listing import JobFilters, is_best
from retllm.identity.access import within_visible
from retllm.identity.actor import Actor
from retllm.media.came_in import archives_of
from retllm.search.settings import SETTINGS, SearchSettings

Row = dict[str, Any]


class Rows(StrEnum):
    """What a row represents."""

    JOBS = "jobs"  # one job
    RESULTS = "results"  # one candidate of one search


BATCH = {Rows.JOBS: 200, Rows.RESULTS: 20}
"""Jobs per batch. Each batch has its own transaction, so a slow reader holds neither a connection nor a snapshot."""

_OF_JOB: dict[str, Any] = {
    "job_id": Job.id,
    "kind": Job.kind,
    "state": Job.state,
    "collection_id": Job.collection_id,
    "collection": name_of_collections(),
    "person": User.name,
    "created_at": Job.created_at,
    "started_at": Job.started_at,
    "finished_at": Job.finished_at,
    "seconds": Job.seconds,
    "error": Job.error,
    "query": Search.query_text,
    "query_picture_sha256": Search.query_picture_sha256,
    "trigger": Search.injection["trigger"].astext,
    "embedder": Search.embedder,
    "scorer": Search.scorer,
    "scorer_version": Search.scorer_version,
    "no_match": Search.no_match,
}
_BEST: dict[str, Any] = {"best_item_id": Item.id, "best_item": Item.name, "best_score": Score.score}
"""Null if the account may not see the item."""
_OF_RESULT: dict[str, Any] = {
    "job_id": Job.id,
    "created_at": Job.created_at,
    "collection_id": Item.collection_id,
    "collection": Collection.name,
    "person": User.name,
    "query": Search.query_text,
    "query_picture_sha256": Search.query_picture_sha256,
    "item_id": Item.id,
    "item": Item.name,
    "text_in_picture": Item.shown_ocr_text,
    # looked up for each batch
    "archive": sa.null(),
    "coarse_rank": Candidate.coarse_rank,
    "final_rank": Candidate.final_rank,
    "similarity": Candidate.similarity,
    "score": Score.score,
    "log_odds": Score.log_odds,
    "entropy": Score.entropy,
    "injected_layer": Score.injected_layer,
    "uncertainty": Score.uncertainty,
    "decided_by": Candidate.decided_by,
    "mark": sa.case((Judgment.relevant, "relevant"), (sa.not_(Judgment.relevant), "not relevant")),
    "error": sa.func.coalesce(Candidate.error, Score.error),
    "remark": Score.remark,
}

# each setting has a column with its name; a group that can be off has one column
_OF_SETTING = {setting.name: setting.name.replace(".", "_") for setting in SETTINGS if not setting.in_optional}

COLUMNS = {Rows.JOBS: (*_OF_JOB, *_BEST, *_OF_SETTING.values()), Rows.RESULTS: tuple(_OF_RESULT)}
"""Column names, in order."""


def rows(sessions: Sessions, actor: Actor, filters: JobFilters, what: Rows) -> Iterator[Row]:
    """Yield the matching jobs, newest first, or the candidates of the searches among them, best first.

    Jobs accepted during the export are left out, and so are items of collections that ``actor`` may not see.
    """
    after: UUID | None = None
    size = BATCH[what]
    while True:
        with transaction(sessions) as session:
            keys = sa.select(Job.id).where(*filters.matching(actor)).order_by(Job.id.desc()).limit(size)
            if what is Rows.RESULTS:
                keys = keys.where(Job.kind == JobKind.SEARCH)
            batch = session.scalars(keys if after is None else keys.where(Job.id < after)).all()
            found = session.execute(_QUERIES[what](actor, batch)).mappings().all() if batch else []
            archives = archives_of(session, {row["item_id"] for row in found}) if what is Rows.RESULTS else {}
        for row in found:
            yield _row(row) if what is Rows.JOBS else {**row, "archive": archives.get(row["item_id"])}
        if len(batch) < size:
            return
        after = batch[-1]


def _row(found: RowMapping) -> Row:
    row = dict(found)
    search = row.pop(Search.__name__)
    settings = SearchSettings.of(search).flat() if search else {}
    return row | {column: settings.get(name) for name, column in _OF_SETTING.items()}


def _named(columns: dict[str, Any]) -> list[Any]:
    return [column.label(name) for name, column in columns.items()]


def _score_of_candidate(keys: Sequence[UUID]) -> sa.ColumnElement[bool]:
    return sa.and_(
        Score.search_id == Search.id,
        # redundant, but makes the planner use an index instead of a sequential scan
        Score.search_id.in_(keys),
        Score.item_id == Candidate.item_id,
        Score.scorer_version == Search.scorer_version,
    )


def _jobs(actor: Actor, keys: Sequence[UUID]) -> sa.Select[Any]:
    best = sa.and_(Candidate.search_id == Job.id, Candidate.search_id.in_(keys), is_best())
    # not a condition of the join, for which the planner may read all items
    seen = {name: sa.case((within_visible(actor, Item.collection_id), column)) for name, column in _BEST.items()}
    return (
        sa.select(*_named(_OF_JOB | seen), Search)
        .select_from(Job)
        .outerjoin(Collection, Collection.id == Job.collection_id)
        .join(User, User.id == Job.user_id)
        .outerjoin(Search, sa.and_(Search.id == Job.id, Search.id.in_(keys)))
        .outerjoin(Candidate, best)
        .outerjoin(Item, Item.id == Candidate.item_id)
        .outerjoin(Score, _score_of_candidate(keys))
        .where(Job.id.in_(keys))
        .order_by(Job.id.desc())
    )


def _results(actor: Actor, keys: Sequence[UUID]) -> sa.Select[Any]:
    marked = sa.and_(
        Judgment.collection_id == Item.collection_id,
        Judgment.question == Search.question,
        Judgment.item_id == Candidate.item_id,
    )
    return (
        sa.select(*_named(_OF_RESULT))
        .select_from(Job)
        .join(Search, Search.id == Job.id)
        .join(Candidate, sa.and_(Candidate.search_id == Job.id, Candidate.search_id.in_(keys)))
        .join(Item, Item.id == Candidate.item_id)
        .join(Collection, Collection.id == Item.collection_id)
        .join(User, User.id == Job.user_id)
        .outerjoin(Score, _score_of_candidate(keys))
        .outerjoin(Judgment, marked)
        .where(Job.id.in_(keys), within_visible(actor, Item.collection_id))
        .order_by(Job.id.desc(), sa.func.coalesce(Candidate.final_rank, Candidate.coarse_rank), Candidate.item_id)
    )


_QUERIES = {Rows.JOBS: _jobs, Rows.RESULTS: _results}
