"""The history lists the searches of a rerun as one line, which leads to them."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.pages.past_searches import store_search

from retllm.db.enums import JobState, RunSource
from retllm.db.jobs import Job
from retllm.db.reviews import EvaluationRun
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.history.runs import state_of
from retllm_web.http.services import Services
from retllm_web.pages import jobs as history

STATES = (JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED)


@pytest.fixture
def entries(ada: Caller, indexed: str, served: Services) -> list[str]:
    """A search, a run of three searches, and a later search, by their keys; the run's come after its own."""
    first = store_search(served, ada.user.id, indexed, "first", [])
    run = EvaluationRun(
        id=new_id(),
        collection_id=UUID(indexed),
        user_id=ada.user.id,
        name="wider",
        source=RunSource.REVIEWED,
        report={},
    )
    with transaction(served.sessions) as session:
        session.add(run)
    inside = [store_search(served, ada.user.id, indexed, f"inside {n}", [], state) for n, state in enumerate(STATES)]
    with transaction(served.sessions) as session:
        session.execute(sa.update(Job).where(Job.id.in_(inside)).values(run_id=run.id))
    last = store_search(served, ada.user.id, indexed, "last", [])
    return [first, str(run.id), *inside, last]


def _rows(page: Page) -> list[str]:
    """The keys of the lines of a page."""
    rows = [row.attributes for row in page.all("tr") if "data-row" in row.attributes]
    return [str(row.get("data-key") or row.get("data-run")) for row in rows]


def test_a_run_is_one_line_with_its_searches_by_state(reader: Visitor, entries: list[str]) -> None:
    first, run, *_, last = entries
    page = reader.get("/jobs")
    assert _rows(page) == [last, run, first]
    line = page.one("tr", data_run=run)
    assert "wider: 3 searches" in line.text
    assert "2 succeeded" in line.text
    assert "1 failed" in line.text
    assert page.all("a", href=f"/jobs?run={run}")
    # the boxes choose jobs, and all jobs are counted
    assert len(page.all("input", name="of")) == 2
    assert "All 5 in the history" in page.text


def test_the_searches_of_a_run_have_a_page_of_their_own(reader: Visitor, entries: list[str]) -> None:
    _, run, *inside, _ = entries
    page = reader.get(f"/jobs?run={run}")
    assert _rows(page) == inside[::-1]
    # of the filter, and of the actions on all that match
    assert {field.attributes["value"] for field in page.all("input", type="hidden", name="run")} == {run}
    assert "Searches of the evaluation wider" in page.text
    assert _rows(reader.get(f"/jobs?run={run}&state=failed")) == inside[-1:]
    assert "3 jobs" in reader.get(f"/jobs/confirm?deed=delete&all=1&run={run}").text


@pytest.mark.parametrize(("query", "found"), [("state=failed", 4), ("text=inside+0", 2)])
def test_a_filter_that_tells_them_apart_finds_single_searches(
    reader: Visitor, entries: list[str], query: str, found: int
) -> None:
    assert _rows(reader.get(f"/jobs?{query}")) == [entries[found]]


def test_other_filters_apply_to_runs_too(reader: Visitor, entries: list[str], indexed: str) -> None:
    first, run, *_, last = entries
    everything = [last, run, first]
    for query in ("kind=search", f"collection={indexed}", "person=ada", "from=2020-01-01"):
        assert _rows(reader.get(f"/jobs?{query}")) == everything, query
    for query in ("kind=index", "person=nobody", "to=2020-01-01"):
        assert _rows(reader.get(f"/jobs?{query}")) == [], query


def test_pages_lead_through_runs_and_single_jobs_in_order(
    reader: Visitor, entries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_JOBS", 1)
    first, run, *_, last = entries
    seen, address = [], "/jobs"
    while address:
        page = reader.get(address)
        seen += _rows(page)
        address = next((str(e.attributes["href"]) for e in page.all("a", rel="next")), "")
    assert seen == [last, run, first]


def test_a_run_without_searches_is_not_listed(reader: Visitor, entries: list[str], served: Services) -> None:
    first, _, *inside, last = entries
    with transaction(served.sessions) as session:
        session.execute(sa.delete(Job).where(Job.id.in_(inside)))
    assert _rows(reader.get("/jobs")) == [last, first]


def test_the_searches_of_a_deleted_run_are_listed_one_by_one(reader: Visitor, ada: Caller, entries: list[str]) -> None:
    first, run, *inside, last = entries
    assert ada.delete(f"/evaluations/{run}").status_code == 204
    assert _rows(reader.get("/jobs")) == [last, *inside[::-1], first]
    assert reader.get(f"/jobs?run={run}").status == 404


def test_others_see_neither_the_run_nor_its_searches(app: OpenAPI, bob: Caller, entries: list[str]) -> None:
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    assert _rows(stranger.get("/jobs")) == []
    assert stranger.get(f"/jobs?run={entries[1]}").status == 404
    assert bob.get(f"/jobs?run={entries[1]}").json["jobs"] == []


def test_the_api_lists_single_searches_with_their_run(ada: Caller, entries: list[str]) -> None:
    _, run, *inside, _ = entries
    assert len(ada.get("/jobs").json["jobs"]) == 5
    found = ada.get(f"/jobs?run={run}").json["jobs"]
    assert [(job["id"], job["run_id"]) for job in found] == [(key, run) for key in inside[::-1]]


@pytest.mark.parametrize(
    ("states", "together"),
    [
        ({JobState.QUEUED: 2}, JobState.QUEUED),
        ({JobState.QUEUED: 1, JobState.SUCCEEDED: 1}, JobState.RUNNING),
        ({JobState.RUNNING: 1, JobState.CANCELLED: 9}, JobState.RUNNING),
        ({JobState.SUCCEEDED: 9, JobState.FAILED: 0}, JobState.SUCCEEDED),
        ({JobState.SUCCEEDED: 9, JobState.CANCELLED: 1}, JobState.PARTIAL),
        ({JobState.CANCELLED: 3}, JobState.CANCELLED),
        ({JobState.FAILED: 3}, JobState.FAILED),
        ({}, JobState.SUCCEEDED),
    ],
)
def test_several_jobs_have_one_state_together(states: dict[JobState, int], together: JobState) -> None:
    assert state_of(states) is together
