"""Generated vectors for the benchmark of the coarse stage, the exact answers, and how they get into the database.

Vectors lie in clusters of some hundred. Texts lie apart from pictures, as they do with real encoders of both. They
are generated again in pieces wherever they are needed, so that a million of them need no memory.

Filters are by columns with whole numbers below ``SHARES``, each as frequent as any other: the height of an item
increases with the number of its cluster, so that what a filter by it leaves lies together, and apart from most queries;
its width has nothing to do with its vector.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
import sqlalchemy as sa
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, EmbeddingModel, Item, new_id
from retllm.db.vectors import register_model
from retllm.identity import accounts

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]

# vectors made at a time
_PIECE = 5000
_CLUSTER = 250
_NOISE = 0.9
_GAP = 0.8
# of 200 items one has a picture and a text, and 39 are texts
_EVERY_BOTH, _EVERY_TEXT = 200, 5
MODEL = "bench/generated"
SHARES = 10_000
"""A filter for ``column < n`` leaves a share of n in so many."""


def kind_of(number: int) -> ItemKind:
    """Return the kind of an item."""
    if number % _EVERY_BOTH == 1:
        return ItemKind.BOTH
    return ItemKind.TEXT if number % _EVERY_TEXT == 0 else ItemKind.IMAGE


@dataclass(frozen=True)
class Piece:
    """Some items of a collection: their numbers from ``first``, columns and vectors of shape (n, dimension)."""

    first: int
    columns: Mapping[str, NDArray[Any]]
    vectors: Vectors


@dataclass(frozen=True)
class Filter:
    """Which items are searched: those whose column has that value, or a number below it; all if no column is named."""

    name: str
    column: str = ""
    value: str | int = ""

    @property
    def sql(self) -> str:
        """The filter as a condition of SQL; ``true`` for all items."""
        if not self.column:
            return "true"
        return f"{self.column} < {self.value}" if isinstance(self.value, int) else f"{self.column} = '{self.value}'"

    def of_items(self) -> tuple[sa.ColumnElement[bool], ...]:
        """Return the filter as conditions on the table of items."""
        if not self.column:
            return ()
        column = Item.__table__.c[self.column]
        return (column < self.value if isinstance(self.value, int) else column == self.value,)

    def matches(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Return which items are searched, by their columns."""
        if not self.column:
            return np.ones(len(columns["kind"]), dtype=bool)
        column = columns[self.column]
        found: NDArray[np.bool_] = column < self.value if isinstance(self.value, int) else column == self.value
        return found


FILTERS = (
    Filter("all"),
    Filter("texts", "kind", ItemKind.TEXT.value),
    *(
        Filter(f"{100 * share / SHARES:g} % {where}", column, share)
        for column, where in (("width", "anywhere"), ("height", "together"))
        for share in (5000, 500, 50, 5)
    ),
)
"""What is measured: all items, the texts, and shares of the items that lie anywhere or together."""


@dataclass
class Generated:
    """A collection of generated items; everything follows from ``seed``."""

    size: int
    dimension: int
    seed: int
    collection_id: uuid.UUID = field(default_factory=new_id)
    keys: list[uuid.UUID] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 0])
        count = max(4, self.size // _CLUSTER)
        self._centres = _unit(rng.normal(size=(count, self.dimension)) + 0.5 * rng.normal(size=self.dimension))
        self._gap = _GAP * _unit(rng.normal(size=(1, self.dimension)))
        self.keys = [new_id() for _ in range(self.size)]

    def pieces(self) -> Iterator[Piece]:
        """Return all items, in the order of their numbers."""
        for first in range(0, self.size, _PIECE):
            numbers = range(first, min(self.size, first + _PIECE))
            rng = np.random.default_rng([self.seed, 1, first])
            kinds = np.array([kind_of(number).value for number in numbers])
            clusters = rng.integers(0, len(self._centres), len(kinds))
            shares = np.floor(SHARES * (clusters + rng.random(len(kinds))) / len(self._centres))
            columns = {"kind": kinds, "width": rng.integers(0, SHARES, len(kinds)), "height": shares.astype(np.int64)}
            yield Piece(first, columns, self._vectors(rng, clusters, kinds))

    def queries(self, count: int) -> Vectors:
        """Return queries of shape (count, dimension), by a picture and by a text in turns."""
        kinds = np.array([(ItemKind.TEXT if number % 2 else ItemKind.IMAGE).value for number in range(count)])
        rng = np.random.default_rng([self.seed, 2])
        return self._vectors(rng, rng.integers(0, len(self._centres), count), kinds)

    def _vectors(self, rng: np.random.Generator, clusters: NDArray[np.int64], kinds: NDArray[np.str_]) -> Vectors:
        noise = _NOISE * rng.normal(size=(len(kinds), self.dimension)) / np.sqrt(self.dimension)
        sides = (kinds == ItemKind.TEXT.value).astype(float)
        return _unit(self._centres[clusters] + noise + sides[:, None] * self._gap).astype(np.float32)

    def nearest(self, queries: Vectors, k: int, filters: Sequence[Filter]) -> list[Numbers]:
        """Return for each filter and query the numbers of the exact ``k`` nearest items; -1 where there are fewer."""
        best = [np.full((len(queries), k), -np.inf, dtype=np.float32) for _ in filters]
        numbers = [np.full((len(queries), k), -1, dtype=np.int64) for _ in filters]
        for piece in self.pieces():
            scores = queries @ piece.vectors.T
            for at, one in enumerate(filters):
                chosen = np.flatnonzero(one.matches(piece.columns))
                among = np.concatenate([best[at], scores[:, chosen]], axis=1)
                theirs = np.broadcast_to(piece.first + chosen, (len(queries), len(chosen)))
                order = np.argpartition(-among, k - 1, axis=1)[:, :k]
                best[at] = np.take_along_axis(among, order, axis=1)
                numbers[at] = np.take_along_axis(np.concatenate([numbers[at], theirs], axis=1), order, axis=1)
        orders = [np.argsort(-scores, axis=1, kind="stable") for scores in best]
        return [np.take_along_axis(found, order, axis=1) for found, order in zip(numbers, orders, strict=True)]


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def make_collections(sessions: Sessions, collections: Sequence[Generated]) -> EmbeddingModel:
    """Store the collections without items; return the model of their vectors."""
    with transaction(sessions) as session:
        owner = accounts.create_user(session, "bench", uuid.uuid4().hex)
        session.flush()
        for number, one in enumerate(collections):
            session.add(Collection(id=one.collection_id, owner_id=owner.id, name=f"collection {number}"))
        dimension = collections[0].dimension
        return register_model(session, name=MODEL, revision="1", dimension=dimension, preprocessing_hash="-")


def load(sessions: Sessions, model: EmbeddingModel, one: Generated, left_out: frozenset[int]) -> None:
    """Store all items of a collection, and all vectors except those of some items, by COPY."""
    token = new_id()
    for piece in one.pieces():
        with transaction(sessions) as session:
            driver = _driver(session)
            numbers = range(piece.first, piece.first + len(piece.vectors))
            columns = f"{', '.join(piece.columns)}, id, name, content_sha256, collection_id, state, version, size_bytes"
            same = (one.collection_id, ItemState.READY.value, 1, 1)
            with driver.cursor().copy(f"COPY items ({columns}) FROM STDIN") as copy:
                for number, *values in zip(
                    numbers, *(column.tolist() for column in piece.columns.values()), strict=True
                ):
                    key = one.keys[number]
                    copy.write_row((*values, key, str(number), key.hex, *same))
            columns = "item_id, model_id, collection_id, item_version, image_weight, token, vector"
            with driver.cursor().copy(f"COPY embeddings ({columns}) FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["uuid", "uuid", "uuid", "int4", "float8", "uuid", "vector"])
                for number, vector in zip(numbers, piece.vectors, strict=True):
                    if number not in left_out:
                        copy.write_row((one.keys[number], model.id, one.collection_id, 1, 0.5, token, vector))


def _driver(session: Session) -> psycopg.Connection[tuple[object, ...]]:
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    register_vector(driver)
    return driver


def table_bytes(session: Session) -> int:
    """Return the bytes of the table of vectors, without its indexes."""
    return int(session.scalar(sa.text("SELECT pg_table_size('embeddings')")) or 0)
