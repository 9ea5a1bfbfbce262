"""Evaluation runs: uploaded reports, and reruns of the reviewed queries of a collection with other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import category
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from retllm.db.enums import ItemKind, JobState, Role, RunSource, TokenScope
from retllm.db.jobs import Job
from retllm.db.locks import lock_collection
from retllm.db.reviews import EvaluationRun
from retllm.db.searches import Search
from retllm.db.tables import Collection, User, new_id
from retllm.errors import Conflict, Forbidden, InvalidInput, NotFound
from retllm.identity.access import Right, collection_for, has_scope, is_admin, require_scope, right_in, within_visible
from retllm.identity.actor import Actor
from retllm.queue.routing import Notification
from retllm.review.reports import Report
from retllm.review.reviewed import reviewed
from retllm.search.coarse import may_filter
from retllm.search.request import SearchRequest
from retllm.search.submit import StoredPicture, submit_search
from retllm.settings import Settings

MAX_QUESTIONS = 500
"""Maximum number of queries of one run."""
_MAX_NAME_LENGTH = 200
_NO_RUN = "There is no such evaluation."
# characters of a query's text on pages
_TEXT = 300


def run_for(session: Session, actor: Actor, run_id: UUID) -> EvaluationRun:
    """Return a run that ``actor`` may see: a run of a visible collection, or a benchmark report, which everyone sees.

    Raises:
        NotFound: there is no such run.
    """
    visible = sa.or_(EvaluationRun.collection_id.is_(None), within_visible(actor, _collection()))
    run = session.scalar(sa.select(EvaluationRun).where(EvaluationRun.id == run_id, visible))
    if run is None:
        raise NotFound(_NO_RUN)
    return run


def _collection() -> sa.ColumnElement[UUID]:
    # callers handle null before they use this
    return sa.type_coerce(EvaluationRun.collection_id, sa.Uuid())


def list_runs(
    session: Session, actor: Actor, *, collection_id: UUID | None = None, after: UUID | None = None, limit: int = 50
) -> list[EvaluationRun]:
    """Return visible runs, newest first, without reports; ``after`` is the last key of the page before."""
    visible = sa.or_(EvaluationRun.collection_id.is_(None), within_visible(actor, _collection()))
    query = sa.select(EvaluationRun).options(defer(EvaluationRun.report, raiseload=True)).where(visible)
    if collection_id is not None:
        query = query.where(EvaluationRun.collection_id == collection_id)
    if after is not None:
        query = query.where(EvaluationRun.id < after)
    return list(session.scalars(query.order_by(EvaluationRun.id.desc()).limit(limit)))


def names_of(session: Session, runs: Sequence[EvaluationRun]) -> dict[UUID, tuple[str | None, str | None]]:
    """Return the names of the collection and of the creator of each run; None if it has none."""
    query = (
        sa.select(EvaluationRun.id, Collection.name, User.name)
        .outerjoin(Collection, Collection.id == EvaluationRun.collection_id)
        .outerjoin(User, User.id == EvaluationRun.user_id)
        .where(EvaluationRun.id.in_([run.id for run in runs]))
    )
    return {run_id: (collection, user) for run_id, collection, user in session.execute(query)}


def add_report(session: Session, actor: Actor, report: Report, name: str | None = None) -> EvaluationRun:
    """Store an uploaded report; the default name is its benchmark and seed.

    Raises:
        Forbidden: ``actor`` is a viewer.
        InvalidInput: the name is too long or has control characters.
    """
    if actor.role is Role.VIEWER:
        raise Forbidden("Viewers cannot add evaluations. Ask an administrator to make you an editor.")
    require_scope(actor, TokenScope.CHANGE)
    run = EvaluationRun(
        id=new_id(),
        collection_id=None,
        user_id=actor.id,
        name=_name(name) or f"{report.benchmark}, seed {report.seed}",
        source=RunSource.UPLOADED,
        report=report.model_dump(mode="json"),
    )
    session.add(run)
    session.flush()
    session.refresh(run, ["created_at"])
    return run


def _name(text: str | None) -> str:
    name = " ".join((text or "").split())
    if len(name) > _MAX_NAME_LENGTH or any(category(character) == "Cc" for character in name):
        raise InvalidInput(f"A name has at most {_MAX_NAME_LENGTH} characters and no control characters.", field="name")
    return name


def may_delete(session: Session, actor: Actor, run: EvaluationRun) -> bool:
    """Return whether ``actor`` may delete a visible run: its creator, administrators, managers of its collection."""
    if is_admin(actor) or (run.user_id == actor.id and has_scope(actor, TokenScope.CHANGE)):
        return True
    if run.collection_id is None:
        return False
    return right_in(session, actor, session.get_one(Collection, run.collection_id)) is Right.MANAGE


def delete_run(session: Session, actor: Actor, run_id: UUID) -> EvaluationRun:
    """Delete a run; its searches stay in the history.

    Raises:
        NotFound: ``actor`` sees no such run.
        Forbidden: ``actor`` may not delete it.
    """
    run = run_for(session, actor, run_id)
    require_scope(actor, TokenScope.CHANGE)
    if not may_delete(session, actor, run):
        raise Forbidden("Only the person who added this evaluation and administrators can delete it.")
    # whoever deletes it at the same time waits here, and finds none
    if session.scalar(sa.delete(EvaluationRun).where(EvaluationRun.id == run_id).returning(EvaluationRun.id)) is None:
        raise NotFound(_NO_RUN)
    return run


@dataclass(frozen=True)
class Original:
    """The newest search of a reviewed query."""

    search_id: UUID
    question: str
    text: str | None
    picture_key: str | None
    picture_sha256: str | None
    kinds: Sequence[str]
    filter: str | None
    query_image_weight: float


def questions_to_ask(session: Session, actor: Actor, collection_id: UUID) -> list[Original]:
    """Return the newest search of each query with a relevant mark, most recently reviewed first, at most 500.

    Raises:
        NotFound: no such collection.
        Forbidden: ``actor`` may not change it.
        Conflict: no query of it has a relevant mark.
    """
    collection = collection_for(session, actor, collection_id, Right.CHANGE)
    known = [search for search in reviewed(session, [collection_id], searches=1) if search.measures.relevant]
    if not known:
        raise Conflict("No search of this collection has a relevant mark yet. Review some searches first.")
    keys = [search.search_id for search in known[:MAX_QUESTIONS]]
    rows = {row.id: row for row in session.scalars(sa.select(Search).where(Search.id.in_(keys)))}
    return [
        Original(
            search_id=key,
            question=rows[key].question,
            text=rows[key].query_text,
            picture_key=rows[key].query_picture_key,
            picture_sha256=rows[key].query_picture_sha256,
            kinds=rows[key].item_kinds,
            filter=rows[key].filter,
            query_image_weight=rows[key].query_image_weight,
        )
        for key in keys
        # not those with a filter that the collection no longer allows
        if key in rows and may_filter(collection, rows[key].filter)
    ]


@dataclass(frozen=True)
class Started:
    """A run with the units of its searches; notify the workers after the commit."""

    run: EvaluationRun
    units: list[Notification]


def start_run(
    session: Session,
    actor: Actor,
    collection_id: UUID,
    originals: Sequence[Original],
    request: SearchRequest,
    settings: Settings,
    *,
    pictures: Mapping[UUID, StoredPicture],
    name: str | None = None,
) -> Started:
    """Rerun reviewed queries: submit one search for each and create the run, in one transaction.

    Args:
        session: database session.
        actor: who starts the run.
        collection_id: collection of the queries.
        originals: the searches to repeat.
        request: the settings; text, kinds and picture weight are replaced by those of each original.
        settings: settings of the platform.
        pictures: a copy of the query picture by the key of the original search, since every search has its own.
        name: name of the run.

    Raises:
        InvalidInput: a setting is out of bounds or does not apply to a query.
        Conflict: the collection is not indexed.
    """
    lock_collection(session, collection_id)
    asked = request.model_dump(mode="json", exclude_none=True)
    run = EvaluationRun(
        id=new_id(),
        collection_id=collection_id,
        user_id=actor.id,
        name=_name(name) or f"Rerun of {len(originals)} reviewed {'query' if len(originals) == 1 else 'queries'}",
        source=RunSource.REVIEWED,
        report={"asked": asked, "searches": []},
    )
    session.add(run)
    # before its searches, which refer to it
    session.flush()
    searches: list[dict[str, str]] = []
    units: list[Notification] = []
    for original in originals:
        search = request.model_copy(
            update={
                "text": original.text,
                "kinds": [ItemKind(kind) for kind in original.kinds],
                "filter": original.filter,
                "query_image_weight": original.query_image_weight,
            }
        )
        made = submit_search(session, actor, collection_id, search, settings, picture=pictures.get(original.search_id))
        made.job.run_id = run.id
        units += made.units
        searches.append({"question": original.question, "search": str(made.job.id), "before": str(original.search_id)})
    run.report = {"asked": asked, "searches": searches}
    session.flush()
    session.refresh(run, ["created_at"])
    return Started(run, units)


def searches_of(run: EvaluationRun) -> list[UUID]:
    """Return the searches of a run."""
    return [UUID(search["search"]) for search in run.report.get("searches", [])]


def states_of(session: Session, run: EvaluationRun) -> dict[JobState, int]:
    """Count the searches of the run by state, without deleted ones."""
    query = sa.select(Job.state, sa.func.count()).where(Job.id.in_(searches_of(run))).group_by(Job.state)
    return {row[0]: row[1] for row in session.execute(query)}


def texts_of(session: Session, search_ids: Sequence[UUID]) -> dict[UUID, tuple[str | None, bool]]:
    """Return the query text, truncated for pages, and whether there is a query picture, for each existing search."""
    query = sa.select(Search.id, sa.func.left(Search.query_text, _TEXT), Search.query_picture_key.is_not(None))
    rows: Any = session.execute(query.where(Search.id.in_(search_ids)))
    return {search_id: (text, picture) for search_id, text, picture in rows}
