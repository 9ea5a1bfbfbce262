"""What happens in large collections only, in small ones: a vector index is built, and they are removed in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.chaos import crash

from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import Sessions
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.db.vectors import INDEX_PREFIX, VectorIndex, index_name
from retllm.indexing import vector_indexes
from retllm.media.storage import Storage
from retllm.search.neighbours import nearest
from retllm.uploads import removal

LIMIT = 12
"""A collection of more items has a vector index."""
_K = 10
_ON_SERVER = sa.text(
    "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
    "WHERE indrelid = 'embeddings'::regclass AND starts_with(relname, :prefix)"
)


def install(lease: float = 2.0) -> None:
    """Let this process treat small collections like large ones, with moments for crashes.

    They are ``build`` (the server builds an index), ``built`` (it has built it, and nobody knows), and ``remove`` (rows
    and files of a deleted collection are removed, and the transaction is open).
    """
    wait, counts, delete_files = vector_indexes.wait, vector_indexes._counts, removal.delete_files

    def look(running: Iterable[futures.Future[Any]], seconds: float | None = None) -> Any:
        crash.reach("build")
        return wait(running, seconds)

    def count(*arguments: Any) -> dict[str, int]:
        crash.reach("built")
        return counts(*arguments)

    def delete(storage: Storage, keys: Iterable[str]) -> None:
        delete_files(storage, keys)
        crash.reach("remove")

    vector_indexes.EXACT_LIMIT = LIMIT
    vector_indexes._LOOK_SECONDS = 0.05
    vector_indexes._WAIT_SECONDS = 0.5
    vector_indexes._CHECK_MS = 500
    vector_indexes._IDLE_MS = int(lease * 1000)
    vector_indexes.wait = look  # type: ignore[assignment]
    vector_indexes._counts = count
    removal.BATCH = 10
    removal.EVERY_SECONDS = 0.3
    removal.delete_files = delete  # type: ignore[assignment]


@contextmanager
def writing(sessions: Sessions) -> Iterator[None]:
    """An open transaction that writes vectors, for which the server waits while it builds an index."""
    with sessions() as session:
        session.execute(sa.text("LOCK TABLE embeddings IN ROW EXCLUSIVE MODE"))
        yield
        # whatever became of the server meanwhile
        session.invalidate()


def building(sessions: Sessions) -> bool:
    """Return whether the server is building an index."""
    with sessions() as session:
        return bool(session.scalar(sa.text("SELECT count(*) FROM pg_stat_progress_create_index")))


def problems(sessions: Sessions) -> list[str]:
    """Return what is wrong with the vector indexes of an idle system after a sweep, and with searches in them."""
    with mock.patch.object(vector_indexes, "EXACT_LIMIT", LIMIT):
        vector_indexes.drop_unused(sessions)
        with sessions() as session:
            found = dict(iter(session.execute(_ON_SERVER, {"prefix": INDEX_PREFIX})))
            listed = {index_name(index.id): index for index in session.scalars(sa.select(VectorIndex))}
            left = [f"the index {name} is left" for name in found.keys() - listed.keys()]
            left += [f"the index {name} is not valid" for name in listed if not found.get(name)]
            return left + [one for index in listed.values() for one in _searched(session, index)]


def _searched(session: Session, index: VectorIndex) -> Sequence[str]:
    """Compare a search by an index with all vectors of its collection."""
    model = session.get_one(EmbeddingModel, index.model_id)
    query = sa.select(Embedding.item_id, Embedding.vector).join(Item, Item.id == Embedding.item_id)
    query = query.where(Embedding.model_id == model.id, Embedding.collection_id == index.collection_id)
    rows = session.execute(query.where(Item.state == ItemState.READY)).all()
    aim = np.random.default_rng(index.id.int % 2**32).normal(size=model.dimension).astype(np.float32)
    aim /= np.linalg.norm(aim)
    distances = sorted((1 - float(np.asarray(vector) @ aim), key) for key, vector in rows)
    found = nearest(session, model, index.collection_id, aim, _K, list(ItemKind))
    if [one.item_id for one in found.neighbours] != [key for _, key in distances[:_K]]:
        return [f"a search in the collection {index.collection_id} finds others than the nearest"]
    return []
