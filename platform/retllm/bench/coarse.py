"""Speed and recall of the coarse stage on generated vectors, beside a bare query of the same table and index.

The embedded server is started in a temporary folder. Collections have a half, a quarter and so on of all vectors. For
the largest one, every way is measured with all kinds of items, with texts only (a fifth), and with captioned pictures
only (one in 200):

- ``platform``: :func:`retllm.search.neighbours.nearest`, as a search calls it;
- ``bare``: the query that most people write, with the server's usual settings and the same index;
- ``exact``: every vector compared, with no index;
- ``faiss`` and ``lancedb``: other indexes of the same vectors (:mod:`retllm.bench.coarse_rivals`), if installed.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.bench import coarse_rivals
from retllm.bench.coarse_data import Generated, Kinds, Vectors, kind_of, load, make_collections, table_bytes
from retllm.db.enums import ItemKind
from retllm.db.migrate import upgrade
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item, new_id
from retllm.db.vectors import VectorIndex, covered, distance, index_name, usable_index
from retllm.indexing import vector_indexes
from retllm.search.neighbours import nearest
from retllm.settings import Settings
from retllm.stack import LocalStack

Notify = Callable[[str], None]
# finds the keys of the nearest items
Find = Callable[[Session, Vectors, int, Kinds], list[uuid.UUID]]

FILTERS: dict[str, Kinds] = {"all": tuple(ItemKind), "texts": (ItemKind.TEXT,), "captioned": (ItemKind.BOTH,)}
DEPTHS = (10, 100)
_QUERIES = 64
_CLIENTS = 8
_LEFT_OUT = 2000
_ROWS_AT_ONCE = 64


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


@dataclass(frozen=True, slots=True)
class CoarseSpeed:
    """The result of one run.

    Attributes:
        sizes: of the collections; the first one is measured.
        others: recall of the 10 nearest in each of the other collections.
        load_per_second: vectors stored by COPY.
        build_seconds: of the index of the first collection, by whose it is; without the platform's if it has none.
        insert_per_second: vectors inserted later, in statements of 64, beside the index and into it.
        bytes_per_vector: of the table, and of the index.
        answers: by way and filter.
    """

    sizes: list[int]
    dimension: int
    others: list[float]
    load_per_second: float
    build_seconds: dict[str, float]
    insert_per_second: tuple[float, float]
    bytes_per_vector: tuple[float, float]
    answers: dict[str, dict[str, Answers]]

    def as_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)


def measure_coarse(
    home: Path, items: int, dimension: int, collections: int, notify: Notify = lambda _: None
) -> CoarseSpeed:
    """Measure a server of its own in ``home``, an empty folder.

    Raises:
        StackError: it can't be started.
    """
    with LocalStack(Settings(home=home, database_url=None, redis_url=None), {"postgres"}, notify=notify) as stack:
        upgrade(stack.database_url)
        sessions = make_sessions(stack.database_url, pool_size=_CLIENTS)
        try:
            return _Side(sessions, items, dimension, collections, notify).measure(home)
        finally:
            sessions.kw["bind"].dispose()


class _Side:
    """The measurements of one server."""

    def __init__(self, sessions: Sessions, items: int, dimension: int, collections: int, notify: Notify) -> None:
        self._sessions = sessions
        self._notify = notify
        sizes = [max(200, items >> min(n + 1, collections - 1)) for n in range(collections)]
        self._collections = [Generated(size, dimension, seed) for seed, size in enumerate(sizes)]
        self._first = self._collections[0]
        # stored when the index is there
        rng = np.random.default_rng(0)
        count = min(_LEFT_OUT, self._first.size // 10)
        self._left_out = frozenset(map(int, rng.choice(self._first.size, count, replace=False)))
        self._model = make_collections(sessions, self._collections)
        self._index: VectorIndex | None = None

    def measure(self, home: Path) -> CoarseSpeed:
        load_per_second = self._load()
        build_seconds = self._build()
        inserted = self._insert()
        answers = {
            way: {name: self._answers(way, find, kinds) for name, kinds in FILTERS.items()}
            for way, find in (("platform", self._platform), ("bare", self._bare), ("exact", self._exact))
            if way != "bare" or self._index is not None
        }
        for name in coarse_rivals.installed():
            self._notify(f"building the index of {name}")
            rival = coarse_rivals.build(name, self._first, home / name)
            build_seconds[name] = rival.build_seconds
            answers[name] = {kind: self._answers(name, _of(rival), kinds) for kind, kinds in FILTERS.items()}
        others = [self._recall(one) for one in self._collections[1:]]
        return CoarseSpeed(
            sizes=[one.size for one in self._collections],
            dimension=self._first.dimension,
            others=others,
            load_per_second=load_per_second,
            build_seconds=build_seconds,
            insert_per_second=inserted,
            bytes_per_vector=self._bytes(),
            answers=answers,
        )

    def _load(self) -> float:
        self._notify("storing vectors")
        began = time.perf_counter()
        for number, one in enumerate(self._collections):
            load(self._sessions, self._model, one, self._left_out if number == 0 else frozenset())
        spent = time.perf_counter() - began
        with self._sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE items, embeddings"))
        return sum(one.size for one in self._collections) / spent

    def _build(self) -> dict[str, float]:
        """Build the indexes that index jobs would build; return the seconds of the first collection's."""
        found = {}
        for one in self._collections:
            with self._sessions() as session:
                needed = vector_indexes.needs_index(session, self._model.id, one.collection_id)
            if needed:
                self._notify(f"building the index of {one.size:,} vectors")
                began = time.perf_counter()
                vector_indexes.build_now(self._sessions, self._model.id, one.collection_id)
                if one is self._first:
                    found["platform"] = time.perf_counter() - began
        with self._sessions() as session:
            self._index = usable_index(session, self._model.id, self._first.collection_id)
        return found

    def _insert(self) -> tuple[float, float]:
        """Insert the vectors that were left out into the index, and as many later ones; return the rates."""
        self._notify("inserting vectors")
        vectors = {
            piece.first + at: vector
            for piece in self._first.pieces()
            for at, vector in enumerate(piece.vectors)
            if piece.first + at in self._left_out
        }
        into = self._rate([(self._first.keys[number], vector) for number, vector in vectors.items()])
        later = [(new_id(), vector) for vector in vectors.values()]
        with transaction(self._sessions) as session:
            common = {"collection_id": self._first.collection_id, "name": "later", "size_bytes": 1}
            # not ready: they are not among the exact answers
            rows = [{"id": key, "content_sha256": key.hex, "kind": kind_of(0), **common} for key, _ in later]
            session.execute(sa.insert(Item).values(state="deleted"), rows)
        return self._rate(later), into

    def _rate(self, rows: Sequence[tuple[uuid.UUID, Vectors]]) -> float:
        common: dict[str, Any] = {"item_version": 1, "image_weight": 0.5, "token": new_id()}
        common |= {"model_id": self._model.id, "collection_id": self._first.collection_id}
        began = time.perf_counter()
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = sorted(rows[start : start + _ROWS_AT_ONCE], key=lambda row: row[0])
            values = [{"item_id": key, "vector": vector, **common} for key, vector in some]
            with transaction(self._sessions) as session:
                session.execute(insert(Embedding).values(values))
        return len(rows) / (time.perf_counter() - began)

    def _bytes(self) -> tuple[float, float]:
        with self._sessions() as session:
            vectors = session.scalar(sa.select(sa.func.count()).select_from(Embedding)) or 1
            size = sa.text("SELECT pg_relation_size(CAST(:name AS regclass))")
            index = session.scalar(size, {"name": index_name(self._index.id)}) if self._index else 0
            return table_bytes(session) / vectors, (index or 0) / self._first.size

    def _answers(self, way: str, find: Find, kinds: Kinds) -> Answers:
        self._notify(f"searching: {way}, {', '.join(kinds)}")
        queries = self._first.queries(_QUERIES)
        truth = self._first.nearest(queries, DEPTHS[-1], kinds)
        recalls = {}
        fewest = DEPTHS[-1]
        for k in DEPTHS:
            with self._sessions() as session:
                found = [find(session, query, k, kinds) for query in queries]
            recalls[k] = _share(found, [row[:k] for row in truth])
            fewest = min(fewest, *(len(row) for row in found)) if k == DEPTHS[-1] else fewest

        def search(session: Session, query: Vectors) -> object:
            return find(session, query, DEPTHS[-1], kinds)

        one, many = (self._run(search, queries, clients) for clients in (1, _CLIENTS))
        times = sorted(one[0])
        p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
        return Answers(
            recalls[10], recalls[100], fewest, 1000 * statistics.median(times), 1000 * p95, (one[1], many[1])
        )

    def _run(
        self, find: Callable[[Session, Vectors], object], queries: Vectors, clients: int
    ) -> tuple[list[float], float]:
        """Return the seconds of each query, and queries per second of so many clients at once."""

        def client(part: Vectors) -> list[float]:
            spent = []
            for query in part:
                began = time.perf_counter()
                with self._sessions() as session:
                    find(session, query)
                spent.append(time.perf_counter() - began)
            return spent

        with ThreadPoolExecutor(clients) as threads:
            began = time.perf_counter()
            times = list(threads.map(client, np.array_split(queries, clients)))
            spent = time.perf_counter() - began
        return [one for part in times for one in part], len(queries) / spent

    def _platform(self, session: Session, query: Vectors, k: int, kinds: Kinds) -> list[uuid.UUID]:
        found = nearest(session, self._model, self._first.collection_id, query, k, kinds)
        return [near.item_id for near in found.neighbours]

    def _exact(self, session: Session, query: Vectors, k: int, kinds: Kinds) -> list[uuid.UUID]:
        limit, vector_indexes.EXACT_LIMIT = vector_indexes.EXACT_LIMIT, self._first.size
        try:
            return self._platform(session, query, k, kinds)
        finally:
            vector_indexes.EXACT_LIMIT = limit

    def _bare(self, session: Session, query: Vectors, k: int, kinds: Kinds) -> list[uuid.UUID]:
        assert self._index is not None
        return _bare_query(session, self._model, self._index, query, k, kinds)

    def _recall(self, one: Generated) -> float:
        queries, kinds, k = one.queries(_QUERIES), FILTERS["all"], DEPTHS[0]
        with self._sessions() as session:
            found = [
                [near.item_id for near in nearest(session, self._model, one.collection_id, query, k, kinds).neighbours]
                for query in queries
            ]
        return _share(found, one.nearest(queries, k, kinds))


def _of(rival: coarse_rivals.Rival) -> Find:
    return lambda _session, query, k, kinds: rival.find(query, k, kinds)


def _bare_query(
    session: Session, model: EmbeddingModel, index: VectorIndex, query: Vectors, k: int, kinds: Kinds
) -> list[uuid.UUID]:
    statement = (
        sa.select(Embedding.item_id)
        .join(Item, Item.id == Embedding.item_id)
        .where(*covered(index), Item.kind.in_(kinds))
        .order_by(distance(model, query))
        .limit(k)
    )
    return list(session.scalars(statement))


def _share(found: Sequence[Sequence[uuid.UUID]], truth: Sequence[Sequence[uuid.UUID]]) -> float:
    """Return the mean share of the exact answers that were found."""
    shares = [len({*row} & {*exact}) / len(exact) for row, exact in zip(found, truth, strict=True) if exact]
    return statistics.fmean(shares) if shares else 1.0
