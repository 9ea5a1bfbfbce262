"""From an accepted job to its stored result, unit by unit, with predictable models."""

from __future__ import annotations

import io
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, SilentNotifier, fine_unit, index, png, run, search, view_of

from retllm.db.enums import DecidedBy, ItemKind, JobState, Stage, UnitState
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import InvalidInput, ModelUnavailable
from retllm.fine import Content, load_scorer
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.history.listing import JobFilters
from retllm.indexing.submit import submit_index
from retllm.media import records
from retllm.media.ingest import Ingest, delete_item
from retllm.media.storage import Storage
from retllm.queue.audit import violations
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit
from retllm.search import export
from retllm.search.coarse_worker import coarse_unit
from retllm.search.submit import StoredPicture
from retllm.settings import PRESETS, Settings


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
    run_unit(context, last.id, lambda b, h: fine_unit(b, h, scorer))
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


def test_a_query_with_picture_and_text_passes_both_stages(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for name, colour in (("red.png", (250, 0, 0)), ("blue.png", (0, 0, 250))):
        ingest.add_picture(name, png(colour))
    index(context, world)
    context.storage.put("queries/q/picture", png((0, 0, 240)))
    search_id = search(world, StoredPicture("queries/q/picture", "0" * 64), text="sky", k=2, kinds=["image"])
    scorer = FakeScorer(lambda content: (0.5, 0.1))
    run(context, world, search_id, scorer)
    view = view_of(world, search_id)
    assert [row.name for row in view.candidates] == ["blue.png", "red.png"]
    assert (view.kind, view.text, view.has_picture) == (ItemKind.BOTH, "sky", True)
    assert all(content.image is not None and content.text is None for content in scorer.asked)


def test_a_picture_is_judged_together_with_its_caption(context: WorkerContext, world) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    captions = {"red.png": "red sky", "blue.png": None}
    for name, colour in (("red.png", (250, 0, 0)), ("blue.png", (0, 0, 250))):
        item_id = ingest.add_picture(name, png(colour)).item_id
        with transaction(world.sessions) as session:
            records.set_captions(session, {item_id: records.Caption(text)} if (text := captions[name]) else {})
    world.add_texts("red rose")
    index(context, world)
    scorer = FakeScorer(lambda content: (0.5, 0.1))
    run(context, world, search(world, text="red", k=3), scorer)
    assert {(content.image is not None, content.text) for content in scorer.asked} == {
        (True, "red sky"),
        (True, None),
        (False, "red rose"),
    }


def test_a_unit_is_retried_if_the_storage_is_unavailable(context: WorkerContext, world, monkeypatch) -> None:
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    ingest.add_picture("red.png", png((250, 0, 0)))
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


def test_a_deleted_candidate_has_an_error_and_the_others_are_ranked_above_it(context: WorkerContext, world) -> None:
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
    assert view.job.state is JobState.SUCCEEDED
    assert not view.provisional
    assert [row.score for row in view.candidates] == [0.9, 0.4, None]
    assert view.candidates[-1].error == f"{gone.name} was deleted after the search found it."
    assert violations(world.sessions, quiet=True) == []
    assert view.candidates[-1].item_id == gone.id


def test_a_candidate_that_no_attempt_can_score_keeps_its_coarse_rank_and_says_why(
    context: WorkerContext, world
) -> None:
    """A file that is gone, one that can't be decoded any more, and a pair that the model refuses; no unit is dead."""
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    names = [f"{name}.png" for name in ("whole", "gone", "cut", "refused", "other")]
    for at, name in enumerate(names):
        ingest.add_picture(name, png((250 - 40 * at, 30 * at, 0)))
    index(context, world)
    with transaction(world.sessions) as session:
        keys = dict(session.execute(sa.select(Item.name, Item.picture_key)).all())
    context.storage.delete(keys["gone.png"])
    context.storage.put(keys["cut.png"], io.BytesIO(png((250, 0, 0)).getvalue()[:60]))

    def score(content: Content) -> tuple[float, float]:
        shown = np.asarray(content.picture.rgb())[0, 0]
        if tuple(shown) == (130, 90, 0):
            raise InvalidInput("The model can't take this pair: too dull.", index=0)
        return 0.2 + float(shown[1]) / 255, 0.1

    context.storage.put("queries/q/picture", png((250, 0, 0)))
    search_id = search(world, StoredPicture("queries/q/picture", "0" * 64), k=5)
    run(context, world, search_id, FakeScorer(score))
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    assert view.job.errors == []
    assert {unit.state for unit in world.units(search_id)} == {UnitState.DONE}
    rows = {row.name: row for row in view.candidates}
    assert rows["gone.png"].error == "gone.png: The stored file is missing."
    assert rows["cut.png"].error.startswith("cut.png: The file is damaged")
    assert rows["refused.png"].error == "refused.png: The model can't take this pair: too dull."
    for name in ("gone.png", "cut.png", "refused.png"):
        row = rows[name]
        assert (row.score, row.rank, row.decided_by) == (None, row.coarse_rank, DecidedBy.COARSE)
    assert (rows["other.png"].rank, rows["whole.png"].rank) == (1, 5)
    assert violations(world.sessions, quiet=True) == []


def test_a_search_whose_query_picture_is_gone_fails_and_blames_no_candidate(context: WorkerContext, world) -> None:
    world.add_texts("red circle")
    index(context, world)
    context.storage.put("queries/q/picture", png((250, 0, 0)))
    search_id = search(world, StoredPicture("queries/q/picture", "0" * 64), k=1)
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    context.storage.delete("queries/q/picture")
    scorer = FakeScorer(lambda content: (0.5, 0.1))
    plain = scorer.score
    scorer.score = lambda query, *more, **named: (query.picture.rgb(), plain(query, *more, **named))[1]
    run(context, world, search_id, scorer)
    assert world.job(search_id).state is JobState.FAILED
    assert "picture of the query can't be used any more" in (world.job(search_id).error or "")


def test_a_strip_and_a_text_of_the_maximum_length_are_scored_as_items_and_as_query(
    context: WorkerContext, world
) -> None:
    """With the demo scorer, whose context has 1,024 tokens and whose processor refuses pictures beyond 1 to 200."""
    scorer = load_scorer(PRESETS["demo"].scorer, device="cpu")
    text = ("a red circle " * 1600)[: world.settings.max_text_chars].strip()
    world.add_texts(text)
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    assert ingest.add_picture("strip.png", png((250, 0, 0), (300, 1))).status == "added"
    index(context, world)
    context.storage.put("queries/q/picture", png((0, 250, 0), (1, 300)))
    picture = StoredPicture("queries/q/picture", "0" * 64)
    long, by_picture = search(world, text=text, k=2), search(world, picture, k=2)
    for search_id in (long, by_picture):
        run(context, world, search_id, scorer)
        assert {unit.state for unit in world.units(search_id)} == {UnitState.DONE}
        assert all(row.score is not None and row.error is None for row in view_of(world, search_id).candidates)
    remarks = {row.kind: row.remark for row in view_of(world, long).candidates}
    assert remarks[ItemKind.IMAGE].startswith("The query text was shortened to its first ")
    assert remarks[ItemKind.IMAGE].endswith(" The picture was padded to 300 × 2 pixels for the model.")
    assert " The text was shortened to its first " in remarks[ItemKind.TEXT]
    remarks = {row.kind: row.remark for row in view_of(world, by_picture).candidates}
    assert remarks[ItemKind.TEXT].endswith(" The query picture was padded to 2 × 300 pixels for the model.")


def test_a_remark_on_a_pair_is_stored_shown_and_cached(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "red square")
    index(context, world)
    scorer = FakeScorer(lambda content: (0.5, 0.1), remark=lambda content: "Cut." if "circle" in content.text else None)
    for cached in (False, True):
        search_id = search(world, text="red", k=2)
        run(context, world, search_id, scorer)
        rows = {row.text: row for row in view_of(world, search_id).candidates}
        assert {text: row.remark for text, row in rows.items()} == {"red circle": "Cut.", "red square": None}
        assert rows["red circle"].cached is cached
    found = export.rows(world.sessions, world.user, JobFilters(), export.Rows.RESULTS)
    assert sorted(row["remark"] or "" for row in found) == ["", "", "Cut.", "Cut."]


def test_a_layer_that_the_scorer_lacks_fails_at_once_with_its_range(context: WorkerContext, world) -> None:
    world.add_texts("red circle", "red square")
    index(context, world)
    search_id = search(world, text="red", k=2, injection={"trigger": "fixed", "fixed_layer": 6})
    run(context, world, search_id, FakeScorer(lambda content: (0.5, 0.1)))
    (unit,) = world.units(search_id, Stage.FINE)
    assert (unit.state, unit.attempt) == (UnitState.DEAD, 1)
    assert unit.error == "fixed_layer is 6, but this model's layers are 0 to 5."


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
    run_unit(context, first.id, lambda b, h: fine_unit(b, h, FakeScorer(lambda _: (0.5, 0.1), "v1")))
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
    assert not run_unit(context, fine.id, lambda b, h: fine_unit(b, h, scorer))
    assert not run_unit(context, uuid4(), lambda b, h: fine_unit(b, h, scorer))
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


def test_a_search_whose_scorer_is_configured_no_longer_says_which_ones_there_are(context: WorkerContext, world) -> None:
    world.add_texts("red circle")
    index(context, world)
    search_id = search(world, text="red circle")
    run_unit(context, world.units(search_id)[0].id, lambda b, h: coarse_unit(b, h, lambda _: FakeEmbedder()))
    given = {"scorer": "/models/other", "extra_scorers": ["openai+http://gpu:1/v1#org/judge"]}
    other = replace(context, settings=Settings.model_validate(given))
    (fine,) = world.units(search_id, Stage.FINE)
    run_unit(other, fine.id, lambda b, h: fine_unit(b, h, FakeScorer(lambda _: (0.5, 0.1))))
    error = world.units(search_id, Stage.FINE)[0].error or ""
    assert f"the scorer {view_of(world, search_id).scorer}, which is not configured" in error
    assert "are other, openai:org/judge. Set" in error


def test_a_search_without_items_of_the_kind_succeeds_without_candidates(context: WorkerContext, world) -> None:
    world.add_texts("red circle")
    index(context, world)
    search_id = search(world, text="red circle", kinds=["image"])
    run(context, world, search_id)
    view = view_of(world, search_id)
    assert (view.job.state, view.provisional, view.candidates) == (JobState.SUCCEEDED, False, [])


def test_the_final_rank_is_stored_for_every_candidate(context: WorkerContext, world) -> None:
    world.add_texts(*[f"red {n}" for n in range(9)])
    index(context, world)
    search_id = search(world, text="red", k=9)
    run(context, world, search_id, FakeScorer(lambda content: (len(content.text or "") / 100, 0.1)))
    with world.sessions() as session:
        ranks = session.scalars(sa.select(Candidate.final_rank).order_by(Candidate.final_rank)).all()
        assert session.get_one(Search, search_id).final_at is not None
    assert ranks == list(range(1, 10))
