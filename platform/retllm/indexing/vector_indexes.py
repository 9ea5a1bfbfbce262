"""Builds and drops the vector indexes of large collections (design: speed).

An index job adds a unit without items for each model whose vectors need an index when it has nothing else left to do.
The server builds the index while other transactions read and write the table. One is built or dropped at a time: an
advisory lock of the session that does it ends with that session, also if its worker is killed.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import Sessions, direct_engine, transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item, new_id
from retllm.db.vectors import INDEX_PREFIX, VectorIndex, count_vectors, index_name, usable_index
from retllm.errors import DatabaseBusy, RetllmError, UnitPostponed
from retllm.indexing.indexed import current_model
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import AsideStep, LeasedUnit, WorkerContext

log = structlog.get_logger(__name__)

EXACT_LIMIT = 20_000
"""Up to so many vectors are compared one by one, which is fast and misses none."""
_LATER_SHARE = 0.125
"""An index is built again when more vectors than that share of it came later, and more than ``EXACT_LIMIT``."""
_SMALL = 0.5
"""An index is dropped when fewer vectors than that share of ``EXACT_LIMIT`` are left."""
NEIGHBOURS = 16
"""Neighbours of each vector in the graph of an index; pgvector's default."""
EF_CONSTRUCTION = 200
"""The default, 64, misses more of the 400 nearest where clusters lie apart, and takes half of the time to build."""
# of an index in memory while it is built, for each vector besides its half floats
_NODE_BYTES = 800
_MEMORY_MARGIN = 1.5
_LEAST_MEMORY_KB = 64 << 10

_LOCK = 0x7265746E
# between two looks at the lease and at the job
_LOOK_SECONDS = 0.5
# until a unit that finds another index being built looks again; each look is an attempt in the job's list
_WAIT_SECONDS = 60.0
# how soon the server notices that the worker is gone
_CHECK_MS = 5000
# after so long without a statement the server ends the session, with its lock: its worker stands still, or is cut off
_IDLE_MS = 60_000


def missing_indexes(session: Session, job: Job) -> list[dict[str, Any]]:
    """Return the payloads of units that build the indexes that a job leaves to build; one for each model."""
    names = [job.params["embedder"], *job.params.get("extra_embedders", [])]
    models = [model for name in names if (model := current_model(session, name)) is not None]
    # one that is dead waits for a retry
    undone = sa.select(Unit.payload["index"].astext).where(Unit.job_id == job.id, Unit.state != UnitState.DONE)
    planned = set(session.scalars(undone))
    return [
        {"items": [], "index": str(model.id)}
        for model in models
        if str(model.id) not in planned and needs_index(session, model.id, job.one_collection)
    ]


def next_index_units(session: Session, job: Job) -> tuple[Stage, Sequence[dict[str, Any]]] | None:
    """Return the units of :func:`missing_indexes` as a job handler does."""
    payloads = missing_indexes(session, job)
    return (Stage.EMBED, payloads) if payloads else None


def needs_index(session: Session, model_id: UUID, collection_id: UUID) -> bool:
    """Return whether so many vectors of a model in a collection have no index that searches would be slow."""
    index = usable_index(session, model_id, collection_id)
    limit = EXACT_LIMIT if index is None else _many(index)
    after = None if index is None else index.through
    return count_vectors(session, model_id, collection_id, limit + 1, after) > limit


def _many(index: VectorIndex) -> int:
    return max(EXACT_LIMIT, int(_LATER_SHARE * index.vectors))


def give_up_index(session: Session, model_id: UUID, item_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """Stop using the index that the vectors of these items would be inserted into, if they are many.

    Inserting them takes longer than building the index again, which the job does at its end. The items are of one
    collection, in the order of their keys. Returns the payload of the unit that drops the index, if it is given up.
    """
    collection = sa.select(Item.collection_id).where(Item.id == item_ids[0]).scalar_subquery() if item_ids else None
    index = session.scalar(sa.select(VectorIndex).filter_by(model_id=model_id, collection_id=collection))
    if index is None or bisect_right(item_ids, index.through) <= _many(index):
        return []
    session.delete(index)
    return [{"items": [], "drop": str(index.id)}]


def drop(context: WorkerContext, held: LeasedUnit) -> AsideStep:
    """Return the step that drops the index that a job has given up."""
    return AsideStep(partial(_drop_given_up, context, held))


def _drop_given_up(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
    with _alone(context.sessions) as connection:
        if connection is None:
            raise UnitPostponed(_WAIT_SECONDS)
        _drop(connection, index_name(UUID(held.claim.payload["drop"])))
        return complete(context.sessions, held.claim, lambda _session, _job: [])


def build(context: WorkerContext, held: LeasedUnit) -> AsideStep:
    """Return the step that builds the index of a unit, which takes minutes and leaves the worker free."""
    return AsideStep(partial(_build, context, held))


def _build(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
    """Build the index of a unit, put it in the place of an earlier one, and drop that.

    Raises:
        UnitPostponed: another index is being built.
        StaleClaim, JobCancelled: while it is built, or at the end.
    """
    model_id, sessions = UUID(held.claim.payload["index"]), context.sessions
    with _alone(sessions) as connection:
        if connection is None:
            raise UnitPostponed(_WAIT_SECONDS)
        with sessions() as session:
            collection_id = session.get_one(Job, held.claim.job_id).one_collection
            # another job may have built it meanwhile
            needed = needs_index(session, model_id, collection_id)
        index = None
        if needed:
            index = _built(sessions, connection, held.claim.unit_id, model_id, collection_id, held.lease.check_now)

        def write(session: Session, _job: Job) -> list[Notification]:
            if index is not None:
                # whoever has the lock drops indexes without a row; it is this one as long as the session is there
                connection.execute(sa.select(1))
                _put_in_place(session, index)
            return []

        opened = complete(sessions, held.claim, write)
        _drop_unlisted(connection)
        return opened


def build_now(sessions: Sessions, model_id: UUID, collection_id: UUID) -> None:
    """Build the index of a model's vectors in a collection, however few they are.

    Raises:
        DatabaseBusy: another index is being built.
    """
    with _alone(sessions) as connection:
        if connection is None:
            raise DatabaseBusy(retry_after=60)
        index = _built(sessions, connection, new_id(), model_id, collection_id, lambda: None)
        with transaction(sessions) as session:
            _put_in_place(session, index)
        _drop_unlisted(connection)


def _built(
    sessions: Sessions,
    connection: sa.Connection,
    index_id: UUID,
    model_id: UUID,
    collection_id: UUID,
    check: Callable[[], None],
) -> VectorIndex:
    """Return a new index that the server has built; whatever ``check`` raises meanwhile ends that."""
    vectors = sa.select(Embedding.item_id).filter_by(collection_id=collection_id, model_id=model_id)
    with sessions() as session:
        through = session.scalars(vectors.order_by(Embedding.item_id.desc()).limit(1)).one()
        dimension = session.get_one(EmbeddingModel, model_id).dimension
        count = session.scalar(sa.select(sa.func.count()).select_from(vectors.subquery())) or 0
    index = VectorIndex(id=index_id, model_id=model_id, collection_id=collection_id, through=through)
    _limit_memory(connection, count * (_NODE_BYTES + 2 * dimension))
    try:
        _create(connection, index, dimension, check)
        index.counts = _counts(connection, index)
    except BaseException:
        _drop(connection, index_name(index_id))
        raise
    return index


def _put_in_place(session: Session, index: VectorIndex) -> None:
    same = {"model_id": index.model_id, "collection_id": index.collection_id}
    session.execute(sa.delete(VectorIndex).filter_by(**same))
    values = {"id": index.id, "through": index.through, "counts": index.counts, **same}
    session.execute(sa.insert(VectorIndex).values(values))


@contextlib.contextmanager
def _alone(sessions: Sessions) -> Iterator[sa.Connection | None]:
    """Yield a connection that is not in a transaction and holds the lock; None if another one holds it."""
    with direct_engine(sessions).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # closed at the end, with its lock and settings, and not used again
        connection.detach()
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_LOCK))):
            yield None
            return
        connection.exec_driver_sql(f"SET idle_session_timeout = {_IDLE_MS}")
        # a build takes as long as it takes, whatever a server or account is set to
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("SET lock_timeout = 0")
        with contextlib.suppress(sa.exc.DBAPIError):
            # not on every system
            connection.exec_driver_sql(f"SET client_connection_check_interval = {_CHECK_MS}")
        try:
            yield connection
        finally:
            # the server may take a while to end a session whose connection was closed
            with contextlib.suppress(sa.exc.DBAPIError):
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK)))


def _limit_memory(connection: sa.Connection, size: float) -> None:
    """Let a build take no more memory than it needs: several processes take all that they may at once."""
    name = "maintenance_work_mem"
    kilobytes = max(_LEAST_MEMORY_KB, int(_MEMORY_MARGIN * size) >> 10)
    setting = sa.select(sa.cast(sa.column("setting"), sa.BigInteger)).select_from(sa.table("pg_settings"))
    if kilobytes < (connection.scalar(setting.where(sa.column("name") == name)) or 0):
        connection.exec_driver_sql(f"SET {name} = {kilobytes}")


def _create(connection: sa.Connection, index: VectorIndex, dimension: int, check: Callable[[], None]) -> None:
    name = index_name(index.id)
    # what an earlier attempt left is not valid
    _drop(connection, name)
    log.info("vector_index.building", index=name)
    statement = (
        f"CREATE INDEX CONCURRENTLY {name} ON embeddings "
        f"USING hnsw ((vector::halfvec({int(dimension)})) halfvec_cosine_ops) "
        f"WITH (m = {NEIGHBOURS}, ef_construction = {EF_CONSTRUCTION}) "
        f"WHERE model_id = '{index.model_id}' AND collection_id = '{index.collection_id}' "
        f"AND item_id <= '{index.through}'"
    )
    # asked for while it is there: the connection may be lost while the index is built
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, psycopg.Connection)
    with ThreadPoolExecutor(1, thread_name_prefix="index") as thread:
        running = thread.submit(connection.exec_driver_sql, statement)
        while not wait([running], _LOOK_SECONDS).done:
            try:
                check()
            except RetllmError:
                driver.cancel_safe()
                wait([running])
                raise
        running.result()


def _counts(connection: sa.Connection, index: VectorIndex) -> dict[str, int]:
    """Return the number of vectors of each kind of item in an index."""
    counted = (
        sa.select(Item.kind, sa.func.count())
        .join(Embedding, Embedding.item_id == Item.id)
        .where(Embedding.model_id == index.model_id, Embedding.collection_id == index.collection_id)
        .where(Embedding.item_id <= index.through, Item.state == ItemState.READY)
    )
    return {kind.value: count for kind, count in connection.execute(counted.group_by(Item.kind))}


def drop_unused(sessions: Sessions) -> int:
    """Drop indexes that nothing uses, unless one is being built; return their number.

    They are those of earlier releases, of deleted collections, of attempts that failed, and of collections that have
    become small.
    """
    with _alone(sessions) as connection:
        if connection is None:
            return 0
        with transaction(sessions) as session:
            least = int(_SMALL * EXACT_LIMIT)
            for index in session.scalars(sa.select(VectorIndex)):
                if count_vectors(session, index.model_id, index.collection_id, least) < least:
                    session.delete(index)
        return _drop_unlisted(connection)


def _drop_unlisted(connection: sa.Connection) -> int:
    used = {index_name(index_id) for index_id in connection.scalars(sa.select(VectorIndex.id))}
    present = connection.scalars(
        sa.text(
            "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE indrelid = 'embeddings'::regclass AND starts_with(relname, :prefix)"
        ),
        {"prefix": INDEX_PREFIX},
    ).all()
    unused = [name for name in present if name not in used]
    for name in unused:
        _drop(connection, name)
        log.info("vector_index.dropped", index=name)
    return len(unused)


def _drop(connection: sa.Connection, name: str) -> None:
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
