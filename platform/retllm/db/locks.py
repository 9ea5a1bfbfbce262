"""The lock order, and the lock on collections. Every transaction locks rows in this order:

1. collections, in the order of their keys: ``FOR KEY SHARE`` to change their content (:func:`lock_collections`; the
   foreign key takes this lock too, but too late), ``FOR UPDATE`` to change its embedder or language or to remove a
   deleted one;
2. jobs, in the order of their keys (``queue.lifecycle.lock_job`` locks the collection first);
3. the unit, then its attempts;
4. whole files (sources), in the order of their contents;
5. items, in the order of their keys;
6. dependent rows: embeddings and their claims in the order of their items, candidates, scores, marks; groups of
   near-duplicates in the order of their keys, then their members; points of a map.

Between 1 and 4, a transaction that claims items for a model locks the model's row, and no job.

A transaction that removes a piece of a deleted collection has all that it locks to itself: it begins when no other one
holds the collection, and none can lock that again. The deletion itself only marks the collection, and waits for none of
those that have locked it: they go on seeing it (``db.deletion``).

Three kinds of transactions need no order, since they never wait while they hold a lock: those that lock one row and end
(renewing a lease), those that use SKIP LOCKED (notifying about units), and INSERTs, whose row nobody else sees.

If a deadlock still occurs, PostgreSQL aborts one of the transactions and ``db.session.run_transaction`` retries it.
"""

from __future__ import annotations

from collections.abc import Collection as Several
from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.deletion import hold
from retllm.db.jobs import Job
from retllm.db.searches import SearchCollection
from retllm.db.tables import Collection, Item
from retllm.errors import NotFound


def lock_collections(session: Session, condition: sa.ColumnElement[bool]) -> Sequence[UUID]:
    """Keep collections until the transaction ends, also if they are deleted; return the keys of those that exist.

    The lock is shared: it only blocks removing what is in a deleted collection, and changing its embedder or language.
    """
    query = sa.select(Collection.id).where(condition).order_by(Collection.id)
    locked = session.scalars(query.with_for_update(read=True, key_share=True)).all()
    hold(session, locked)
    return locked


def lock_collection(session: Session, collection_id: UUID, *, alone: bool = False) -> None:
    """Lock one collection; with ``alone`` exclusively, after all other transactions have released it.

    Raises:
        NotFound: it does not exist.
    """
    query = sa.select(Collection.id).where(Collection.id == collection_id)
    if session.scalar(query.with_for_update(read=not alone, key_share=not alone)) is None:
        raise NotFound(f"There is no collection with the id {collection_id}.")
    hold(session, [collection_id])


def lock_collections_of_jobs(session: Session, job_ids: Several[UUID]) -> Sequence[UUID]:
    """Lock the collections of jobs, see :func:`lock_collections`."""
    of_one = sa.select(Job.collection_id).where(Job.id.in_(job_ids), Job.collection_id.is_not(None))
    of_several = sa.select(SearchCollection.collection_id).where(SearchCollection.search_id.in_(job_ids))
    return lock_collections(session, Collection.id.in_(of_one.union_all(of_several)))


def lock_collections_of_items(session: Session, item_ids: Several[UUID]) -> Sequence[UUID]:
    """Lock the collections of items, see :func:`lock_collections`."""
    return lock_collections(session, Collection.id.in_(sa.select(Item.collection_id).where(Item.id.in_(item_ids))))
