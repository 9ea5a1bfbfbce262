"""Adding, starting and deleting evaluations; the API and the pages share this."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.reviews import EvaluationRun
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import new_id
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.review import runs
from retllm.review.reports import Report
from retllm.review.runs import Original, Started
from retllm.search.request import SearchRequest
from retllm.search.submit import StoredPicture
from retllm_web.actions.auditing import note
from retllm_web.actions.submissions import forget
from retllm_web.http.services import services


def add(actor: Actor, report: Report, name: str | None = None) -> EvaluationRun:
    """Keep an uploaded report.

    Raises:
        Forbidden: a viewer adds none.
        InvalidInput: the name is none.
    """
    with transaction(services().sessions) as session:
        run = runs.add_report(session, actor, report, name)
        note(session, Action.RUN_ADDED, target=run.name, target_id=run.id)
    return run


def ask_again(actor: Actor, collection_id: UUID, asked: SearchRequest, name: str | None = None) -> EvaluationRun:
    """Ask the reviewed questions of a collection again; all of the searches are accepted, or none.

    Raises:
        NotFound: no such collection.
        Forbidden: this account may not change it.
        InvalidInput: a setting is out of bounds.
        Conflict: nothing there is reviewed, or the collection is not indexed.
    """
    found = services()
    with transaction(found.sessions) as session:
        originals = runs.questions_to_ask(session, actor, collection_id)
    copies: dict[UUID, StoredPicture] = {}

    def start(session: Session) -> Started:
        started = runs.start_run(
            session, actor, collection_id, originals, asked, found.settings, pictures=copies, name=name
        )
        note(
            session,
            Action.RUN_ADDED,
            target=started.run.name,
            target_id=started.run.id,
            collection_id=collection_id,
            searches=len(originals),
        )
        return started

    try:
        # copied before the transaction, which would stay open for as long
        _copy_pictures(originals, copies)
        started = run_transaction(found.sessions, start)
    except BaseException:
        for copy in copies.values():
            forget(copy.key)
        raise
    found.notifier.notify(started.units)
    return started.run


def _copy_pictures(originals: Sequence[Original], copies: dict[UUID, StoredPicture]) -> None:
    """Give each question with a picture a copy of its own, since it goes with its search when that is deleted."""
    storage = services().storage
    for original in originals:
        if original.picture_key is None or original.picture_sha256 is None:
            continue
        key = f"queries/{new_id()}/picture"
        with storage.open(original.picture_key) as picture:
            storage.put(key, picture)
        copies[original.search_id] = StoredPicture(key, original.picture_sha256)


def delete(actor: Actor, run_id: UUID) -> EvaluationRun:
    """Delete a run; its searches stay in the history.

    Raises:
        NotFound: there is none that this account may see.
        Forbidden: it is somebody else's.
    """
    with transaction(services().sessions) as session:
        run = runs.delete_run(session, actor, run_id)
        note(session, Action.RUN_DELETED, target=run.name, target_id=run.id, collection_id=run.collection_id)
    return run
