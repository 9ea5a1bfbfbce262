"""The ways that ``retllm bench coarse`` answers queries in, and how they are measured."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.bench import coarse_rivals
from retllm.bench.coarse_data import Filter, Generated, Numbers, Vectors
from retllm.db.enums import ItemKind
from retllm.db.session import Sessions
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.db.vectors import covered, distance, usable_index
from retllm.indexing import vector_indexes
from retllm.search.neighbours import ef_search, nearest

DEPTH = 100
"""Neighbours of a query when its time is measured."""
CLIENTS = 8

Keys = Sequence[uuid.UUID]
# finds the keys of the nearest items
Find = Callable[[Session, Vectors, int, Filter], Keys]


@dataclass(frozen=True, slots=True)
class Answers:
    """One way to answer queries with the 100 nearest items; recall is the share of the exact answer.

    Attributes:
        p50_ms, p95_ms: of one client.
        per_second: of one client, and of eight at once.
    """

    recall_10: float
    recall_100: float
    fewest: int
    p50_ms: float
    p95_ms: float
    per_second: tuple[float, float]


@dataclass(frozen=True)
class Way:
    """A way to answer queries about one collection, and the sessions for it."""

    sessions: Sessions
    find: Find


class Platform:
    """A search as the platform does it."""

    def __init__(self, model: EmbeddingModel, one: Generated) -> None:
        self._model = model
        self._one = one

    def find(self, session: Session, query: Vectors, k: int, among: Filter) -> Keys:
        """Return the keys of the nearest items; the kind is a filter of its own."""
        of_kind = among.column == "kind"
        kinds = [ItemKind(str(among.value))] if of_kind else list(ItemKind)
        where = () if of_kind else among.of_items()
        found = nearest(session, self._model, self._one.collection_id, query, k, kinds, where)
        return [near.item_id for near in found.neighbours]

    @contextmanager
    def without_index(self) -> Iterator[None]:
        """Compare each item with the query inside the context."""
        limit, vector_indexes.EXACT_LIMIT = vector_indexes.EXACT_LIMIT, self._one.size
        try:
            yield
        finally:
            vector_indexes.EXACT_LIMIT = limit


def bare_sql(sessions: Sessions, model: EmbeddingModel, one: Generated) -> Find:
    """Return the query that most people write; it uses the platform's index if there is one."""
    with sessions() as session:
        index = usable_index(session, model.id, one.collection_id)
    belongs = (
        (Embedding.model_id == model.id, Embedding.collection_id == one.collection_id)
        if index is None
        else covered(index)
    )

    def find(session: Session, query: Vectors, k: int, among: Filter) -> Keys:
        statement = sa.select(Embedding.item_id).join(Item, Item.id == Embedding.item_id)
        statement = statement.where(*belongs, *among.of_items()).order_by(distance(model, query)).limit(k)
        return list(session.scalars(statement))

    return find


def tune(sessions: Sessions) -> None:
    """Set the connections of these sessions to scan an index for as many candidates as the platform does."""

    @sa.event.listens_for(sessions.kw["bind"], "connect")
    def set_up(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
        connection.cursor().execute(f"SET hnsw.ef_search = {ef_search(DEPTH)}")
        connection.commit()


def of_rival(rival: coarse_rivals.Rival) -> Find:
    """Return the way to ask a rival."""
    return lambda _session, query, k, among: rival.find(query, k, among)


def measure(way: Way, one: Generated, queries: Vectors, truth: Numbers, among: Filter) -> Answers:
    """Measure a way with queries whose exact answers are known, 100 for each."""
    with way.sessions() as session:
        ten = [way.find(session, query, 10, among) for query in queries]
        # a first query plans and reads what later ones find in memory
        way.find(session, queries[0], DEPTH, among)
    hundred, times, alone = run(way, queries, among, 1)
    *_, together = run(way, queries, among, CLIENTS)
    return Answers(
        recall_10=share_found(ten, truth[:, :10], one),
        recall_100=share_found(hundred, truth, one),
        fewest=min(map(len, hundred)),
        p50_ms=median_ms(times),
        p95_ms=1000 * sorted(times)[min(len(times) - 1, int(0.95 * len(times)))],
        per_second=(alone, together),
    )


def run(way: Way, queries: Vectors, among: Filter, clients: int) -> tuple[list[Keys], list[float], float]:
    """Return the answers, the seconds of each query, and queries per second of so many clients at once."""

    def client(part: Vectors) -> list[tuple[Keys, float]]:
        answers = []
        for query in part:
            began = time.perf_counter()
            with way.sessions() as session:
                found = way.find(session, query, DEPTH, among)
            answers.append((found, time.perf_counter() - began))
        return answers

    with ThreadPoolExecutor(clients) as threads:
        began = time.perf_counter()
        answers = [one for part in threads.map(client, np.array_split(queries, clients)) for one in part]
        spent = time.perf_counter() - began
    return [found for found, _ in answers], [seconds for _, seconds in answers], len(queries) / spent


def median_ms(seconds: Iterable[float]) -> float:
    """Return the median in milliseconds."""
    return 1000 * statistics.median(seconds)


def share_found(found: Sequence[Keys], truth: Numbers, one: Generated) -> float:
    """Return the mean share of the exact answers that were found; 1 if nothing matches."""
    exact = [{one.keys[number] for number in row if number >= 0} for row in truth]
    shares = [len(keys & {*row}) / len(keys) for row, keys in zip(found, exact, strict=True) if keys]
    return statistics.fmean(shares) if shares else 1.0
