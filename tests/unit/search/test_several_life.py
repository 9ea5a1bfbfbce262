"""What becomes of a search of several collections: deletions, rights, marks, comparison, export, history."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.deleting import delete_collection
from tests.unit.search.several import ask, expel, fill, key_of, person, seen, texts_of
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, fine_unit, run, search
from tests.unit.two_embedders import even

from retllm.db.enums import JobKind, JobState, Role, Stage, UnitState
from retllm.db.jobs import Job
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Score, Search, SearchCollection
from retllm.db.session import run_transaction, transaction
from retllm.errors import Forbidden, NotFound
from retllm.history import listing
from retllm.history.control import cancel_job, delete_job
from retllm.history.job_etag import job_etag
from retllm.history.listing import JobFilters
from retllm.identity.access import changeable_jobs, visible_jobs
from retllm.media import records
from retllm.queue.audit_rules import RULES
from retllm.queue.worker import WorkerContext, run_unit
from retllm.review.marks import find_items, set_mark
from retllm.review.search import review_of
from retllm.search.coarse_worker import coarse_unit
from retllm.search.compare import compare
from retllm.search.evidence import evidence_of
from retllm.search.export import Rows, rows
from retllm.uploads.removal import remove_deleted


@pytest.fixture
def asked(context: WorkerContext, world) -> tuple[UUID, UUID, UUID]:
    """A search with a result, and its two collections."""
    one = fill(context, world, "one", "red circle", "red moon")
    two = fill(context, world, "two", "a red circle", "night")
    search_id = ask(world, [one, two])
    run(context, world, search_id, FakeScorer(even))
    return search_id, one, two


def violations(world) -> list[tuple[str, object]]:
    with world.sessions() as session:
        given = {"quiet": True, "overdue": 60, "limit": 5}
        return [(rule.name, row) for rule in RULES for row in session.execute(sa.text(rule.statement), given)]


def number_of(world, table: type) -> int:
    with world.sessions() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_a_deleted_collection_takes_what_was_found_there_along(context: WorkerContext, world, asked) -> None:
    search_id, one, _ = asked
    run_transaction(world.sessions, lambda session: records.delete_collection(session, one))
    for removed in (False, True):
        if removed:
            remove_deleted(world.sessions, context.storage)
        view = seen(world, search_id)
        assert sorted(map(str, texts_of(view))) == ["a red circle", "night"]
        assert ([found.name for found in view.collections], view.hidden_collections) == (["two"], 1)
        assert violations(world) == []
    assert number_of(world, Candidate) == 2
    assert number_of(world, SearchCollection) == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_a_search_goes_with_the_last_of_its_collections(context: WorkerContext, world, asked, at_once: bool) -> None:
    search_id, *keys = asked
    for key in keys:
        run_transaction(world.sessions, lambda session, key=key: records.delete_collection(session, key))
        if not at_once:
            remove_deleted(world.sessions, context.storage)
    with pytest.raises(NotFound):
        seen(world, search_id)
    assert violations(world) == []
    remove_deleted(world.sessions, context.storage)
    assert (number_of(world, Search), number_of(world, Candidate), number_of(world, SearchCollection)) == (0, 0, 0)
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).where(Job.kind == JobKind.SEARCH)) == 0
    assert violations(world) == []


def test_a_collection_deleted_before_the_coarse_stage_is_not_searched(context: WorkerContext, world) -> None:
    one, two = fill(context, world, "one", "red circle"), fill(context, world, "two", "a red circle")
    search_id = ask(world, [one, two])
    delete_collection(world.sessions, context.storage, one)
    run(context, world, search_id, FakeScorer(even))
    assert texts_of(seen(world, search_id)) == ["a red circle"]
    assert violations(world) == []


def test_scores_of_candidates_that_went_meanwhile_are_left_out(context: WorkerContext, world) -> None:
    one, two = fill(context, world, "one", "red circle"), fill(context, world, "two", "a red circle")
    search_id = ask(world, [one, two])
    run_coarse(context, world, search_id)
    (unit,) = world.units(search_id, Stage.FINE)

    def score(content) -> tuple[float, float]:
        # between the claim and the last step
        if number_of(world, Candidate) == 2:
            delete_collection(world.sessions, context.storage, one)
        return 0.9, 0.1

    scorer = FakeScorer(score)
    assert run_unit(context, unit.id, lambda context, held: fine_unit(context, held, scorer))
    view = seen(world, search_id)
    assert (view.job.state, texts_of(view)) == (JobState.SUCCEEDED, ["a red circle"])
    assert number_of(world, Score) == 1
    assert violations(world) == []


def run_coarse(context: WorkerContext, world, search_id: UUID) -> None:
    """Run the coarse stage alone."""
    (unit,) = world.units(search_id, Stage.COARSE)
    assert run_unit(context, unit.id, lambda context, held: coarse_unit(context, held, lambda _: FakeEmbedder()))


def test_the_history_lists_it_for_those_who_see_one_of_its_collections(world, asked) -> None:
    search_id, _, two = asked
    vera, walt = person(world, "vera", two), person(world, "walt")
    with world.sessions() as session:
        for actor, expected in ((world.user, True), (vera, True), (walt, False)):
            jobs = listing.find(session, actor, JobFilters(kind=JobKind.SEARCH)).jobs
            assert (search_id in {job.id for job in jobs}) is expected
            if not expected:
                with pytest.raises(NotFound):
                    job_etag(session, actor, search_id)
        # the best item is of the first collection
        outcome = listing.results(session, world.user, [search_id])[search_id]
        hidden = listing.results(session, vera, [search_id])[search_id]
    assert (outcome.best_text, outcome.best_score) == ("red circle", 0.5)
    assert (hidden.best_item, hidden.best_score, hidden.text) == (None, None, "red circle")
    expel(world, vera, two)
    with world.sessions() as session:
        assert not session.scalars(sa.select(Job.id).where(Job.id == search_id, visible_jobs(vera))).all()


def test_only_its_owner_and_administrators_change_it(context: WorkerContext, world, asked) -> None:
    search_id, _, two = asked
    editor, admin = person(world, "eve", two, role=Role.EDITOR), person(world, "root", role=Role.ADMIN)
    with pytest.raises(Forbidden, match="Only its owner and administrators"), transaction(world.sessions) as session:
        delete_job(session, editor, search_id)
    with world.sessions() as session:
        for actor, may in ((editor, False), (admin, True), (world.user, True)):
            mine = sa.select(sa.func.count()).where(Job.id == search_id, changeable_jobs(actor))
            others = sa.select(sa.func.count()).where(Job.id == search_id, sa.not_(changeable_jobs(actor)))
            assert (session.scalar(mine), session.scalar(others)) == (int(may), int(not may))
    with transaction(world.sessions) as session:
        delete_job(session, admin, search_id)
    assert (number_of(world, Search), number_of(world, SearchCollection)) == (0, 0)


def test_it_can_be_cancelled(context: WorkerContext, world) -> None:
    keys = [fill(context, world, name, "red circle") for name in "ab"]
    search_id = ask(world, keys)
    with transaction(world.sessions) as session:
        cancel_job(session, world.user, search_id)
    assert world.job(search_id).state is JobState.CANCELLED


def test_a_mark_belongs_to_the_collection_of_its_item(context: WorkerContext, world, asked) -> None:
    """So a search of that collection with the same query has it too."""
    search_id, one, two = asked
    item = key_of(world, "a red circle")
    with transaction(world.sessions) as session:
        before = job_etag(session, world.user, search_id)
        set_mark(session, world.user, search_id, item, True)
        assert session.scalars(sa.select(Judgment.collection_id)).all() == [two]
    world.collection_id = two
    single = search(world, text="red circle")
    vera = person(world, "vera", one)
    with world.sessions() as session:
        assert job_etag(session, world.user, search_id) != before
        for key in (search_id, single):
            assert [mark.item_id for mark in review_of(session, world.user, key).marks] == [item]
        assert review_of(session, vera, search_id).marks == []
        with pytest.raises(NotFound):
            set_mark(session, vera, search_id, item, False)
        asked_by_vera = review_of(session, vera, search_id).asked
        assert [found.text for found in find_items(session, asked_by_vera, "red")] == ["red moon", "red circle"]


def test_what_others_found_is_left_out_of_comparison_export_and_map(context: WorkerContext, world, asked) -> None:
    search_id, one, _ = asked
    world.collection_id = one
    single = search(world, text="red circle")
    run(context, world, single, FakeScorer(even))
    vera, hidden = person(world, "vera", one), key_of(world, "a red circle")
    with world.sessions() as session:
        whole = compare(session, world.user, [search_id, single])
        part = compare(session, vera, [search_id, single])
        with pytest.raises(NotFound):
            evidence_of(session, vera, search_id, hidden)
        assert evidence_of(session, world.user, search_id, hidden).item.id == hidden
    assert {item.collection_name for item in whole.items} == {"one", "two"}
    assert whole.share_a_collection
    assert not whole.same_collections
    assert {item.collection_name for item in part.items} == {"one"}
    assert [side.candidates for side in part.sides] == [2, 2]
    assert part.settings(different=True).get("collection") is None
    filters = JobFilters(kind=JobKind.SEARCH)
    exported = list(rows(world.sessions, world.user, filters, Rows.RESULTS))
    assert {(row["item"], row["collection"]) for row in exported if row["job_id"] == search_id} == {
        ("red circle", "one"),
        ("red moon", "one"),
        ("a red circle", "two"),
        ("night", "two"),
    }
    theirs = list(rows(world.sessions, vera, filters, Rows.RESULTS))
    assert {row["collection"] for row in theirs} == {"one"}
    (job,) = [row for row in rows(world.sessions, vera, filters, Rows.JOBS) if row["job_id"] == search_id]
    assert (job["collection"], job["collection_id"]) == ("2 collections", None)


def test_an_error_names_no_item_that_others_may_not_see(context: WorkerContext, world) -> None:
    keys = [fill(context, world, name, text) for name, text in (("a", "red circle"), ("b", "a secret name"))]
    search_id = ask(world, keys)

    def fail(_content) -> tuple[float, float]:
        raise RuntimeError("out of order")

    run(context, world, search_id, FakeScorer(fail))
    job = world.job(search_id)
    assert job.error
    assert "secret" not in job.error
    assert {unit.state for unit in world.units(search_id, Stage.FINE)} == {UnitState.SPLIT, UnitState.DEAD}
