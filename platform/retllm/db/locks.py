"""The order of locks, and the lock that begins it. Every transaction takes its rows in one order:

1. the collection, several in the order of their keys: ``FOR KEY SHARE`` by who changes what is in it
   (:func:`lock_collections`, which a foreign key would take anyway, but too late), ``FOR UPDATE`` by who deletes it or
   changes which embedder it uses;
2. the job, several in the order of their keys (``queue.lifecycle.lock_job`` takes its collection first);
3. the unit, then its attempts;
4. the items, in the order of their keys;
5. what hangs on those: embeddings in the order of their items, candidates, scores, marks.

So whoever deletes a collection waits for those who work in it before it takes anything else, and they for it before
they hold anything. Three exceptions wait for nobody while they hold a lock: what locks one row and ends (renewing a
lease), what locks with SKIP LOCKED (announcing units), and an INSERT, whose row nobody else sees.

PostgreSQL ends one of two transactions that wait for each other all the same; ``db.session.run_transaction`` runs it
again.
"""

from __future__ import annotations

from collections.abc import Collection as Several
from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.tables import Collection, Item, Job
from retllm.errors import NotFound


def lock_collections(session: Session, which: sa.ColumnElement[bool]) -> Sequence[UUID]:
    """Keep collections from being deleted until the transaction ends; returns those that are there.

    Others may do the same at once: it stops only who deletes a collection or changes its embedder.
    """
    query = sa.select(Collection.id).where(which).order_by(Collection.id)
    return session.scalars(query.with_for_update(read=True, key_share=True)).all()


def lock_collection(session: Session, collection_id: UUID, *, alone: bool = False) -> None:
    """The same for one; ``alone`` keeps everybody else out of it, and waits until all have left.

    Raises:
        NotFound: it is gone.
    """
    query = sa.select(Collection.id).where(Collection.id == collection_id)
    if session.scalar(query.with_for_update(read=not alone, key_share=not alone)) is None:
        raise NotFound("There is no such collection.")


def lock_collections_of_jobs(session: Session, job_ids: Several[UUID]) -> Sequence[UUID]:
    """The same for those of jobs."""
    return lock_collections(session, Collection.id.in_(sa.select(Job.collection_id).where(Job.id.in_(job_ids))))


def lock_collections_of_items(session: Session, item_ids: Several[UUID]) -> Sequence[UUID]:
    """The same for those of items."""
    return lock_collections(session, Collection.id.in_(sa.select(Item.collection_id).where(Item.id.in_(item_ids))))
