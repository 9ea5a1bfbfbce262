"""Find the k nearest items of one collection, or of several together, with pgvector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.plans import joined, joined_whole, plan_of, server_settings
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.db.vectors import VectorIndex, beyond, covered, distance, parameter, usable_index
from retllm.indexing import vector_indexes
from retllm.indexing.indexed import is_ready

# an index has vectors of half precision; so many more are ranked in full precision
_SPARE = 10
# of what matches anywhere, so many times the expected number are looked at
_MARGIN = 1.5
# up to so many that match and lie far from the query are compared one by one
_FEW_FAR = 200_000
# of more, a scan meets so many; measured on clusters of 250, of which half match
_TIMES_IF_FAR, _MORE_IF_FAR = 3, 2_000
_MAX_EF_SEARCH = 1000
_EF_TIMES = 2.5
# more than so many need several rounds of a scan, which find so many times as many
_AT_ONCE, _DEEP_TIMES = 250, 6
# a scan keeps a vector as a candidate in the time in which so many are compared one by one
_CANDIDATE_COST = 8
# a scan looks at so many vectors while one of those that match is compared; after that many it takes what it has seen,
# and misses more
_SCANNED = 3
_LEAST_SCANNED = 60_000
_SETTINGS = {
    "hnsw.scan_mem_multiplier": 8,
    # the planner knows little of the costs of a new index
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
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
    """Return the ``k`` nearest items of one collection, see :func:`nearest_of_all`."""
    return nearest_of_all(session, model, [collection_id], query, k, kinds, where)


def nearest_of_all(
    session: Session,
    model: EmbeddingModel,
    collection_ids: Sequence[UUID],
    query: NDArray[np.float32],
    k: int,
    kinds: Sequence[ItemKind],
    where: Sequence[sa.ColumnElement[bool]] = (),
) -> Nearest:
    """Return the ``k`` nearest items that match; always as many as there are, up to ``k``.

    Each collection is asked with its own index for its ``k`` nearest, so the order is that of one with all their items.

    Without an index, or if few items seem to match, every one that does is compared. Otherwise the index finds the
    nearest of those that it has, and what came later is compared. A scan of the index that finds too few stops when
    comparing would have taken as long, and all that match are compared after all. So a wrong estimate of their number
    costs time, and no result. Similarities always have full precision, and equal ones are ordered by item key.

    Args:
        query: L2-normalised vector of shape (dimension,), float32.
        kinds: kinds of items to consider.
        where: further conditions on the items.
    """
    found = [_rows_of(session, model, collection_id, query, k, kinds, where) for collection_id in collection_ids]
    rows = [row for some, *_ in found for row in some]
    return Nearest(_ranked(rows, k), sum(searched for _, searched, _ in found), all(exact for *_, exact in found))


def _rows_of(
    session: Session,
    model: EmbeddingModel,
    collection_id: UUID,
    query: NDArray[np.float32],
    k: int,
    kinds: Sequence[ItemKind],
    where: Sequence[sa.ColumnElement[bool]],
) -> tuple[_Rows, int, bool]:
    """Return the rows of one collection among which its nearest ``k`` are, with the rest of a ``Nearest``."""
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
            rows, later = found
            # what came later is taken to match as often as what the index has
            expected = estimate + later * estimate // index.vectors
            return rows, max(expected, min(k, len(rows))), False
    join = joined if where else joined_whole
    rows, searched = _exactly(session, (*own, *matching), query, k, join)
    return rows, searched, True


def _estimate(
    session: Session, index: VectorIndex, kinds: Sequence[ItemKind], where: Sequence[sa.ColumnElement[bool]]
) -> int:
    """Return about how many items of an index match; only conditions other than the kind need the planner."""
    of_kinds = sum(int(index.counts.get(kind, 0)) for kind in kinds)
    if not where or of_kinds <= vector_indexes.EXACT_LIMIT:
        return of_kinds
    matching = sa.select(Item.id).where(Item.collection_id == index.collection_id, is_ready(), *where)
    expected = int(plan_of(session, matching)["Plan Rows"])
    # the kinds are taken to be as frequent among them as among all
    return min(of_kinds, expected * of_kinds // index.vectors)


def _few(vectors: int, estimate: int) -> float:
    """Return how many matching vectors are compared one by one, if about ``estimate`` of all match.

    They are the more, the more vectors that do not match a scan would visit between two that do.
    """
    return vector_indexes.EXACT_LIMIT * max(1.0, vectors / (_CANDIDATE_COST * max(1, estimate)))


def _ranked(rows: _Rows, k: int) -> list[Neighbour]:
    order = sorted((float(row.gap), row.item_id) for row in rows)[:k]
    return [Neighbour(item_id, 1.0 - gap, rank) for rank, (gap, item_id) in enumerate(order, start=1)]


def ef_search(k: float) -> int:
    """Return how many candidates the scan of an index keeps, so that it finds 99 % of the ``k`` nearest.

    Measured on 500,000 vectors in clusters of 250 that lie apart, the hardest of what was tried: 250 find 99.9 % of the
    100 nearest and 500 find 99.5 % of 200. But 1,000 find only 92 % of 400: of so many, a scan goes on for more.
    """
    return int(min(_MAX_EF_SEARCH, max(100, _EF_TIMES * k)))


@dataclass(frozen=True, slots=True)
class _Scan:
    """How an index is scanned.

    Attributes:
        rows: how many vectors it finds.
        only_matching: whether these are vectors that match, or any.
        within: among so many of the nearest, the ``k`` must be that match.
        settings: of the server.
    """

    rows: int
    only_matching: bool
    within: int
    settings: dict[str, Any]


def _scans(index: VectorIndex, k: int, estimate: int) -> Iterator[_Scan]:
    """Return how the nearest ``k`` are looked for, if about ``estimate`` vectors match.

    First among so many as have ``k`` that match if these lie anywhere. Where fewer of them match, what matches lies far
    from the query. A scan meets it in no good order, and not all of it, so that only a very large number is not rather
    compared one by one; and it goes on until it has met many more.
    """
    wanted = k * index.vectors / estimate
    # enough match but by rare chance, also where some items were deleted
    within = int(_MARGIN * wanted) + _SPARE
    ef = ef_search(wanted + _SPARE)
    bounds = {"hnsw.ef_search": ef, "hnsw.max_scan_tuples": max(_LEAST_SCANNED, _SCANNED * estimate)}
    goes_on = {**bounds, "hnsw.iterative_scan": "relaxed_order"}
    if wanted <= _AT_ONCE:
        yield _Scan(within, False, within, {**bounds, "hnsw.iterative_scan": "off"})
    elif wanted <= _MAX_EF_SEARCH:
        yield _Scan(int(_DEEP_TIMES * wanted), False, within, goes_on)
    if estimate > _FEW_FAR:
        rows = _TIMES_IF_FAR * k + _MORE_IF_FAR
        yield _Scan(rows, True, rows, goes_on)


def _by_index(
    session: Session,
    model: EmbeddingModel,
    index: VectorIndex,
    matching: _Conditions,
    query: NDArray[np.float32],
    k: int,
    estimate: int,
) -> tuple[_Rows, int] | None:
    """Return the nearest ``k`` that an index finds, and of those that came later; and the number of all the latter.

    None if the index finds too few in good time.
    """
    for scan in _scans(index, k, estimate):
        with server_settings(session, {**_SETTINGS, **scan.settings}) as connection:
            rows = connection.execute(_near_and_later(model, index, matching, query, scan, k)).all()
        near = [row for row in rows if row.by_index]
        # what matters is whether all were met that the scan would go on for
        is_enough = near and near[0].number == scan.rows if scan.only_matching else len(near) == k
        if is_enough and near[-1].place <= scan.within:
            return rows, next((row.number for row in rows if not row.by_index), 0)
    return None


def _near_and_later(
    model: EmbeddingModel,
    index: VectorIndex,
    matching: _Conditions,
    query: NDArray[np.float32],
    scan: _Scan,
    k: int,
) -> sa.CompoundSelect[Any]:
    """Select the nearest ``k`` that a scan of an index meets, and those that came later.

    Each has the number of all that the scan met, or that came later, whether they match or not. Those that came later
    are compared one by one.
    """
    gap = _gap(Embedding.vector, query).label("gap")
    found = sa.select(Embedding.item_id, gap).where(*covered(index))
    if scan.only_matching:
        found = found.join(Item, Item.id == Embedding.item_id).where(*matching)
    found = found.order_by(distance(model, query)).limit(scan.rows)
    later = sa.select(Embedding.item_id, gap).where(*beyond(index))
    parts = ((found, "found", sa.true()), (later, "later", sa.false()))
    return sa.union_all(*(_best_of(select, name, is_found, matching, k) for select, name, is_found in parts))


def _best_of(select: sa.Select[UUID, float], name: str, by_index: Any, matching: _Conditions, k: int) -> sa.Select[Any]:
    """Select the nearest ``k`` of some embeddings that match, with their places among all and the number of all.

    They are found before they are joined, since the planner does not know how few they are; and joined one by one, the
    nearest first, until ``k`` match.
    """
    some = select.cte(name).prefix_with("MATERIALIZED", dialect="postgresql")
    # columns by name: those of the CTE would be copies of all that they are computed from
    item_id: sa.ColumnClause[UUID] = sa.literal_column(f"{name}.item_id", sa.Uuid())
    gap: sa.ColumnClause[float] = sa.literal_column(f"{name}.gap", sa.Float())
    place = sa.func.row_number().over(order_by=gap).label("place")
    number = sa.func.count().over().label("number")
    of_all = (item_id.label("item_id"), gap.label("gap"), place, number)
    ranked = sa.select(*of_all).select_from(some).subquery(f"ranked_{name}")
    met = sa.select(*ranked.c, by_index.label("by_index"))
    met = met.join_from(ranked, Item, Item.id == ranked.c.item_id).where(*matching)
    return met.order_by(ranked.c.gap, ranked.c.item_id).limit(k)


def _exactly(
    session: Session,
    belongs: _Conditions,
    query: NDArray[np.float32],
    k: int,
    join: Callable[[Session, sa.Select[Any]], _Rows],
) -> tuple[_Rows, int]:
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
    item_id = sa.literal_column("compared.item_id", sa.Uuid()).label("item_id")
    gap: sa.Label[float] = sa.literal_column("compared.gap", sa.Float()).label("gap")
    count = sa.select(sa.func.count()).select_from(compared).scalar_subquery().label("searched")
    ranked = sa.select(item_id, gap, count).select_from(compared).order_by(gap, item_id).limit(k)
    rows = join(session, ranked)
    return rows, rows[0].searched if rows else 0


def _gap(vector: Any, query: NDArray[np.float32]) -> sa.ColumnElement[float]:
    """Return the cosine distance in full precision; 1 (orthogonal) for a zero vector."""
    gap = vector.cosine_distance(parameter(query))
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
