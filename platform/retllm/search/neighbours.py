"""Find the k nearest items of a collection with pgvector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from pgvector import Vector
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler

from retllm.db.enums import ItemKind
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.db.vectors import VectorIndex, covered, distance, usable_index
from retllm.indexing import vector_indexes
from retllm.indexing.indexed import is_ready

# an index has vectors of half precision; so many more are ranked in full precision
_SPARE = 10
# and so many times k where not everything matches: what matches may lie far from the query, where a scan misses more
_SPARE_IF_FILTERED = 2
_MAX_EF_SEARCH = 1000
# a scan keeps a vector as a candidate in the time in which so many are compared one by one
_CANDIDATE_COST = 8
# a scan looks at so many vectors while one of those that match is compared; after that many it takes what it has seen,
# and misses more
_SCANNED = 3
_LEAST_SCANNED = 60_000
_SETTINGS = {
    # in the order in which they are found: all are ranked again
    "hnsw.iterative_scan": "relaxed_order",
    "hnsw.scan_mem_multiplier": 8,
    # the planner knows little of the costs of a new index
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    # up to PostgreSQL 17 what is off only costs very much, and costly plans are compiled
    "jit": "off",
}

_Rows = Sequence[Any]
_Conditions = tuple[sa.ColumnElement[bool], ...]


@dataclass(frozen=True)
class Neighbour:
    """An item near the query: its cosine similarity in [-1, 1] and its coarse rank, 1 for the nearest."""

    item_id: UUID
    similarity: float
    rank: int


class Nearest(NamedTuple):
    """The nearest items.

    Attributes:
        neighbours: the nearest first.
        searched: number of searched items; an estimate if ``exact`` is false.
        exact: whether the query was compared with every item; otherwise an index found the nearest.
    """

    neighbours: list[Neighbour]
    searched: int
    exact: bool


def nearest(
    session: Session,
    model: EmbeddingModel,
    collection_id: UUID,
    query: NDArray[np.float32],
    k: int,
    kinds: Sequence[ItemKind],
    where: Sequence[sa.ColumnElement[bool]] = (),
) -> Nearest:
    """Return the ``k`` nearest items that match; always as many as there are, up to ``k``.

    Without an index, or if few items seem to match, every one that does is compared. Otherwise the index finds the
    nearest of those that it has, and what came later is compared. A scan of the index that finds too few stops when
    comparing would have taken as long, and all that match are compared after all. So a wrong estimate of their number
    costs time, and no result. Similarities always have full precision, and equal ones are ordered by item key.

    Args:
        query: L2-normalised vector of shape (dimension,), float32.
        kinds: kinds of items to consider.
        where: further conditions on the items.
    """
    matching: _Conditions = (is_ready(), Item.kind.in_(list(kinds)), *where)
    own: _Conditions = (
        Embedding.model_id == model.id,
        Embedding.collection_id == collection_id,
        # redundant, but lets an index of the items serve the whole condition
        Item.collection_id == collection_id,
    )
    index = usable_index(session, model.id, collection_id)
    estimate = 0 if index is None else _estimate(session, index, kinds, where)
    if index is not None and estimate > _few(index.vectors, estimate):
        found = _by_index(session, model, index, matching, query, k, estimate)
        if found is not None:
            later, count = _exactly(session, (*own, Embedding.item_id > index.through, *matching), query, k)
            return Nearest(_ranked([*found, *later], k), estimate + count, exact=False)
    rows, searched = _exactly(session, (*own, *matching), query, k)
    return Nearest(_ranked(rows, k), searched, exact=True)


def _estimate(
    session: Session, index: VectorIndex, kinds: Sequence[ItemKind], where: Sequence[sa.ColumnElement[bool]]
) -> int:
    """Return about how many items of an index match; only conditions other than the kind need the planner."""
    of_kinds = sum(int(index.counts.get(kind, 0)) for kind in kinds)
    if not where or of_kinds <= vector_indexes.EXACT_LIMIT:
        return of_kinds
    matching = sa.select(Item.id).where(Item.collection_id == index.collection_id, is_ready(), *where)
    expected = int(session.execute(_Plan(matching)).scalar_one()[0]["Plan"]["Plan Rows"])
    # the kinds are taken to be as frequent among them as among all
    return min(of_kinds, expected * of_kinds // index.vectors)


def _few(vectors: int, estimate: int) -> float:
    """Return how many matching vectors are compared one by one, if about ``estimate`` of all match.

    They are the more, the more vectors that do not match a scan would visit between two that do.
    """
    return vector_indexes.EXACT_LIMIT * max(1.0, vectors / (_CANDIDATE_COST * max(1, estimate)))


class _Plan(sa.Executable, sa.ClauseElement):
    """The plan of a statement, which is not executed."""

    inherit_cache = False

    def __init__(self, statement: sa.Select[Any]) -> None:
        self.statement = statement


@compiles(_Plan)
def _compile_plan(plan: _Plan, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(plan.statement, **options)}"


def _ranked(rows: _Rows, k: int) -> list[Neighbour]:
    order = sorted((float(row.gap), row.item_id) for row in rows)[:k]
    return [Neighbour(item_id, 1.0 - gap, rank) for rank, (gap, item_id) in enumerate(order, start=1)]


def ef_search(k: float) -> int:
    """Return how many candidates the scan of an index keeps, so that it finds 99 % of the ``k`` nearest.

    Measured on clusters of 250 vectors that lie apart, the hardest of what was tried: 100 find all of the 100 nearest,
    200 all of 200, and 1,000 find 99 % of 400.
    """
    return int(min(_MAX_EF_SEARCH, max(100, 2.5 * k)))


def _by_index(
    session: Session,
    model: EmbeddingModel,
    index: VectorIndex,
    matching: _Conditions,
    query: NDArray[np.float32],
    k: int,
    estimate: int,
) -> _Rows | None:
    """Return at least ``k`` items that an index finds, with their distances in full precision; None if it takes long.

    If all match, the nearest ``k`` are found among so many vectors; if half do, among twice as many.
    """
    rows = k + _SPARE + (_SPARE_IF_FILTERED * k if estimate < index.vectors else 0)
    ef = ef_search((k + _SPARE) * index.vectors / estimate)
    bounds = {"hnsw.ef_search": ef, "hnsw.max_scan_tuples": max(_LEAST_SCANNED, _SCANNED * estimate)}
    found = (
        sa.select(Embedding.item_id, Embedding.vector)
        .join(Item, Item.id == Embedding.item_id)
        .where(*covered(index), *matching)
        .order_by(distance(model, query))
        .limit(rows)
        .cte("found")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    with _set(session, {**_SETTINGS, **bounds}) as connection:
        near = connection.execute(sa.select(found.c.item_id, _gap(found.c.vector, query).label("gap"))).all()
    return near if len(near) == rows else None


@contextmanager
def _set(session: Session, settings: dict[str, Any]) -> Iterator[sa.Connection]:
    """Change settings of the server for some statements that write nothing."""
    connection = session.connection()
    changed = "; ".join(f"SET LOCAL {name} = {value}" for name, value in settings.items())
    # in one message, since each takes longer than the server needs for it
    connection.exec_driver_sql(f"SAVEPOINT nearest; {changed}", execution_options={"no_parameters": True})
    try:
        yield connection
    finally:
        # gives the settings their values back
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT nearest")


def _exactly(session: Session, belongs: _Conditions, query: NDArray[np.float32], k: int) -> tuple[_Rows, int]:
    """Return the exact ``k`` nearest items, and the number of all.

    No index can give the order, since those of vectors have half precision.
    """
    # without the vectors, so that counting and ordering them needs little memory
    compared = (
        sa.select(Embedding.item_id, _gap(Embedding.vector, query).label("gap"))
        .join(Item, Item.id == Embedding.item_id)
        .where(*belongs)
        .cte("compared")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    count = sa.select(sa.func.count()).select_from(compared).scalar_subquery().label("searched")
    ranked = sa.select(compared.c.item_id, compared.c.gap, count).order_by(compared.c.gap, compared.c.item_id).limit(k)
    rows = session.execute(ranked).all()
    return rows, rows[0].searched if rows else 0


def _gap(vector: Any, query: NDArray[np.float32]) -> sa.ColumnElement[float]:
    """Return the cosine distance in full precision; 1 (orthogonal) for a zero vector."""
    gap = vector.cosine_distance(Vector([float(x) for x in query]))
    number: sa.ColumnElement[float] = sa.func.coalesce(sa.func.nullif(gap, sa.literal_column("'NaN'::float8")), 1.0)
    return number


def similarities(
    session: Session, model: EmbeddingModel, query: NDArray[np.float32], item_ids: Sequence[UUID]
) -> dict[UUID, float]:
    """Return the full-precision cosine similarity of each item to the query; items without a vector are left out.

    Args:
        query: L2-normalised vector of shape (dimension,), float32.
    """
    rows = session.execute(
        sa.select(Embedding.item_id, _gap(Embedding.vector, query).label("gap")).where(
            Embedding.model_id == model.id, Embedding.item_id.in_(list(item_ids))
        )
    )
    return {row.item_id: 1.0 - float(row.gap) for row in rows}
