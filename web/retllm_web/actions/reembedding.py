"""Change of a collection's embedder: index with the new one, switch, remove old vectors.

Shared by the API and the pages.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection
from retllm.history.job_views import JobView
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing import coverage as embedders
from retllm.indexing.coverage import Coverage
from retllm.indexing.submit import submit_index
from retllm_web.actions import catalog, submissions
from retllm_web.actions.auditing import record_collection
from retllm_web.http.services import services


def coverage(actor: Actor, collection_id: UUID) -> tuple[Collection, list[Coverage]]:
    """Return a collection that ``actor`` manages, and what each embedder has embedded in it.

    Raises:
        NotFound, Forbidden: they may not see it, or do not manage it.
    """
    with transaction(services().sessions) as session:
        found = collection_for(session, actor, collection_id, Right.MANAGE)
        return found, embedders.coverage(session, found, services().settings)


def index_with(actor: Actor, collection_id: UUID, name: str, *, idempotency_key: str | None = None) -> JobView:
    """Submit an index job with one embedder; existing vectors stay.

    Raises:
        NotFound, Forbidden: no such collection, or ``actor`` may not change it.
        InvalidInput: the embedder is not one of the configured ones.
        Conflict: the collection is empty, or the idempotency key belongs to another request.
    """
    settings = services().settings
    return submissions.submit(
        actor,
        lambda session: submit_index(
            session, actor, collection_id, settings, embedder=name, idempotency_key=idempotency_key
        ),
    )


def use(actor: Actor, collection_id: UUID, name: str | None) -> None:
    """Make ``name`` the primary embedder for searches of the collection; None follows the settings.

    Raises:
        NotFound, Forbidden: ``actor`` does not manage it.
        InvalidInput: the embedder is not one of the configured ones.
        Conflict: it has not embedded every item yet.
    """

    def change(session: Session) -> None:
        found = collection_for(session, actor, collection_id, Right.MANAGE)
        catalog.use_embedder(session, found, name, services().settings)

    run_transaction(services().sessions, change)


def remove(actor: Actor, collection_id: UUID, model_id: UUID) -> int:
    """Delete the vectors of a model that is not in use, and return their number.

    Raises:
        NotFound, Forbidden: ``actor`` does not manage the collection, or there is no such model.
        Conflict: searches of the collection use it.
    """
    found = services()
    with transaction(found.sessions) as session:
        collection = collection_for(session, actor, collection_id, Right.MANAGE)
    removed = embedders.remove_vectors(found.sessions, collection_id, model_id, found.settings)
    if removed:
        with transaction(found.sessions) as session:
            record_collection(
                session,
                Action.COLLECTION_CHANGED,
                collection,
                user=actor,
                vectors_removed=removed,
                model_id=str(model_id),
            )
    return removed
