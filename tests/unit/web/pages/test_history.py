"""The history's pages: filters in the address, saved views, bulk actions."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor, hidden_fields
from tests.unit.web.pages.past_searches import items_of, store_search

from retllm.db.enums import JobState, MemberRole
from retllm.db.people import CollectionMember, SavedView
from retllm.db.session import transaction
from retllm.history import listing
from retllm_web.actions import bulk
from retllm_web.http.services import Services


def _listed(page: Page) -> list[str]:
    return [row.attributes["data-key"] or "" for row in page.all("tr") if "data-key" in row.attributes]


# filters and counts


def test_state_counts_follow_all_filters_but_the_state_filter(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    for state in (JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
        store_search(served, ada.user.id, indexed, "a wren", [], state)
    store_search(served, ada.user.id, indexed, "a crow", [], JobState.FAILED)
    page = reader.get("/jobs?text=wren&state=failed&state=cancelled")
    counts = {
        str(e.attributes["for"]).removeprefix("f-state-"): int(e.text.split()[-1])
        for e in page.all("label")
        if str(e.attributes.get("for")).startswith("f-state-")
    }
    assert counts == {"queued": 0, "running": 0, "succeeded": 2, "partial": 0, "failed": 1, "cancelled": 1}
    assert len(_listed(page)) == 2
    assert "All 2 that match the filter" in page.text


def test_a_page_compares_some_searches_with_the_text_and_leads_to_older_ones(
    reader: Visitor, indexed: str, ada: Caller, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest = store_search(served, ada.user.id, indexed, "a wren", [])
    for _ in range(3):
        store_search(served, ada.user.id, indexed, "a crow", [])
    monkeypatch.setattr(listing, "MAX_COMPARED", 3)
    page = reader.get("/jobs?text=wren")
    assert _listed(page) == []
    assert "The newest 3 searches were looked at" in page.text
    (older,) = [e for e in page.all("a") if e.attributes.get("rel") == "next"]
    page = reader.get(str(older.attributes["href"]))
    assert _listed(page) == [oldest]
    assert "There are older ones" not in page.text
    crows = reader.get("/jobs?text=crow")
    assert len(_listed(crows)) == 3
    assert "All 3+ that match the filter" in crows.text
    answer = ada.get("/jobs?text=wren").json
    assert answer["jobs"] == []
    assert [job["id"] for job in ada.get(f"/jobs?text=wren&after={answer['next']}").json["jobs"]] == [oldest]


def test_a_row_shows_the_query_and_the_best_score(reader: Visitor, searched: Searched) -> None:
    searched.score(3, 0.75)
    searched.finish([3, 1, 2])
    page = reader.get("/jobs?kind=search")
    (row,) = [e.text for e in page.all("tr") if "data-key" in e.attributes]
    assert "Search: <b>a small bird</b>" in row
    assert "score 0.750" in row
    assert "took" in row


def test_scores_of_several_scorers_name_theirs(reader: Visitor, indexed: str, ada: Caller, served: Services) -> None:
    items = items_of(served, indexed)
    first = store_search(served, ada.user.id, indexed, "a bird", items)
    assert "by s" not in _row(reader, first)
    second = store_search(served, ada.user.id, indexed, "a bird", items, scorer="another")
    assert "by s" in _row(reader, first)
    assert "by another" in _row(reader, second)
    compared = reader.get(f"/compare?of={first}&of={second}").text
    assert "scored by s" in compared
    assert "scored by another" in compared


def _row(reader: Visitor, search: str) -> str:
    page = reader.get("/jobs?kind=search")
    return page.one("tr", data_key=search).text


def test_invalid_filters_are_ignored_but_an_unknown_collection_returns_404(reader: Visitor, searched: Searched) -> None:
    for query in ("kind=film", "state=lost", "from=yesterday", "to=2026-02-31", "text=%00", "person="):
        assert _listed(reader.get(f"/jobs?{query}")) == [str(searched.id)]
    assert reader.get("/jobs?collection=x").status == 404
    assert reader.get(f"/jobs?collection={uuid.uuid4()}").status == 404


def test_the_account_filter_lists_only_accounts_that_the_user_may_see(
    app: Flask, reader: Visitor, indexed: str, bob: Caller, root: Caller
) -> None:
    def offered(visitor: Visitor) -> list[str]:
        options = visitor.get("/jobs").all("option")
        return [str(e.attributes["value"]) for e in options if e.attributes["value"] in ("ada", "bob", "root")]

    assert offered(reader) == ["ada"]
    admin = Visitor(app.test_client())
    admin.log_in("root")
    assert offered(admin) == ["ada", "bob", "root"]


# saved views


def test_a_view_is_saved_opened_replaced_and_deleted(reader: Visitor, searched: Searched, served: Services) -> None:
    page = reader.get("/jobs?state=running&state=failed&text=%3Cb%3E&colour=red&from=")
    address = hidden_fields(page, "/jobs/views")["address"][0]
    page = reader.send("/jobs/views", name="  At   work ", address=f"{address}&colour=red")
    assert "View “At work” saved." in page.text
    (link,) = [e.attributes["href"] or "" for e in page.all("a") if e.text == "At work"]
    assert link == "/jobs?state=running&state=failed&text=%3Cb%3E"
    assert _listed(reader.get(link)) == [str(searched.id)]
    # the same name gets the newer filter
    reader.send("/jobs/views", name="At work", address="state=failed")
    with served.sessions() as session:
        view = session.scalars(sa.select(SavedView)).one()
    assert view.address == "state=failed"
    reader.get("/jobs")
    assert "At work" not in reader.send(f"/jobs/views/{view.id}/delete").text.replace("View deleted", "")


def test_saved_views_are_private_to_their_owner(app: Flask, reader: Visitor, bob: Caller, served: Services) -> None:
    reader.get("/jobs?state=failed")
    reader.send("/jobs/views", name="Failed", address="state=failed")
    with served.sessions() as session:
        key = session.scalars(sa.select(SavedView.id)).one()
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    assert "Failed" not in stranger.get("/jobs").text
    stranger.client.post(f"/jobs/views/{key}/delete", data={"csrf_token": stranger.token()})
    assert "Failed" in reader.get("/jobs").text


@pytest.mark.parametrize("name", ["", "   ", "x" * 61])
def test_a_view_without_a_valid_name_is_rejected(reader: Visitor, name: str, served: Services) -> None:
    reader.get("/jobs?state=failed")
    page = reader.send("/jobs/views", name=name, address="state=failed")
    assert "Enter a name" in page.one("div", role="alert").text
    with served.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(SavedView)) == 0


# bulk actions


def test_selected_jobs_are_deleted_after_confirmation_and_running_ones_are_skipped(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    done = [store_search(served, ada.user.id, indexed, f"{n}", []) for n in range(3)]
    running = store_search(served, ada.user.id, indexed, "now", [], JobState.RUNNING)
    page = reader.get(f"/jobs/confirm?deed=delete&of={done[0]}&of={done[1]}&of={running}")
    assert page.one("h1").text == "Delete 2 jobs?"
    assert "1: still running; cancel them first" in page.text
    assert len(_listed(reader.get("/jobs"))) == 4, "asking does nothing"
    page = reader.get(f"/jobs/confirm?deed=delete&of={done[0]}&of={done[1]}&of={running}")
    page = reader.send("/jobs/confirm", **hidden_fields(page, "/jobs/confirm"))
    assert "2 jobs were deleted." in page.text
    assert "1 was not deleted: 1 is still running" in page.text
    assert _listed(page) == [running, done[2]]


def test_a_bulk_deletion_of_all_matches_skips_jobs_created_after_the_confirmation_page(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    kept = store_search(served, ada.user.id, indexed, "a wren", [])
    for _ in range(2):
        store_search(served, ada.user.id, indexed, "a robin", [])
    page = reader.get("/jobs/confirm?deed=delete&all=1&text=robin")
    assert page.one("h1").text == "Delete 2 jobs?"
    later = store_search(served, ada.user.id, indexed, "a robin", [])
    page = reader.send("/jobs/confirm", **hidden_fields(page, "/jobs/confirm"))
    assert "2 jobs were deleted." in page.text
    assert _listed(page) == [later], "back on the same filter"
    assert _listed(reader.get("/jobs")) == [later, kept]


def test_a_bulk_action_above_the_limit_asks_for_confirmation_of_the_rest(
    reader: Visitor, indexed: str, ada: Caller, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    monkeypatch.setattr(bulk, "MAX", 2)
    for n in range(3):
        store_search(served, ada.user.id, indexed, f"{n}", [], JobState.FAILED)
    page = reader.get("/jobs/confirm?deed=delete&all=1&state=failed")
    page = reader.send("/jobs/confirm", **hidden_fields(page, "/jobs/confirm"))
    assert "2 jobs were deleted." in page.text
    assert page.one("h1").text == "Delete 1 job?"
    page = reader.send("/jobs/confirm", **hidden_fields(page, "/jobs/confirm"))
    assert "1 job was deleted." in page.text
    assert "No jobs match this filter" in page.text


def test_a_bulk_action_is_counted_among_the_newest_jobs_and_leads_to_older_ones(
    reader: Visitor, indexed: str, ada: Caller, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_COMPARED", 2)
    store_search(served, ada.user.id, indexed, "a robin", [], JobState.RUNNING)
    for _ in range(2):
        store_search(served, ada.user.id, indexed, "a wren", [])
    assert reader.get("/jobs/confirm?deed=delete&all=1").one("h1").text == "Delete 2+ jobs?"
    for query in ("deed=cancel&all=1", "deed=cancel&all=1&text=robin"):
        page = reader.get(f"/jobs/confirm?{query}")
        assert "Nothing to do" in page.text
        (older,) = [str(link.attributes["href"]) for link in page.all("a") if link.text == "Look at older jobs"]
        page = reader.get(older)
        assert page.one("h1").text == "Cancel 1 job?"
        assert "Look at older jobs" not in page.text


def test_unfinished_jobs_are_cancelled_and_cancelled_jobs_are_retried_in_bulk(
    reader: Visitor, texts: str, ada: Caller
) -> None:
    keys = [ada.post(f"/collections/{texts}/index").json["id"] for _ in range(2)]
    page = reader.get("/jobs/confirm?deed=cancel&all=1")
    page = reader.send("/jobs/confirm", **hidden_fields(page, "/jobs/confirm"))
    assert "2 jobs were cancelled." in page.text
    assert "Nothing to do" in reader.get("/jobs/confirm?deed=cancel&all=1").text
    page = reader.get(f"/jobs/confirm?deed=retry&of={keys[0]}")
    page = reader.send("/jobs/confirm", **hidden_fields(page, "/jobs/confirm"))
    assert "1 job was retried." in page.text
    assert {job["state"] for job in ada.get("/jobs").json["jobs"]} == {"queued", "cancelled"}


def test_jobs_of_others_are_skipped_and_counted(
    app: Flask, indexed: str, ada: Caller, bob: Caller, served: Services
) -> None:
    for n in range(2):
        store_search(served, ada.user.id, indexed, f"{n}", [])
    with transaction(served.sessions) as session:
        member = CollectionMember(collection_id=uuid.UUID(indexed), user_id=bob.user.id, role=MemberRole.VIEWER)
        session.add(member)
    own = store_search(served, bob.user.id, indexed, "bob's", [])
    visitor = Visitor(app.test_client())
    visitor.log_in("bob")
    page = visitor.get("/jobs/confirm?deed=delete&all=1")
    assert page.one("h1").text == "Delete 1 job?"
    assert "2: started by others" in page.text
    page = visitor.send("/jobs/confirm", **hidden_fields(page, "/jobs/confirm"))
    assert own not in _listed(page)
    assert len(_listed(page)) == 2


def test_a_bulk_action_without_a_valid_selection_does_nothing(reader: Visitor, searched: Searched) -> None:
    page = reader.get("/jobs/confirm?deed=delete&kind=search")
    assert "Select jobs first" in page.text
    assert _listed(page) == [str(searched.id)]
    assert reader.get("/jobs/confirm?deed=delete&of=x").status == 404
    assert _listed(reader.get("/jobs/confirm?deed=destroy&all=1")) == [str(searched.id)]


def test_only_a_finished_job_is_deleted(reader: Visitor, searched: Searched) -> None:
    reader.get("/jobs")
    refused = Page(
        reader.client.post(f"/jobs/{searched.id}/delete", data={"csrf_token": reader.token()}, follow_redirects=True)
    )
    assert "cancel it first" in refused.one("div", role="alert").text
    searched.finish([1, 2, 3])
    gone = reader.client.post(f"/jobs/{searched.id}/delete", data={"csrf_token": reader.token()}, follow_redirects=True)
    assert "Job deleted." in Page(gone).text
    assert reader.get(f"/jobs/{searched.id}").status == 404


def test_the_export_contains_the_filtered_jobs(reader: Visitor, indexed: str, ada: Caller, served: Services) -> None:
    store_search(served, ada.user.id, indexed, "a robin", [])
    store_search(served, ada.user.id, indexed, "a wren", [])
    page = reader.get("/jobs?text=wren")
    links = [str(e.attributes["href"]) for e in page.all("a") if "download" in e.attributes]
    assert len(links) == 4
    (csv,) = [link for link in links if "rows=jobs" in link and "format=csv" in link]
    lines = reader.client.get(csv).get_data(as_text=True).splitlines()
    assert len(lines) == 2
    assert "a wren" in lines[1]
