"""What is in a deleted collection is left out of every query, except for a transaction that had locked it before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased
from tests.factories import make_collection, make_job, make_search, make_text, make_unit, make_user, store

from retllm.db.deletion import WITH_DELETED
from retllm.db.enums import RunSource
from retllm.db.jobs import Job, Unit
from retllm.db.locks import lock_collection, lock_collections_of_jobs
from retllm.db.reviews import EvaluationRun, Judgment
from retllm.db.searches import SearchCollection
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, Item, Source, new_id
from retllm.errors import NotFound
from retllm.media import records

ENTITIES: tuple[Any, ...] = (Collection, Item, Source, Job, Unit, EvaluationRun, Judgment, SearchCollection)
FILE = {"name": "a.pdf", "media_type": "application/pdf", "content_sha256": "f", "size_bytes": 1, "file_key": "f"}


@pytest.fixture
def deleted(fresh_sessions: Sessions) -> UUID:
    """A collection with something of each entity; another one is like it, and stays; the first one is deleted."""
    with transaction(fresh_sessions) as session:
        user = make_user("ada")
        store(session, user)
        run = {"user_id": user.id, "name": "a", "report": {}}
        made = []
        for name in ("one", "other"):
            collection = make_collection(user.id, name)
            store(session, collection)
            item, job = make_text(collection.id, "a"), make_job(user.id, collection.id)
            store(session, item, job, make_unit(job.id), make_search(job.id))
            inside = {"collection_id": collection.id}
            session.add(Source(id=new_id(), **FILE, **inside))
            session.add(EvaluationRun(id=new_id(), source=RunSource.REVIEWED, **run, **inside))
            session.add(SearchCollection(search_id=job.id, **inside))
            session.add(Judgment(question="q", item_id=item.id, relevant=True, **inside))
            made.append(collection.id)
        session.add(EvaluationRun(id=new_id(), source=RunSource.UPLOADED, **run))
    with transaction(fresh_sessions) as session:
        records.delete_collection(session, made[0])
    return made[0]


def _count(entity: Any) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(entity)


WAYS: dict[str, Callable[[Session, Any], Any]] = {
    "rows": lambda session, entity: len(session.scalars(sa.select(entity)).all()),
    "a count": lambda session, entity: session.scalar(_count(entity)),
    "an alias": lambda session, entity: session.scalar(_count(aliased(entity))),
    "a subquery": lambda session, entity: session.scalar(_count(sa.select(entity).subquery())),
    "a scalar": lambda session, entity: session.scalar(sa.select(_count(entity).scalar_subquery())),
    "a query": lambda session, entity: session.query(entity).count(),
}


@pytest.mark.parametrize("entity", ENTITIES, ids=lambda entity: entity.__name__)
def test_no_form_of_query_finds_what_is_deleted(fresh_sessions: Sessions, deleted: UUID, entity: Any) -> None:
    # a report of a benchmark is in no collection
    left = 2 if entity is EvaluationRun else 1
    with fresh_sessions() as session:
        assert {name: way(session, entity) for name, way in WAYS.items()} == dict.fromkeys(WAYS, left)
        assert session.scalar(_count(entity).execution_options(**WITH_DELETED)) == left + 1
        there = set(session.scalars(sa.select(entity)))
        (gone,) = set(session.scalars(sa.select(entity).execution_options(**WITH_DELETED))) - there
    with fresh_sessions() as session:
        assert session.get(entity, sa.inspect(gone).identity) is None
        assert all(session.get(entity, sa.inspect(row).identity) for row in there)


def test_an_update_leaves_it_alone(fresh_sessions: Sessions, deleted: UUID) -> None:
    with transaction(fresh_sessions) as session:
        assert len(session.scalars(sa.update(Unit).values(worker="w").returning(Unit.id)).all()) == 1
        joined = sa.update(Job).values(error="e").where(Job.collection_id == Collection.id).returning(Job.id)
        assert len(session.scalars(joined).all()) == 1


def test_it_can_not_be_deleted_or_locked_again(fresh_sessions: Sessions, deleted: UUID) -> None:
    with fresh_sessions() as session:
        jobs = sa.select(Job.id).where(Job.collection_id == deleted).execution_options(**WITH_DELETED)
        assert lock_collections_of_jobs(session, session.scalars(jobs).all()) == []
        for refused in (records.delete_collection, lock_collection):
            with pytest.raises(NotFound):
                refused(session, deleted)


def test_a_transaction_that_has_locked_it_sees_it_until_its_end(fresh_sessions: Sessions, deleted: UUID) -> None:
    def seen(session: Session) -> list[int]:
        return [session.scalar(_count(entity)) or 0 for entity in (Collection, Item, Job, Unit)]

    with fresh_sessions() as holding:
        (other,) = holding.scalars(sa.select(Collection.id)).all()
        lock_collection(holding, other)
        # does not wait for the lock
        with transaction(fresh_sessions) as session:
            session.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
            records.delete_collection(session, other)
        with fresh_sessions() as session:
            assert seen(session) == [0, 0, 0, 0]
        assert seen(holding) == [1, 1, 1, 1]
        assert holding.get(Collection, other) is not None
        # it goes on with those it has locked, not with others
        assert holding.get(Collection, deleted) is None
        holding.commit()
        assert seen(holding) == [0, 0, 0, 0]
