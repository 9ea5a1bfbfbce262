"""Speed and recall of the coarse stage on generated vectors, beside bare queries of the same table and index.

The embedded server is started in a temporary folder. Collections have a half, a quarter and so on of all vectors. For
the largest one, every way is measured with all items and with filters (:data:`retllm.bench.coarse_data.FILTERS`):

- ``platform``: :func:`retllm.search.neighbours.nearest`, as a search calls it;
- ``bare``: the query that most people write, with the server's usual settings and the same index;
- ``tuned``: that query with as many candidates as the platform's, for all items only;
- ``exact``: every vector compared, with no index, for all items only;
- ``faiss`` and ``lancedb``: other indexes of the same vectors (:mod:`retllm.bench.coarse_rivals`), if installed.

The columns of filters have indexes, as those that people filter by often would.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from retllm.bench import coarse_rivals, coarse_ways
from retllm.bench.coarse_data import (
    FILTERS,
    Filter,
    Generated,
    Vectors,
    load,
    make_collections,
    table_bytes,
)
from retllm.bench.coarse_stage import seconds_of_searches
from retllm.bench.coarse_ways import CLIENTS, DEPTH, Answers, Platform, Way, measure, median_ms, run, share_found
from retllm.db.migrate import upgrade
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Embedding, new_id
from retllm.db.vectors import index_name, usable_index
from retllm.indexing import vector_indexes
from retllm.settings import Settings
from retllm.stack import LocalStack

Notify = Callable[[str], None]

ALL = FILTERS[0]
_QUERIES = 64
# where each takes long, or there are many collections
_FEW_QUERIES = 16
_LEFT_OUT = 2000
_ROWS_AT_ONCE = 64
_COMPARED_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Other:
    """A collection beside the measured one; ``indexed`` as there."""

    size: int
    indexed: bool
    recall_100: float
    p50_ms: float


@dataclass(frozen=True, slots=True)
class CoarseSpeed:
    """The result of one run.

    Attributes:
        size: of the measured collection.
        others: the other collections.
        load_per_second: vectors stored by COPY.
        build_seconds: of the index of the measured collection, by whose it is; without the platform's if it has none.
        insert_per_second: vectors inserted later, in statements of 64, beside the index and into it.
        bytes_per_vector: of the table, and of the index.
        stage_p50_ms: the coarse stage of a search job, from the claim of its unit to the commit of its candidates.
        answers: by way and filter.
    """

    size: int
    dimension: int
    others: list[Other]
    load_per_second: float
    build_seconds: dict[str, float]
    insert_per_second: tuple[float, float]
    bytes_per_vector: tuple[float, float]
    stage_p50_ms: float
    answers: dict[str, dict[str, Answers]]

    @property
    def indexed(self) -> bool:
        """Whether the measured collection has an index; without one, each vector is compared with the query."""
        return "platform" in self.build_seconds

    def ratios(self) -> dict[str, float]:
        """Return what the goals are about, as ratios of this run.

        - ``stage``: the coarse stage of a job to the tuned query, medians.
        - ``recall``: the lowest recall of the 100 nearest, over all filters.
        - ``filtered``: the largest p95 of a filter to that of all items.
        - ``bulk``: storing by COPY and building the index, to inserting into the index, in vectors a second; none
          without an index.
        - ``growth``: the median in the measured collection to that in the one whose size is nearest to 10,000.
        """
        own = self.answers["platform"]
        small = min(self.others, key=lambda other: abs(other.size - _COMPARED_SIZE), default=None)
        ratios = {
            "stage": self.stage_p50_ms / self.answers["tuned"]["all"].p50_ms,
            "recall": min(found.recall_100 for found in own.values()),
            "filtered": max(found.p95_ms for found in own.values()) / own["all"].p95_ms,
        }
        if self.indexed:
            seconds = 1 / self.load_per_second + self.build_seconds["platform"] / self.size
            ratios["bulk"] = 1 / seconds / self.insert_per_second[1]
        if small is not None:
            ratios["growth"] = own["all"].p50_ms / small.p50_ms
        return ratios

    def as_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self) | {"indexed": self.indexed, "ratios": self.ratios()}


def measure_coarse(
    home: Path, items: int, dimension: int, collections: int, notify: Notify = lambda _: None
) -> CoarseSpeed:
    """Measure a server of its own in ``home``, an empty folder.

    Raises:
        StackError: it can't be started.
    """
    with LocalStack(Settings(home=home, database_url=None, redis_url=None), {"postgres"}, notify=notify) as stack:
        upgrade(stack.database_url)
        sessions, tuned = (make_sessions(stack.database_url, pool_size=CLIENTS) for _ in range(2))
        coarse_ways.tune(tuned)
        try:
            return _Side(home, sessions, tuned, (items, dimension, collections), notify).measure()
        finally:
            for one in (sessions, tuned):
                one.kw["bind"].dispose()


class _Side:
    """The measurements of one server."""

    def __init__(
        self, home: Path, sessions: Sessions, tuned: Sessions, shape: tuple[int, int, int], notify: Notify
    ) -> None:
        self._home = home
        self._sessions = sessions
        self._tuned = tuned
        self._notify = notify
        items, dimension, count = shape
        sizes = [max(200, items >> min(n + 1, count - 1)) for n in range(count)]
        self._collections = [Generated(size, dimension, seed) for seed, size in enumerate(sizes)]
        self._first = self._collections[0]
        # stored when the index is there: some that it has to take in, and the last ones, which came after it was built
        left_out = min(_LEFT_OUT, self._first.size // 10)
        earlier = self._first.size - left_out
        rng = np.random.default_rng(0)
        self._into = frozenset(map(int, rng.choice(earlier, left_out, replace=False)))
        self._later = frozenset(range(earlier, self._first.size))
        self._model = make_collections(sessions, self._collections)

    def measure(self) -> CoarseSpeed:
        load_per_second = self._load()
        build_seconds = self._build()
        inserted = self._insert()
        sizes = self._bytes()
        self._notify("comparing all vectors")
        queries = self._first.queries(_QUERIES)
        truth = dict(zip(FILTERS, self._first.nearest(queries, DEPTH, FILTERS), strict=True))

        def answers(name: str, way: Way, filters: Sequence[Filter], count: int = _QUERIES) -> dict[str, Answers]:
            found = {}
            for among in filters:
                self._notify(f"searching: {name}, {among.name}")
                found[among.name] = measure(way, self._first, queries[:count], truth[among][:count], among)
            return found

        platform = Platform(self._model, self._first)
        bare = coarse_ways.bare_sql(self._sessions, self._model, self._first)
        found = {
            "platform": answers("platform", Way(self._sessions, platform.find), FILTERS),
            "tuned": answers("tuned", Way(self._tuned, bare), [ALL]),
        }
        self._notify("searching: the coarse stage of jobs")
        collection_id = self._first.collection_id
        stage = seconds_of_searches(self._home, self._sessions, self._model, collection_id, queries, DEPTH)
        found["bare"] = answers("bare", Way(self._sessions, bare), FILTERS)
        with platform.without_index():
            found["exact"] = answers("exact", Way(self._sessions, platform.find), [ALL], _FEW_QUERIES)
        others = [self._other(one) for one in self._collections[1:]]
        for name in coarse_rivals.installed():
            self._notify(f"building the index of {name}")
            rival = coarse_rivals.build(name, self._first, self._home / name)
            build_seconds[name] = rival.build_seconds
            found[name] = answers(name, Way(self._sessions, coarse_ways.of_rival(rival)), FILTERS)
        return CoarseSpeed(
            size=self._first.size,
            dimension=self._first.dimension,
            others=others,
            load_per_second=load_per_second,
            build_seconds=build_seconds,
            insert_per_second=inserted,
            bytes_per_vector=sizes,
            stage_p50_ms=median_ms(stage),
            answers=found,
        )

    def _load(self) -> float:
        self._notify("storing vectors")
        began = time.perf_counter()
        for number, one in enumerate(self._collections):
            load(self._sessions, self._model, one, self._into | self._later if number == 0 else frozenset())
        spent = time.perf_counter() - began
        with self._sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for column in dict.fromkeys(among.column for among in FILTERS if isinstance(among.value, int)):
                connection.execute(sa.text(f"CREATE INDEX ON items (collection_id, {column})"))
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
        return found

    def _insert(self) -> tuple[float, float]:
        """Insert the vectors that were left out; return the rates beside the index and into it."""
        self._notify("inserting vectors")
        left_out = self._into | self._later
        vectors = {
            piece.first + at: vector
            for piece in self._first.pieces()
            for at, vector in enumerate(piece.vectors)
            if piece.first + at in left_out
        }
        into, later = (
            self._rate([(self._first.keys[number], vectors[number]) for number in sorted(numbers)])
            for numbers in (self._into, self._later)
        )
        return later, into

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
            index = usable_index(session, self._model.id, self._first.collection_id)
            vectors = session.scalar(sa.select(sa.func.count()).select_from(Embedding)) or 1
            size = sa.text("SELECT pg_relation_size(CAST(:name AS regclass))")
            in_index = session.scalar(size, {"name": index_name(index.id)}) if index else 0
            return table_bytes(session) / vectors, (in_index or 0) / self._first.size

    def _other(self, one: Generated) -> Other:
        queries = one.queries(_FEW_QUERIES)
        (truth,) = one.nearest(queries, DEPTH, [ALL])
        found, times, _ = run(Way(self._sessions, Platform(self._model, one).find), queries, ALL, 1)
        with self._sessions() as session:
            indexed = usable_index(session, self._model.id, one.collection_id) is not None
        return Other(one.size, indexed, share_found(found, truth, one), median_ms(times))
