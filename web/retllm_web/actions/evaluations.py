"""Evaluations: add, start, delete; shared by the API and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.reviews import EvaluationRun
from retllm.db.session import run_transaction, transaction
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.media import query_pictures
from retllm.review import runs
from retllm.review.reports import Report
from retllm.review.runs import Original, Started
from retllm.search.request import SearchRequest
from retllm.search.submit import StoredPicture
from retllm_web.actions.auditing import record
from retllm_web.actions.submissions import delete_picture
from retllm_web.http.services import services


def add(actor: Actor, report: Report, name: str | None = None) -> EvaluationRun:
    """Store an uploaded report.

    Raises:
        Forbidden: ``actor`` is a viewer.
        InvalidInput: the name is invalid.
    """
    with transaction(services().sessions) as session:
        run = runs.add_report(session, actor, report, name)
        record(session, Action.RUN_ADDED, target=run.name, target_id=run.id)
    return run


def ask_again(actor: Actor, collection_id: UUID, asked: SearchRequest, name: str | None = None) -> EvaluationRun:
    """Run the reviewed queries of a collection again; all searches are accepted, or none.

    Raises:
        NotFound: no such collection.
        Forbidden: this account may not change it.
        InvalidInput: a setting is out of bounds.
        Conflict: no query is reviewed, or the collection is not indexed.
    """
    found = services()
    with transaction(found.sessions) as session:
        originals = runs.questions_to_ask(session, actor, collection_id)
    copies: dict[UUID, StoredPicture] = {}

    def start(session: Session) -> Started:
        started = runs.start_run(
            session, actor, collection_id, originals, asked, found.settings, pictures=copies, name=name
        )
        record(
            session,
            Action.RUN_ADDED,
            target=started.run.name,
            target_id=started.run.id,
            collection_id=collection_id,
            searches=len(originals),
        )
        return started

    try:
        # copy before the transaction, which would otherwise stay open meanwhile
        _copy_pictures(originals, copies)
        started = run_transaction(found.sessions, start)
    except sa.exc.DBAPIError:
        # the commit may have succeeded although its answer got lost, so keep the pictures
        raise
    except BaseException:
        for copy in copies.values():
            delete_picture(copy.key)
        raise
    found.notifier.notify(started.units)
    return started.run


def _copy_pictures(originals: Sequence[Original], copies: dict[UUID, StoredPicture]) -> None:
    """Copy the picture of each query, since deleting the original search deletes its picture."""
    storage = services().storage
    for original in originals:
        if original.picture_key is None or original.picture_sha256 is None:
            continue
        key = query_pictures.copy_of_query(storage, services().settings, original.picture_key)
        copies[original.search_id] = StoredPicture(key, original.picture_sha256)


def delete(actor: Actor, run_id: UUID) -> EvaluationRun:
    """Delete a run; its searches stay in the history.

    Raises:
        NotFound: no such run that this account may see.
        Forbidden: it is another account's.
    """
    with transaction(services().sessions) as session:
        run = runs.delete_run(session, actor, run_id)
        record(session, Action.RUN_DELETED, target=run.name, target_id=run.id, collection_id=run.collection_id)
    return run
