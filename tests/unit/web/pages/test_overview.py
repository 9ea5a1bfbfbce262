"""The overview, limited to what the account may see."""

from __future__ import annotations

import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor

from retllm.db.enums import JobState
from retllm.db.jobs import Job
from retllm.db.session import transaction


def _figures(page: Page) -> list[str]:
    (figures,) = page.all("ul", class_="figures")
    found = [e.text for e in page.all("li") if e.text and e.text in figures.text]
    return found[: figures.text.count("job") + 2]


def test_an_empty_platform_shows_what_to_do_next(reader: Visitor) -> None:
    page = reader.get("/")
    assert "No collections yet" in page.text
    assert "No worker is running" in page.text
    assert "No job failed, and no upload lacks files." in page.text
    assert "No data yet." not in page.one("section", aria_labelledby="failures-title").text


def test_the_overview_shows_counts_and_charts_of_ended_jobs(reader: Visitor, searched: Searched) -> None:
    searched.finish([1, 2, 3])
    page = reader.get("/")
    figures = _figures(page)
    assert figures[:2] == ["1 collection", "3 items 3 texts"]
    assert "1 job succeeded" in figures
    assert "1 job succeeded, 0 failed or partially succeeded, 0 cancelled; 0 items embedded." in page.text
    assert "Duration of 1 search: median" in page.text
    titles = [e.text for e in page.all("figcaption")]
    assert titles[0] == "Jobs that ended"
    assert len(page.one("details", id="numbers-jobs").text.split("UTC")) == 2


def test_the_time_window_is_taken_from_the_url(reader: Visitor) -> None:
    page = reader.get("/?window=7d")
    assert [e.text for e in page.all("a", aria_current="true")] == ["the last 7 days"]
    assert page.one("div", data_over="false").attributes["data-live"] == "/overview/live?window=7d"
    assert [e.text for e in reader.get("/?window=x").all("a", aria_current="true")] == ["the last 24 hours"]


def test_failures_are_linked_and_shown_only_to_accounts_with_access(
    app: OpenAPI, reader: Visitor, searched: Searched, bob: Caller
) -> None:
    with transaction(searched.served.sessions) as session:
        values = {"state": JobState.FAILED, "error": "no GPU", "finished_at": sa.func.now()}
        session.execute(sa.update(Job).where(Job.id == searched.id).values(**values))
    page = reader.get("/")
    told = page.one("section", aria_labelledby="failures-title").text
    assert "Search: <b>a small bird</b> in Birds, failed just now no GPU" in told
    assert page.all("a", href=f"/jobs/{searched.id}")
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    page = stranger.get("/")
    assert "no GPU" not in page.text
    assert "0 collections" in page.text
    assert "0 jobs failed" in page.text


def test_waiting_units_without_a_worker_are_reported(reader: Visitor, texts: str, ada: Caller) -> None:
    ada.post(f"/collections/{texts}/index")
    assert "No worker serves the queue embed, and 1 unit is waiting." in reader.get("/").text
