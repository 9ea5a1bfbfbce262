"""Submitting a search reads no rows of other collections, however many they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.factories import make_collection, make_model, store
from tests.unit.job_world import World

from retllm.db.session import transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item, new_id
from retllm.indexing.indexed import is_indexed
from retllm.search.request import SearchRequest
from retllm.search.submit import submit_search

MANY = 20_000
_READ = sa.text(
    "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables "
    "WHERE relname IN ('items', 'embeddings')"
)


@pytest.fixture
def second(world: World) -> World:
    """A collection whose rows are a good part of all, and lie behind those of another one."""
    with transaction(world.sessions) as session:
        first = make_collection(world.user.id, "first")
        model = make_model("local-dir:embedder")
        store(session, first, model)
        for collection_id, number in ((first.id, MANY), (world.collection_id, MANY // 2)):
            keys = [new_id() for _ in range(number)]
            common = {"collection_id": collection_id, "kind": "text", "name": "x", "size_bytes": 1}
            session.execute(sa.insert(Item), [{"id": key, "content_sha256": str(key), **common} for key in keys])
            made = {"model_id": model.id, "item_version": 1, "image_weight": 0.7, "vector": [1.0, 0.0]}
            made |= {"collection_id": collection_id, "token": new_id()}
            session.execute(sa.insert(Embedding), [{"item_id": key, **made} for key in keys])
    with world.sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE items, embeddings"))
    return world


def search(session: Session, world: World) -> object:
    return submit_search(session, world.user, world.collection_id, SearchRequest(text="one"), world.settings)


def look(session: Session, world: World) -> object:
    model = session.scalars(sa.select(EmbeddingModel)).one()
    return is_indexed(session, world.collection_id, model)


@pytest.mark.parametrize("do", [search, look])
def test_no_rows_of_others_are_read(second: World, do: Callable[[Session, World], object]) -> None:
    with transaction(second.sessions) as session:
        before = session.scalar(_READ) or 0
        assert do(session, second)
        session.flush()
        assert (session.scalar(_READ) or 0) - before <= 50
