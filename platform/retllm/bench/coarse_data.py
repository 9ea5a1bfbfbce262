"""Generated vectors for the benchmark of the coarse stage, the exact answers, and how they get into the database.

Vectors lie in clusters of some hundred. Texts lie apart from pictures, as they do with real encoders of both. They
are generated again in pieces wherever they are needed, so that a million of them need no memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import psycopg
import sqlalchemy as sa
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, EmbeddingModel, new_id
from retllm.db.vectors import register_model
from retllm.identity import accounts

Vectors = NDArray[np.float32]
Kinds = tuple[ItemKind, ...]

# vectors made at a time
_PIECE = 5000
_CLUSTER = 250
_NOISE = 0.9
_GAP = 0.8
# of 200 items one has a picture and a text, and 39 are texts
_EVERY_BOTH, _EVERY_TEXT = 200, 5


def kind_of(number: int) -> ItemKind:
    """Return the kind of an item."""
    if number % _EVERY_BOTH == 1:
        return ItemKind.BOTH
    return ItemKind.TEXT if number % _EVERY_TEXT == 0 else ItemKind.IMAGE


@dataclass(frozen=True)
class Piece:
    """Some items of a collection: their numbers, kinds and vectors of shape (n, dimension)."""

    first: int
    kinds: Sequence[ItemKind]
    vectors: Vectors


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
            kinds = [kind_of(number) for number in numbers]
            yield Piece(first, kinds, self._some(np.random.default_rng([self.seed, 1, first]), kinds))

    def queries(self, count: int) -> Vectors:
        """Return queries of shape (count, dimension), by a picture and by a text in turns."""
        kinds = [ItemKind.TEXT if number % 2 else ItemKind.IMAGE for number in range(count)]
        return self._some(np.random.default_rng([self.seed, 2]), kinds)

    def _some(self, rng: np.random.Generator, kinds: Sequence[ItemKind]) -> Vectors:
        near = self._centres[rng.integers(0, len(self._centres), len(kinds))]
        sides = np.array([1.0 if kind is ItemKind.TEXT else 0.0 for kind in kinds])
        noise = _NOISE * rng.normal(size=(len(kinds), self.dimension)) / np.sqrt(self.dimension)
        return _unit(near + noise + sides[:, None] * self._gap).astype(np.float32)

    def nearest(self, queries: Vectors, k: int, kinds: Kinds) -> list[list[uuid.UUID]]:
        """Return the exact ``k`` nearest items of these kinds to each query."""
        best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        numbers = np.zeros((len(queries), k), dtype=np.int64)
        for piece in self.pieces():
            chosen = np.array([n for n, kind in enumerate(piece.kinds) if kind in kinds], dtype=np.int64)
            scores = np.concatenate([best, queries @ piece.vectors[chosen].T], axis=1)
            among = np.concatenate(
                [numbers, np.broadcast_to(piece.first + chosen, (len(queries), len(chosen)))], axis=1
            )
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            best, numbers = (np.take_along_axis(values, order, axis=1) for values in (scores, among))
        return [
            [self.keys[number] for number, score in zip(row, scores, strict=True) if np.isfinite(score)]
            for row, scores in zip(numbers, best, strict=True)
        ]


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
        return register_model(session, name="bench", revision="1", dimension=dimension, preprocessing_hash="-")


def load(sessions: Sessions, model: EmbeddingModel, one: Generated, left_out: frozenset[int]) -> None:
    """Store all items of a collection, and all vectors except those of some items, by COPY."""
    token = new_id()
    for piece in one.pieces():
        with transaction(sessions) as session:
            driver = _driver(session)
            numbers = range(piece.first, piece.first + len(piece.kinds))
            columns = "id, collection_id, kind, state, name, content_sha256, version, size_bytes"
            with driver.cursor().copy(f"COPY items ({columns}) FROM STDIN") as copy:
                for number, kind in zip(numbers, piece.kinds, strict=True):
                    key = one.keys[number]
                    row = (key, one.collection_id, kind.value, ItemState.READY.value, str(number), key.hex, 1, 1)
                    copy.write_row(row)
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
