"""Runs of evaluations: uploaded reports, and the reviewed questions of a collection asked again with other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import category
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from retllm.db.enums import ItemKind, JobState, Role, RunSource, TokenScope
from retllm.db.reviews import EvaluationRun
from retllm.db.tables import Collection, Job, Search, User, new_id
from retllm.errors import Conflict, Forbidden, InvalidInput, NotFound
from retllm.identity.access import Right, collection_for, has_scope, is_admin, require_scope, right_in, within_visible
from retllm.identity.actor import Actor
from retllm.queue.notifications import Notification
from retllm.review.reports import Report
from retllm.review.reviewed import reviewed
from retllm.search.request import SearchRequest
from retllm.search.submit import StoredPicture, submit_search
from retllm.settings import Settings

MAX_QUESTIONS = 500
"""Questions that one run asks."""
_MAX_NAME_LENGTH = 200
_NO_RUN = "There is no such evaluation."
# of a query's text, what pages show
_TEXT = 300


def run_for(session: Session, actor: Actor, run_id: UUID) -> EvaluationRun:
    """A run that ``actor`` may see: of a collection that they see, or a benchmark's, which everybody sees.

    Raises:
        NotFound: there is none.
    """
    visible = sa.or_(EvaluationRun.collection_id.is_(None), within_visible(actor, _collection()))
    run = session.scalar(sa.select(EvaluationRun).where(EvaluationRun.id == run_id, visible))
    if run is None:
        raise NotFound(_NO_RUN)
    return run


def _collection() -> sa.ColumnElement[UUID]:
    # null is told apart before this is asked
    return sa.type_coerce(EvaluationRun.collection_id, sa.Uuid())


def list_runs(
    session: Session, actor: Actor, *, collection_id: UUID | None = None, after: UUID | None = None, limit: int = 50
) -> list[EvaluationRun]:
    """Runs that ``actor`` may see, newest first, without reports; ``after`` is the last key of the page before."""
    visible = sa.or_(EvaluationRun.collection_id.is_(None), within_visible(actor, _collection()))
    query = sa.select(EvaluationRun).options(defer(EvaluationRun.report, raiseload=True)).where(visible)
    if collection_id is not None:
        query = query.where(EvaluationRun.collection_id == collection_id)
    if after is not None:
        query = query.where(EvaluationRun.id < after)
    return list(session.scalars(query.order_by(EvaluationRun.id.desc()).limit(limit)))


def names_of(session: Session, runs: Sequence[EvaluationRun]) -> dict[UUID, tuple[str | None, str | None]]:
    """Of each run the name of its collection and of who added it, where there are any."""
    query = (
        sa.select(EvaluationRun.id, Collection.name, User.name)
        .outerjoin(Collection, Collection.id == EvaluationRun.collection_id)
        .outerjoin(User, User.id == EvaluationRun.user_id)
        .where(EvaluationRun.id.in_([run.id for run in runs]))
    )
    return {run_id: (collection, user) for run_id, collection, user in session.execute(query)}


def add_report(session: Session, actor: Actor, report: Report, name: str | None = None) -> EvaluationRun:
    """Keep an uploaded report; without a name it goes by its benchmark and seed.

    Raises:
        Forbidden: a viewer adds none.
        InvalidInput: the name is too long, or is no line of text.
    """
    if actor.role is Role.VIEWER:
        raise Forbidden("Viewers read evaluations; to add one, ask an administrator to make you an editor.")
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
    if len(name) > _MAX_NAME_LENGTH or any(category(sign) == "Cc" for sign in name):
        raise InvalidInput(f"A name is one line of at most {_MAX_NAME_LENGTH} characters.", field="name")
    return name


def may_delete(session: Session, actor: Actor, run: EvaluationRun) -> bool:
    """Whether ``actor``, who sees the run, may delete it: who added it, administrators, who manages its collection."""
    if is_admin(actor) or (run.user_id == actor.id and has_scope(actor, TokenScope.CHANGE)):
        return True
    if run.collection_id is None:
        return False
    return right_in(session, actor, session.get_one(Collection, run.collection_id)) is Right.MANAGE


def delete_run(session: Session, actor: Actor, run_id: UUID) -> EvaluationRun:
    """Delete a run; searches that it made stay in the history.

    Raises:
        NotFound: there is none that this account may see.
        Forbidden: it is somebody else's.
    """
    run = run_for(session, actor, run_id)
    require_scope(actor, TokenScope.CHANGE)
    if not may_delete(session, actor, run):
        raise Forbidden("Only who added this evaluation and administrators may delete it.")
    session.delete(run)
    return run


@dataclass(frozen=True)
class Original:
    """A reviewed question as it was asked the last time."""

    search_id: UUID
    question: str
    text: str | None
    picture_key: str | None
    picture_sha256: str | None
    kinds: Sequence[str]
    query_image_weight: float


def questions_to_ask(session: Session, actor: Actor, collection_id: UUID) -> list[Original]:
    """The newest finished search of each question with a relevant mark, reviewed last first, at most 500.

    Raises:
        NotFound: no such collection.
        Forbidden: this account may not change it, and a run is work for all of its searches.
        Conflict: no question of it has a relevant mark.
    """
    collection_for(session, actor, collection_id, Right.CHANGE)
    known = [one for one in reviewed(session, [collection_id], searches=1) if one.measures.relevant][:MAX_QUESTIONS]
    if not known:
        raise Conflict("No finished search of this collection has a relevant mark yet: review some searches first.")
    keys = [one.search_id for one in known]
    rows = {row.id: row for row in session.scalars(sa.select(Search).where(Search.id.in_(keys)))}
    return [
        Original(
            search_id=key,
            question=rows[key].question,
            text=rows[key].query_text,
            picture_key=rows[key].query_picture_key,
            picture_sha256=rows[key].query_picture_sha256,
            kinds=rows[key].item_kinds,
            query_image_weight=rows[key].query_image_weight,
        )
        for key in keys
        if key in rows
    ]


@dataclass(frozen=True)
class Started:
    """A run with the units of its searches, to be announced after the commit."""

    run: EvaluationRun
    units: list[Notification]


def start_run(
    session: Session,
    actor: Actor,
    collection_id: UUID,
    originals: Sequence[Original],
    asked: SearchRequest,
    settings: Settings,
    *,
    pictures: Mapping[UUID, StoredPicture],
    name: str | None = None,
) -> Started:
    """Ask reviewed questions again: one search for each, and the run that holds them together, all or none.

    Args:
        session: of the database.
        user: who asks.
        collection_id: of the questions.
        originals: what is asked.
        asked: the settings; its question, kinds and share of the picture give way to those of each original.
        settings: of the platform.
        pictures: by the original's search a copy of its picture, since every search has its own.
        name: of the run.

    Raises:
        InvalidInput: a setting is out of bounds, or a question can't be asked with it.
        Conflict: the collection is not indexed.
    """
    kept: list[dict[str, str]] = []
    units: list[Notification] = []
    for original in originals:
        request = asked.model_copy(
            update={
                "text": original.text,
                "kinds": [ItemKind(kind) for kind in original.kinds],
                "query_image_weight": original.query_image_weight,
            }
        )
        made = submit_search(session, actor, collection_id, request, settings, picture=pictures.get(original.search_id))
        units += made.units
        kept.append({"question": original.question, "search": str(made.job.id), "before": str(original.search_id)})
    run = EvaluationRun(
        id=new_id(),
        collection_id=collection_id,
        user_id=actor.id,
        name=_name(name) or f"{len(kept)} reviewed {'question' if len(kept) == 1 else 'questions'} asked again",
        source=RunSource.REVIEWED,
        report={"asked": asked.model_dump(mode="json", exclude_none=True), "searches": kept},
    )
    session.add(run)
    session.flush()
    session.refresh(run, ["created_at"])
    return Started(run, units)


def searches_of(run: EvaluationRun) -> list[UUID]:
    """The searches that a run made."""
    return [UUID(one["search"]) for one in run.report.get("searches", [])]


def states_of(session: Session, run: EvaluationRun) -> dict[JobState, int]:
    """How many of the run's searches are in each state; those that were deleted since are in none."""
    query = sa.select(Job.state, sa.func.count()).where(Job.id.in_(searches_of(run))).group_by(Job.state)
    return {row[0]: row[1] for row in session.execute(query)}


def texts_of(session: Session, search_ids: Sequence[UUID]) -> dict[UUID, tuple[str | None, bool]]:
    """The query's text, cut to what pages show, and whether it has a picture, of those searches that there are."""
    query = sa.select(Search.id, sa.func.left(Search.query_text, _TEXT), Search.query_picture_key.is_not(None))
    rows: Any = session.execute(query.where(Search.id.in_(search_ids)))
    return {search_id: (text, picture) for search_id, text, picture in rows}
