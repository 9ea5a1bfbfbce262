"""The coarse stage returns the true neighbours: exactly when small, without losing rows to a filter when large."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item, new_id
from retllm.db.vectors import index_name, register_model
from retllm.identity import accounts
from retllm.search import neighbours
from retllm.search.neighbours import nearest

DIMENSION = 16
COUNT = 3000


class Gallery:
    """Random unit vectors in two collections; every tenth item is a text."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        rng = np.random.default_rng(7)
        vectors = rng.normal(size=(COUNT, DIMENSION)).astype(np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.kinds = [ItemKind.TEXT if n % 10 == 0 else ItemKind.IMAGE for n in range(COUNT)]
        self.ids = [new_id() for _ in range(COUNT)]
        with transaction(sessions) as session:
            user = accounts.create_user(session, "ada", "a-long-password")
            self.here, self.there = (Collection(id=new_id(), owner_id=user.id, name=name) for name in ("here", "there"))
            session.add_all([self.here, self.there])
            self.model = register_model(session, name="m", revision="1", dimension=DIMENSION, preprocessing_hash="p")
        self.collections = [self.here.id if n % 3 else self.there.id for n in range(COUNT)]
        with transaction(sessions) as session:
            session.execute(sa.insert(Item), [self._item(n) for n in range(COUNT)])
            session.execute(sa.insert(Embedding), [self._embedding(n) for n in range(COUNT)])
        with transaction(sessions) as session:
            session.execute(sa.text("ANALYZE items, embeddings"))

    def _item(self, n: int) -> dict[str, object]:
        return {
            "id": self.ids[n],
            "collection_id": self.collections[n],
            "kind": self.kinds[n],
            "state": ItemState.READY,
            "name": str(n),
            "content_sha256": hashlib.sha256(str(n).encode()).hexdigest(),
            "size_bytes": 1,
        }

    def _embedding(self, n: int) -> dict[str, object]:
        return {
            "item_id": self.ids[n],
            "model_id": self.model.id,
            "collection_id": self.collections[n],
            "item_version": 1,
            "image_weight": 0.7,
            "vector": self.vectors[n],
        }

    def truth(self, query: np.ndarray, k: int, collection: UUID, kinds: set[ItemKind]) -> list[tuple[UUID, float]]:
        """The k nearest, by numpy."""
        chosen = [n for n in range(COUNT) if self.collections[n] == collection and self.kinds[n] in kinds]
        chosen.sort(key=lambda n: -float(self.vectors[n] @ query))
        return [(self.ids[n], float(self.vectors[n] @ query)) for n in chosen[:k]]


@pytest.fixture(scope="module")
def gallery(module_database: str) -> Iterator[Gallery]:
    sessions = make_sessions(module_database)
    yield Gallery(sessions)
    sessions.kw["bind"].dispose()


@pytest.fixture
def query() -> np.ndarray:
    vector = np.random.default_rng(11).normal(size=DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


ALL = set(ItemKind)


@pytest.mark.parametrize("kinds", [ALL, {ItemKind.TEXT}, {ItemKind.IMAGE}])
@pytest.mark.parametrize("k", [1, 10, 150])
def test_a_small_collection_is_answered_exactly(gallery: Gallery, query: np.ndarray, k: int, kinds) -> None:
    with gallery.sessions() as session:
        found, searched = nearest(session, gallery.model, gallery.here.id, query, k, sorted(kinds))
    expected = gallery.truth(query, k, gallery.here.id, kinds)
    assert [near.item_id for near in found] == [item for item, _ in expected]
    assert [near.similarity for near in found] == pytest.approx([similarity for _, similarity in expected], abs=1e-5)
    assert [near.rank for near in found] == list(range(1, len(expected) + 1))
    assert searched == len(gallery.truth(query, COUNT, gallery.here.id, kinds))


@pytest.mark.parametrize("k", [10, 60, 150])
def test_a_large_collection_goes_through_the_index_and_still_returns_k_rows(
    gallery: Gallery, query: np.ndarray, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the items pass the filter; a plain HNSW scan with the default ef_search returns a handful."""
    monkeypatch.setattr(neighbours, "EXACT_LIMIT", 10)
    with gallery.sessions() as session:
        session.execute(sa.text("SET LOCAL enable_seqscan = off"))
        session.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
        session.execute(sa.text("SET LOCAL enable_sort = off"))
        found, _ = nearest(session, gallery.model, gallery.here.id, query, k, [ItemKind.TEXT])
    expected = gallery.truth(query, k, gallery.here.id, {ItemKind.TEXT})
    assert len(found) == len(expected) == k
    recall = len({near.item_id for near in found} & {item for item, _ in expected}) / k
    assert recall >= 0.95
    similarities = [near.similarity for near in found]
    assert similarities == sorted(similarities, reverse=True)


def test_the_large_path_uses_the_models_own_index(
    gallery: Gallery, query: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "EXACT_LIMIT", 10)
    statements: list[str] = []
    with gallery.sessions() as session:
        engine = session.get_bind()

        @sa.event.listens_for(engine, "before_cursor_execute")
        def explain(conn, cursor, statement, parameters, context, executemany) -> None:
            if "<=>" in statement and not statement.startswith("EXPLAIN"):
                cursor.execute("EXPLAIN " + statement, parameters)
                statements.append("\n".join(row[0] for row in cursor.fetchall()))

        session.execute(sa.text("SET LOCAL enable_seqscan = off"))
        session.execute(sa.text("SET LOCAL enable_sort = off"))
        nearest(session, gallery.model, gallery.here.id, query, 10, sorted(ALL))
        sa.event.remove(engine, "before_cursor_execute", explain)
    assert index_name(gallery.model.id) in statements[0]


def test_deleted_items_and_other_models_are_not_found(gallery: Gallery, query: np.ndarray) -> None:
    with gallery.sessions() as session, session.begin() as scope:
        (best, _), (second, _) = gallery.truth(query, 2, gallery.here.id, ALL)
        session.execute(sa.update(Item).where(Item.id == best).values(state=ItemState.DELETED))
        found, _ = nearest(session, gallery.model, gallery.here.id, query, 1, sorted(ALL))
        assert found[0].item_id == second
        other = EmbeddingModel(id=new_id(), name="o", revision="1", dimension=DIMENSION, preprocessing_hash="p")
        session.add(other)
        session.flush()
        assert nearest(session, other, gallery.here.id, query, 5, sorted(ALL)) == ([], 0)
        scope.rollback()
