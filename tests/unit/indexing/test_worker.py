"""The units of an index job: pictures are decoded, embedded and stored, and each failure stays with its item."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
import structlog
from PIL import Image
from tests.factories import make_text, store
from tests.unit.stand_ins import FakeEmbedder, index, png, run

from retllm.db.enums import ItemKind, JobState, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item, new_id
from retllm.errors import JobCancelled, ModelUnavailable, StorageUnavailable
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.indexing import worker as indexing_worker
from retllm.indexing.indexed import keep_error
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import _store, embed_unit, register
from retllm.media.copies import ModelPictures
from retllm.media.ingest import Ingest, delete_item
from retllm.queue.worker import WorkerContext, run_unit


def test_an_item_is_embedded_by_its_picture_its_text_or_both(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    ingest.add_picture("red.png", png((250, 0, 0)))
    ingest.add_picture("blue.png", png((0, 0, 250)), text="a blue field")
    ingest.add_text("a blue field in words")
    index(context, world)
    words = FakeEmbedder()
    with world.sessions() as session:
        vectors = dict(
            session.execute(sa.select(Item.kind, Embedding.vector).join(Embedding, Embedding.item_id == Item.id)).all()
        )
    blue_picture = words.embed_images([Image.new("RGB", (8, 8), (0, 0, 250))])[0]
    blue_text = words.embed_texts(["a blue field"])[0]
    both = 0.7 * blue_picture + 0.3 * blue_text
    expected = {
        ItemKind.IMAGE: words.embed_images([Image.new("RGB", (8, 8), (250, 0, 0))])[0],
        ItemKind.TEXT: words.embed_texts(["a blue field in words"])[0],
        ItemKind.BOTH: both / np.linalg.norm(both),
    }
    for kind, vector in expected.items():
        np.testing.assert_allclose(np.asarray(vectors[kind]), vector, atol=1e-5)


def test_only_the_unreadable_picture_of_a_unit_fails_and_it_can_be_retried(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for number in range(4):
        ingest.add_picture(f"{number}.png", png((60 * number, 0, 0)))
    with world.sessions() as session:
        broken = session.scalars(sa.select(Item).where(Item.name == "2.png")).one()
    kept = context.storage.open(broken.picture_key).read()
    context.storage.put(broken.picture_key, io.BytesIO(b"not a picture any more"))
    job_id = index(context, world)
    job = world.job(job_id)
    assert job.state is JobState.PARTIAL
    with world.sessions() as session:
        view = job_view(session, job)
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding)) == 3
    assert (view.stages[0].items_total, view.stages[0].items_done, view.stages[0].items_failed) == (4, 3, 1)
    assert view.progress == 0.75
    assert len(view.errors) == 1
    error = _errors(world)[broken.id]
    assert view.errors[0].error == job.error == f"2.png: {error}", "job, page, API and command line name the file"
    states = [(unit.state, unit.attempt, len(unit.payload["items"])) for unit in world.units(job_id)]
    assert states == [(UnitState.DONE, 1, 2), (UnitState.DONE, 1, 1), (UnitState.DEAD, 1, 1)], (
        "no embedding was repeated"
    )

    context.storage.put(broken.picture_key, io.BytesIO(kept))
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, job_id)
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding)) == 4
    assert _errors(world) == {}, "the item has been embedded now"


@pytest.mark.parametrize("error", [StorageUnavailable(), OSError("connection reset")], ids=repr)
def test_a_temporary_error_of_a_picture_fails_the_attempt_and_the_whole_unit_is_retried(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for number in range(2):
        ingest.add_picture(f"{number}.png", png((60 * number, 0, 0)))
    errors, open_ = [error], ModelPictures.open

    def opened(*arguments: Any) -> Image.Image:
        if errors:
            raise errors.pop()
        return open_(*arguments)

    monkeypatch.setattr(ModelPictures, "open", opened)
    job_id = index(context, world)
    assert [(unit.state, unit.attempt, len(unit.payload["items"])) for unit in world.units(job_id)] == [
        (UnitState.DONE, 2, 2)
    ]
    assert _errors(world) == {}


def test_the_pictures_of_a_unit_are_decoded_in_parallel_with_correct_embeddings(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settings = world.settings.model_copy(update={"decoders": 2, "index_unit_items": 64})
    context = dataclasses.replace(context, settings=world.settings)
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    colours = [(6 * number, 250 - 6 * number, 90) for number in range(40)]
    for number, colour in enumerate(colours):
        ingest.add_picture(f"{number:02}.png", png(colour))
    meeting, open_ = threading.Barrier(2, timeout=60), ModelPictures.open

    def met(*arguments: Any) -> Image.Image:
        # 40 pictures in pairs: without parallel decoding the barrier would time out
        meeting.wait()
        return open_(*arguments)

    monkeypatch.setattr(ModelPictures, "open", met)
    job_id = index(context, world)
    assert [unit.state for unit in world.units(job_id)] == [UnitState.DONE]
    with world.sessions() as session:
        rows = session.execute(
            sa.select(Item.name, Embedding.vector).join(Embedding, Embedding.item_id == Item.id).order_by(Item.name)
        ).all()
    expected = FakeEmbedder().embed_images([Image.new("RGB", (8, 8), colour) for colour in colours])
    np.testing.assert_allclose(np.stack([np.asarray(row.vector) for row in rows]), expected, atol=1e-5)


def test_the_next_batch_is_prepared_while_the_model_embeds_one(context: WorkerContext, world) -> None:
    world.settings = world.settings.model_copy(update={"index_unit_items": indexing_worker._BATCH + 1})
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for number in range(indexing_worker._BATCH + 1):
        ingest.add_picture(f"{number}.png", png((6 * number, 9, 9)))
    prepared = threading.Semaphore(0)
    batches: list[int] = []

    class Slow(FakeEmbedder):
        def prepare(self, picture: Image.Image) -> Image.Image:
            prepared.release()
            return picture

        def embed_prepared(self, pictures: Sequence[Image.Image]) -> np.ndarray:
            batches.append(len(pictures))
            if len(batches) == 1:
                # also the picture of the next batch
                for _ in range(indexing_worker._BATCH + 1):
                    assert prepared.acquire(timeout=60)
            return super().embed_prepared(pictures)

    assert world.job(index(context, world, lambda _: Slow())).state is JobState.SUCCEEDED
    assert batches == [indexing_worker._BATCH, 1]


def test_a_job_cancelled_during_decoding_leaves_no_thread(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for number in range(4):
        ingest.add_picture(f"{number}.png", png((60 * number, 0, 0)))

    def stopped(*_: Any) -> None:
        raise JobCancelled

    monkeypatch.setattr(indexing_worker, "_embed", stopped)
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
        unit_id = session.scalars(sa.select(Unit.id).filter_by(job_id=job.id)).first()
    assert run_unit(context, unit_id, lambda b, h: embed_unit(b, h, lambda _: FakeEmbedder()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def _errors(world) -> dict[UUID, str]:
    """The errors of items that could not be embedded."""
    with world.sessions() as session:
        return dict(session.execute(sa.select(Item.id, Item.error).where(Item.error.is_not(None))).all())


def test_a_new_caption_clears_the_error_of_an_item(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    item_id = ingest.add_picture("red.png", png((250, 0, 0))).item_id
    with transaction(world.sessions) as session:
        keep_error(session, item_id, "a broken caption")
    assert _errors(world) == {item_id: "a broken caption"}
    ingest.add_picture("red.png", png((250, 0, 0)), text="a red field")
    assert _errors(world) == {}


def test_a_model_that_cannot_be_loaded_leaves_no_error_at_the_items(context: WorkerContext, world) -> None:
    world.add_texts("alone")

    def absent(name: str):
        raise ModelUnavailable("The weights are not there.")

    assert world.job(index(context, world, absent)).state is JobState.FAILED
    assert _errors(world) == {}


def test_an_item_deleted_while_it_was_embedded_gets_no_embedding(context: WorkerContext, world) -> None:
    world.add_texts("here", "gone")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id

    class Slow(FakeEmbedder):
        def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
            with transaction(world.sessions) as session:
                gone = session.scalars(sa.select(Item).where(Item.text == "gone")).one()
                delete_item(session, context.storage, gone)
            return super().embed_texts(texts, query=query)

    run_unit(context, world.units(job_id)[0].id, lambda b, h: embed_unit(b, h, lambda _: Slow()))
    assert world.job(job_id).state is JobState.SUCCEEDED
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(EmbeddingModel)) == 1


def test_a_job_whose_only_item_is_deleted_before_it_is_decoded_succeeds(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    item_id = ingest.add_picture("red.png", png((250, 0, 0))).item_id

    open_ = ModelPictures.open

    def delete_first(pictures: ModelPictures, *rest: Any) -> Image.Image:
        with world.sessions() as session:
            delete_item(session, pictures.storage, session.get_one(Item, item_id))
        return open_(pictures, *rest)

    monkeypatch.setattr(ModelPictures, "open", delete_first)
    job_id = index(context, world)
    assert world.job(job_id).state is JobState.SUCCEEDED
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding)) == 0


def test_a_vector_of_an_older_version_of_an_item_does_not_replace_that_of_a_newer_one(world) -> None:
    newer = make_text(world.collection_id, "a wren", version=2)
    older = make_text(world.collection_id, "a robin", id=newer.id, version=1)
    with transaction(world.sessions) as session:
        store(session, newer)
        model = register(session, FakeEmbedder())
        for item in (newer, older):
            vectors = list(FakeEmbedder().embed_texts([item.text]))
            _store(session, model, world.collection_id, [item], vectors, 0.7, new_id())
        stored = session.scalars(sa.select(Embedding)).one()
    assert stored.item_version == 2
    np.testing.assert_allclose(stored.vector, FakeEmbedder().embed_texts(["a wren"])[0], atol=1e-5)


def test_a_changed_embedder_is_reported_when_it_is_registered(world) -> None:
    with transaction(world.sessions) as session, structlog.testing.capture_logs() as lines:
        first = register(session, FakeEmbedder())
        assert register(session, FakeEmbedder()).id == first.id
        assert lines == []
        changed = FakeEmbedder()
        changed.info = dataclasses.replace(changed.info, preprocessing_hash="copies")
        assert register(session, changed).id != first.id
    assert [line["event"] for line in lines] == ["embedder.changed"]


@pytest.mark.parametrize("new_items", [0, 3])
def test_an_index_job_embeds_all_items_when_its_worker_has_a_newer_version_of_the_embedder(
    context: WorkerContext, world, new_items: int
) -> None:
    def newer(_: str) -> FakeEmbedder:
        embedder = FakeEmbedder()
        embedder.info = dataclasses.replace(embedder.info, preprocessing_hash="newer")
        return embedder

    world.add_texts("red", "blue", "green")
    index(context, world)
    world.add_texts(*(f"text {number}" for number in range(new_items)))
    job_id = index(context, world, newer)
    units = world.units(job_id)
    items = [item for unit in units for item in unit.payload["items"]]
    assert len(items) == len(set(items)) == 3 + new_items, "each item is embedded once"
    assert world.job(job_id).state is JobState.SUCCEEDED
    with world.sessions() as session:
        model = session.scalars(sa.select(EmbeddingModel).filter_by(preprocessing_hash="newer")).one()
        vectors = sa.select(sa.func.count()).select_from(Embedding).filter_by(model_id=model.id)
        assert session.scalar(vectors) == 3 + new_items
    assert [unit.payload["items"] for unit in world.units(index(context, world, newer))] == [[]]


def test_an_item_that_the_newer_version_cannot_embed_fails_once(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    ingest.add_picture("red.png", png((250, 0, 0)))
    index(context, world)
    ingest.add_picture("broken.png", png((0, 0, 250)))
    with world.sessions() as session:
        broken = session.scalars(sa.select(Item).where(Item.name == "broken.png")).one()
    context.storage.put(broken.picture_key, io.BytesIO(b"not a picture any more"))
    changed = FakeEmbedder()
    changed.info = dataclasses.replace(changed.info, preprocessing_hash="newer")
    job_id = index(context, world, lambda _: changed)
    states = Counter(unit.state for unit in world.units(job_id))
    assert (states[UnitState.DEAD], states[UnitState.DONE]) == (1, 1)
