"""A new embedder is indexed beside the one in use, replaces it, and then the old embeddings are removed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.stand_ins import FakeEmbedder, index, run, search

from retllm.db.enums import JobState, Stage
from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item, new_id
from retllm.embedding import EmbedderInfo
from retllm.errors import Conflict, InvalidInput, NotFound
from retllm.indexing import coverage
from retllm.indexing.coverage import Coverage
from retllm.indexing.indexed import embedder_of, keep_error
from retllm.indexing.submit import submit_index
from retllm.queue.worker import WorkerContext

OLD, NEW = "local-dir:embedder", "local-dir:newer"


class Newer(FakeEmbedder):
    """The same vectors under another name."""

    info = EmbedderInfo(name="local-dir:/models/newer", revision="n1", dimension=32, preprocessing_hash="p2")


def _load(name: str) -> FakeEmbedder:
    return Newer() if name.endswith("newer") else FakeEmbedder()


@pytest.fixture
def both(context: WorkerContext, world) -> WorkerContext:
    """A context with two configured embedders, and three texts embedded by the first of them."""
    world.add_texts("red circle", "red square", "blue moon")
    index(context, world)
    world.settings = world.settings.model_copy(update={"extra_embedders": ("local-dir:/models/newer",)})
    return WorkerContext(context.sessions, context.storage, world.settings, context.notifier, context.worker)


def _coverage(world) -> list[Coverage]:
    with world.sessions() as session:
        return coverage.coverage(session, session.get_one(Collection, world.collection_id), world.settings)


def _numbers(world) -> dict[str, tuple[int, int, int]]:
    return {one.name: (one.embedded, one.failed, one.missing) for one in _coverage(world)}


def _use(world, name: str | None) -> None:
    with transaction(world.sessions) as session:
        coverage.use(session, session.get_one(Collection, world.collection_id), name, world.settings)


def _index_with_new(context: WorkerContext, world) -> UUID:
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings, embedder=NEW).job
    run(context, world, job.id, embedders=_load)
    return job.id


def _searched(world, job_id: UUID) -> Search:
    with world.sessions() as session:
        return session.get_one(Search, job_id)


def test_a_new_embedder_is_indexed_then_used_and_the_old_embeddings_are_removed(both: WorkerContext, world) -> None:
    assert _numbers(world) == {OLD: (3, 0, 0), NEW: (0, 0, 3)}
    before = search(world, text="red circle", k=2)
    with pytest.raises(Conflict, match="3 of 3 items have no vector"):
        _use(world, NEW)

    job = world.job(_index_with_new(both, world))
    assert (job.state, job.params["embedder"]) == (JobState.SUCCEEDED, NEW)
    assert "extra_embedders" not in job.params
    assert _numbers(world) == {OLD: (3, 0, 0), NEW: (3, 0, 0)}
    assert [one.name for one in _coverage(world) if one.in_use] == [OLD], "the old embedder stays in use"

    _use(world, NEW)
    assert [(one.name, one.in_use) for one in _coverage(world)] == [(NEW, True), (OLD, False)]
    assert _searched(world, before).embedder == OLD, "a search keeps the embedder that it was accepted with"
    after = search(world, text="red circle", k=2)
    found = _searched(world, after)
    assert found.embedder == NEW
    assert found.coarse is not None
    assert found.coarse["embedders"] == [NEW, OLD]

    new, old = _coverage(world)
    with pytest.raises(Conflict, match="use"):
        coverage.remove_vectors(world.sessions, world.collection_id, new.model_id, world.settings)
    assert coverage.remove_vectors(world.sessions, world.collection_id, old.model_id, world.settings) == 3
    assert _numbers(world) == {NEW: (3, 0, 0), OLD: (0, 0, 3)}
    run(both, world, after, embedders=_load)
    with world.sessions() as session:
        assert session.get_one(EmbeddingModel, _searched(world, after).model_id).name == NEW


def test_removal_in_batches_keeps_embeddings_of_other_collections_and_models(
    both: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "_BATCH", 2)
    _index_with_new(both, world)
    _use(world, NEW)
    with transaction(world.sessions) as session:
        other = Collection(id=new_id(), owner_id=world.user.id, name="other")
        session.add(other)
        session.flush()
    here, world.collection_id = world.collection_id, other.id
    world.add_texts("one", "two", "three")
    index(both, world, _load)
    world.collection_id = here
    (old,) = [one for one in _coverage(world) if one.name == OLD]
    assert coverage.remove_vectors(world.sessions, here, old.model_id, world.settings) == 3
    with world.sessions() as session:
        left = session.execute(
            sa.select(Embedding.collection_id, sa.func.count()).group_by(Embedding.collection_id)
        ).all()
    assert dict(left) == {here: 3, other.id: 6}


def test_a_model_that_is_no_longer_configured_is_listed_while_it_has_embeddings(both: WorkerContext, world) -> None:
    _index_with_new(both, world)
    world.settings = world.settings.model_copy(update={"extra_embedders": ()})
    assert [(one.name, one.in_force, one.vectors) for one in _coverage(world)] == [(OLD, True, 3), (NEW, False, 3)]
    with pytest.raises(InvalidInput, match="not a configured embedder"):
        _use(world, NEW)
    (new,) = [one for one in _coverage(world) if one.name == NEW]
    coverage.remove_vectors(world.sessions, world.collection_id, new.model_id, world.settings)
    assert [one.name for one in _coverage(world)] == [OLD]


def test_a_collection_whose_embedder_is_no_longer_configured_uses_the_default(both: WorkerContext, world) -> None:
    _index_with_new(both, world)
    _use(world, NEW)
    world.settings = world.settings.model_copy(update={"extra_embedders": ()})
    assert _searched(world, search(world, text="red", k=2)).embedder == OLD
    with world.sessions() as session:
        assert embedder_of(session.get_one(Collection, world.collection_id), world.settings) == OLD


def test_an_item_that_cannot_be_embedded_does_not_block_a_new_embedder(both: WorkerContext, world) -> None:
    _index_with_new(both, world)
    (late,) = world.add_texts("late")
    with pytest.raises(Conflict, match="1 of 4 items"):
        _use(world, NEW)
    with transaction(world.sessions) as session:
        keep_error(session, late, "unreadable")
    assert _numbers(world) == {OLD: (3, 1, 0), NEW: (3, 1, 0)}
    _use(world, NEW)


def test_a_stale_embedding_counts_as_missing(both: WorkerContext, world) -> None:
    with transaction(world.sessions) as session:
        session.execute(sa.update(Item).where(Item.text == "blue moon").values(version=2))
    (old, _) = _coverage(world)
    assert (old.embedded, old.missing, old.vectors) == (2, 1, 3)


def test_the_embedder_of_the_collection_is_indexed_first_and_none_selects_the_default(
    both: WorkerContext, world
) -> None:
    _index_with_new(both, world)
    _use(world, NEW)
    world.add_texts("one more")
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
    params: dict[str, Any] = job.params
    assert (params["embedder"], params["extra_embedders"]) == (NEW, [OLD])
    assert [unit.payload.get("embedder") for unit in world.units(job.id, Stage.EMBED)] == [None, OLD]
    run(both, world, job.id, embedders=_load)
    _use(world, None)
    assert [one.name for one in _coverage(world) if one.in_use] == [OLD]


def test_a_change_that_was_committed_before_the_lock_is_not_ignored(both: WorkerContext, world) -> None:
    _index_with_new(both, world)
    with transaction(world.sessions) as session:
        collection = session.get_one(Collection, world.collection_id)
        _use(world, NEW)
        coverage.use(session, collection, None, world.settings)
    assert [one.name for one in _coverage(world) if one.in_use] == [OLD]


def test_an_embedder_that_is_not_configured_and_an_unknown_model_are_refused(both: WorkerContext, world) -> None:
    with transaction(world.sessions) as session, pytest.raises(InvalidInput, match="not a configured embedder"):
        submit_index(session, world.user, world.collection_id, world.settings, embedder="ViT-B-32/openai")
    with pytest.raises(NotFound):
        coverage.remove_vectors(world.sessions, world.collection_id, new_id(), world.settings)
