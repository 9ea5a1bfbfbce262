"""From an accepted job to its stored result, unit by unit, with predictable models."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, SilentNotifier, index, run, search, view_of

from retllm.db.enums import DecidedBy, ItemKind, JobState, Stage, UnitState
from retllm.db.session import transaction
from retllm.db.tables import Candidate, Embedding, EmbeddingModel, Item, Score, Search, Unit
from retllm.errors import InvalidInput, JobCancelled, ModelUnavailable
from retllm.fine import Content
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.indexing import worker as indexing_worker
from retllm.indexing.indexed import keep_error
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import embed_unit, open_picture
from retllm.media.ingest import Ingest, delete_item
from retllm.media.storage import Storage
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit
from retllm.search import fine_worker
from retllm.search.coarse_worker import coarse_unit
from retllm.search.submit import StoredPicture


def _png(colour: tuple[int, int, int]) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    file.seek(0)
    return file


def test_a_search_has_the_coarse_order_first_and_then_the_final_order(context: WorkerContext, world) -> None:
    world.add_texts("red red circle", "red circle", "red square", "blue moon")
    index(context, world)
    search_id = search(world, text="red circle", k=3)
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    view = view_of(world, search_id)
    assert view.provisional
    assert [row.text for row in view.candidates] == ["red circle", "red red circle", "red square"]
    assert view.searched_items == 4
    assert [len(unit.payload["items"]) for unit in world.units(search_id, Stage.FINE)] == [2, 1]

    scorer = FakeScorer(lambda content: (0.9, 0.1) if content.text == "red square" else (0.2, 0.1))
    run(context, world, search_id, scorer)
    view = view_of(world, search_id)
    assert not view.provisional
    assert view.job.state is JobState.SUCCEEDED
    assert [row.text for row in view.candidates] == ["red square", "red circle", "red red circle"]
    assert [row.final_rank for row in view.candidates] == [1, 2, 3]
    assert [row.coarse_rank for row in view.candidates] == [3, 1, 2]
    assert view.candidates[0].decided_by is DecidedBy.SCORE
    assert view.candidates[1].decided_by is DecidedBy.COARSE
    assert (view.scorer_version, view.scorer_revision, view.prompt_version) == ("v1:0.3", "s1", "1")
    assert view.embedder_revision == "r1"


def test_partial_scores_change_the_order_while_the_job_runs(context: WorkerContext, world) -> None:
    world.add_texts("red red circle", "red circle", "red square")
    index(context, world)
    search_id = search(world, text="red circle", k=3)
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    last = world.units(search_id, Stage.FINE)[1]
    scorer = FakeScorer(lambda content: (0.7, 0.1))
    run_unit(context, last.id, lambda b, h: fine_worker.fine_unit(b, h, scorer))
    view = view_of(world, search_id)
    assert view.provisional
    assert [row.text for row in view.candidates] == ["red square", "red circle", "red red circle"]
    assert [row.score for row in view.candidates] == [0.7, None, None]
    assert view.job.progress == pytest.approx(1 / 3, abs=1e-3)


def test_the_tied_score_with_the_lower_entropy_ranks_first(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "red square")
    index(context, world)
    search_id = search(world, text="red circle", k=2)
    sure = {"red circle": (0.80001, 0.6), "red square": (0.80004, 0.2)}
    run(context, world, search_id, FakeScorer(lambda content: sure[content.text or ""]))
    rows = view_of(world, search_id).candidates
    assert [row.text for row in rows] == ["red square", "red circle"]
    assert {row.decided_by for row in rows} == {DecidedBy.ENTROPY}


def test_an_item_is_embedded_by_its_picture_its_text_or_both(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    ingest.add_picture("red.png", _png((250, 0, 0)))
    ingest.add_picture("blue.png", _png((0, 0, 250)), text="a blue field")
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


def test_a_query_with_picture_and_text_passes_both_stages(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for name, colour in (("red.png", (250, 0, 0)), ("blue.png", (0, 0, 250))):
        ingest.add_picture(name, _png(colour))
    index(context, world)
    context.storage.put("queries/q/picture", _png((0, 0, 240)))
    search_id = search(world, StoredPicture("queries/q/picture", "0" * 64), text="sky", k=2, kinds=["image"])
    scorer = FakeScorer(lambda content: (0.5, 0.1))
    run(context, world, search_id, scorer)
    view = view_of(world, search_id)
    assert [row.name for row in view.candidates] == ["blue.png", "red.png"]
    assert (view.kind, view.text, view.has_picture) == (ItemKind.BOTH, "sky", True)
    assert all(content.image is not None and content.text is None for content in scorer.asked)


def test_a_unit_is_retried_if_the_storage_is_unavailable(context: WorkerContext, world, monkeypatch) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    ingest.add_picture("red.png", _png((250, 0, 0)))
    index(context, world)
    tries: list[str] = []
    original = Storage.open

    def unavailable_at_first(storage: Storage, key: str):
        tries.append(key)
        if len(tries) == 1:
            raise ConnectionError("no route to the bucket")
        return original(storage, key)

    def score(content: Content) -> tuple[float, float]:
        try:
            return float(np.asarray(content.picture.rgb())[..., 0].mean()) / 255, 0.1
        except OSError as error:  # like the scorer, for which a file it can't open is not a picture
            raise InvalidInput("The picture can't be opened.") from error

    monkeypatch.setattr(Storage, "open", unavailable_at_first)
    search_id = search(world, text="red", k=1)
    run(context, world, search_id, FakeScorer(score))
    (fine,) = world.units(search_id, Stage.FINE)
    assert (fine.state, fine.attempt, len(tries)) == (UnitState.DONE, 2, 2)
    assert view_of(world, search_id).candidates[0].score == pytest.approx(250 / 255)


def test_only_the_unreadable_picture_of_a_unit_fails_and_it_can_be_retried(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for number in range(4):
        ingest.add_picture(f"{number}.png", _png((60 * number, 0, 0)))
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
    assert _errors(world) == {broken.id: view.errors[0].error}, "the item has the error"
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


def test_the_pictures_of_a_unit_are_decoded_in_parallel_with_correct_embeddings(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settings = world.settings.model_copy(update={"decoders": 2, "index_unit_items": 64})
    context = dataclasses.replace(context, settings=world.settings)
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    colours = [(6 * number, 250 - 6 * number, 90) for number in range(40)]
    for number, colour in enumerate(colours):
        ingest.add_picture(f"{number:02}.png", _png(colour))
    meeting, open_ = threading.Barrier(2, timeout=60), open_picture

    def met(*arguments: Any) -> Image.Image:
        # 40 pictures in pairs: without parallel decoding the barrier would time out
        meeting.wait()
        return open_(*arguments)

    monkeypatch.setattr(indexing_worker, "open_picture", met)
    job_id = index(context, world)
    assert [unit.state for unit in world.units(job_id)] == [UnitState.DONE]
    with world.sessions() as session:
        rows = session.execute(
            sa.select(Item.name, Embedding.vector).join(Embedding, Embedding.item_id == Item.id).order_by(Item.name)
        ).all()
    expected = FakeEmbedder().embed_images([Image.new("RGB", (8, 8), colour) for colour in colours])
    np.testing.assert_allclose(np.stack([np.asarray(row.vector) for row in rows]), expected, atol=1e-5)


def test_a_job_cancelled_during_decoding_leaves_no_thread(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for number in range(4):
        ingest.add_picture(f"{number}.png", _png((60 * number, 0, 0)))

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
    item_id = ingest.add_picture("red.png", _png((250, 0, 0))).item_id
    with transaction(world.sessions) as session:
        keep_error(session, item_id, "a broken caption")
    assert _errors(world) == {item_id: "a broken caption"}
    ingest.add_picture("red.png", _png((250, 0, 0)), text="a red field")
    assert _errors(world) == {}


def test_a_model_that_cannot_be_loaded_leaves_no_error_at_the_items(context: WorkerContext, world) -> None:
    world.add_texts("alone")

    def absent(name: str):
        raise ModelUnavailable("The weights are not there.")

    assert world.job(index(context, world, absent)).state is JobState.FAILED
    assert _errors(world) == {}


def test_a_candidate_that_cannot_be_scored_has_an_error_and_the_others_are_ranked(
    context: WorkerContext, world
) -> None:
    world.add_texts("red circle", "red square", "red moon")
    index(context, world)
    search_id = search(world, text="red circle", k=3)
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    with transaction(world.sessions) as session:
        gone = session.scalars(sa.select(Item).where(Item.text == "red square")).one()
        delete_item(session, context.storage, gone)
    scorer = FakeScorer(lambda content: (0.9, 0.1) if content.text == "red moon" else (0.4, 0.1))
    run(context, world, search_id, scorer)
    view = view_of(world, search_id)
    assert view.job.state is JobState.PARTIAL
    assert not view.provisional
    assert [row.score for row in view.candidates] == [0.9, 0.4, None]
    assert "deleted" in (view.candidates[-1].error or "")
    assert view.candidates[-1].item_id == gone.id


def test_a_retry_keeps_the_existing_scores_and_adds_the_missing_ones(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "red square", "red moon", "red sun")
    index(context, world)
    search_id = search(world, text="red circle", k=4)

    def fails_for_the_sun(content: Content) -> tuple[float, float]:
        if content.text == "red sun":
            raise RuntimeError("out of memory")
        return 0.5, 0.1

    run(context, world, search_id, FakeScorer(fails_for_the_sun))
    view = view_of(world, search_id)
    assert view.job.state is JobState.PARTIAL
    assert sum(row.score is not None for row in view.candidates) == 3
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, search_id)
    assert view_of(world, search_id).provisional
    scorer = FakeScorer(lambda content: (0.6, 0.1))
    run(context, world, search_id, scorer)
    assert [content.text for content in scorer.asked] == ["red sun"]
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    assert view.candidates[0].text == "red sun"
    assert all(row.error is None for row in view.candidates)


def test_scores_of_two_scorer_versions_are_never_mixed(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "red square", "red moon", "red sun")
    index(context, world)
    search_id = search(world, text="red circle", k=4)
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    first = world.units(search_id, Stage.FINE)[0]
    run_unit(context, first.id, lambda b, h: fine_worker.fine_unit(b, h, FakeScorer(lambda _: (0.5, 0.1), "v1")))
    run(context, world, search_id, FakeScorer(lambda _: (0.9, 0.1), "v2"))
    with world.sessions() as session:
        assert set(session.scalars(sa.select(Score.scorer_version))) == {"v1:0.3"}
    assert world.job(search_id).state is JobState.PARTIAL
    assert "search again" in (world.job(search_id).error or "")


def test_a_hint_for_a_done_or_unknown_unit_has_no_effect(context: WorkerContext, world) -> None:
    """A hint can be delivered again after the unit is done."""
    world.add_texts("red circle")
    index(context, world)
    search_id = search(world, text="red circle", k=1)
    scorer = FakeScorer(lambda _: (0.5, 0.1))
    run(context, world, search_id, scorer)
    (fine,) = world.units(search_id, Stage.FINE)
    assert not run_unit(context, fine.id, lambda b, h: fine_worker.fine_unit(b, h, scorer))
    assert not run_unit(context, uuid4(), lambda b, h: fine_worker.fine_unit(b, h, scorer))
    assert len(scorer.asked) == 1
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Score)) == 1


def test_a_unit_whose_model_cannot_be_loaded_is_retried_and_the_job_shows_the_error(
    context: WorkerContext, world
) -> None:
    world.add_texts("red circle")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id

    def unloadable(context: WorkerContext, held: LeasedUnit):
        raise ModelUnavailable("There is no folder /models/embedder.")

    unit_id = world.units(job_id)[0].id
    run_unit(context, unit_id, unloadable)
    with world.sessions() as session:
        view = job_view(session, world.job(job_id))
    assert view.state is JobState.RUNNING
    assert [(error.state, error.error) for error in view.errors] == [
        (UnitState.READY, "There is no folder /models/embedder.")
    ]
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED


def test_a_worker_with_another_model_does_not_run_the_unit(context: WorkerContext, world) -> None:
    world.add_texts("red circle")
    index(context, world)
    search_id = search(world, text="red circle")
    other = WorkerContext(
        context.sessions,
        context.storage,
        world.settings.model_copy(update={"embedder": "local-dir:/models/other"}),
        SilentNotifier(),
        "tester:2",
    )
    run_unit(other, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    (unit,) = world.units(search_id)
    assert unit.state is UnitState.READY
    assert "local-dir:other" in (unit.error or "")


def test_a_search_without_items_of_the_kind_succeeds_without_candidates(context: WorkerContext, world) -> None:
    world.add_texts("red circle")
    index(context, world)
    search_id = search(world, text="red circle", kinds=["image"])
    run(context, world, search_id)
    view = view_of(world, search_id)
    assert (view.job.state, view.provisional, view.candidates) == (JobState.SUCCEEDED, False, [])


def test_an_item_deleted_while_it_was_embedded_gets_no_embedding(context: WorkerContext, world) -> None:
    world.add_texts("here", "gone")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id

    class Slow(FakeEmbedder):
        def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
            with transaction(world.sessions) as session:
                gone = session.scalars(sa.select(Item).where(Item.text == "gone")).one()
                delete_item(session, context.storage, gone)
            return super().embed_texts(texts)

    run_unit(context, world.units(job_id)[0].id, lambda b, h: embed_unit(b, h, lambda _: Slow()))
    assert world.job(job_id).state is JobState.SUCCEEDED
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Embedding)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(EmbeddingModel)) == 1


def test_the_final_rank_is_stored_for_every_candidate(context: WorkerContext, world) -> None:
    world.add_texts(*[f"red {n}" for n in range(9)])
    index(context, world)
    search_id = search(world, text="red", k=9)
    run(context, world, search_id, FakeScorer(lambda content: (len(content.text or "") / 100, 0.1)))
    with world.sessions() as session:
        ranks = session.scalars(sa.select(Candidate.final_rank).order_by(Candidate.final_rank)).all()
        assert session.get_one(Search, search_id).final_at is not None
    assert ranks == list(range(1, 10))
