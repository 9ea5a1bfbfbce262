"""The audit log's page and its export."""

from __future__ import annotations

import codecs
import csv
import io
import json
import uuid

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Visitor

from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.identity import audit
from retllm.identity.audit import Action
from retllm_web.http.services import Services
from retllm_web.pages import audit as page_of_audit


@pytest.fixture
def admin(app: OpenAPI, root: Caller) -> Visitor:
    """The administrator in a browser."""
    visitor = Visitor(app.test_client())
    assert visitor.log_in("root").status == 200
    return visitor


def _rows(page: Page) -> list[str]:
    return [row.text for row in page.all("tr")[1:]]


def _csv(visitor: Visitor, query: str = "") -> list[dict[str, str]]:
    answer = visitor.client.get(f"/people/audit.csv{query}")
    assert answer.mimetype == "text/csv"
    assert "attachment" in answer.headers["Content-Disposition"]
    assert answer.data.startswith(codecs.BOM_UTF8)
    return list(csv.DictReader(io.StringIO(answer.get_data().decode("utf-8-sig"))))


def test_logins_are_listed_and_failed_ones_show_name_and_address(app: OpenAPI, admin: Visitor, ada: Caller) -> None:
    guesser = Visitor(app.test_client())
    guesser.log_in("ada", "wrong wrong wrong")
    guesser.log_in("ada")
    entered, refused, first = _rows(admin.get("/people/audit"))
    assert "logged in ada" in entered
    assert "login refused unknown" in refused
    assert "name ada" in refused
    assert guesser.client.environ_base["REMOTE_ADDR"] in refused
    assert "logged in root" in first


def test_a_name_of_no_account_is_kept_nowhere(
    app: OpenAPI, admin: Visitor, ada: Caller, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a password that was typed into the wrong field."""
    Visitor(app.test_client()).log_in("hunter22 hunter22", "ada")
    (refused, *_) = _rows(admin.get("/people/audit"))
    assert "login refused unknown" in refused
    assert "no account" in refused
    assert "hunter22" not in json.dumps(_csv(admin)) + "".join(capsys.readouterr())


def test_filters_from_the_url_are_applied_and_kept_in_the_form(admin: Visitor, served: Services, texts: str) -> None:
    with transaction(served.sessions) as session:
        audit.record(session, None, Action.ITEM_DELETED, target="robin", collection_id=None)
        audit.record(session, None, Action.ITEM_DELETED, target="wren", collection_id=uuid.UUID(texts))
    page = admin.get(f"/people/audit?action=item+deleted&collection={texts}")
    (row,) = _rows(page)
    assert "wren" in row
    assert "Birds" in row
    chosen = [option.attributes["value"] for option in page.all("option") if "selected" in option.attributes]
    assert chosen == ["item deleted", texts]
    assert _rows(admin.get("/people/audit?person=ROOT&action=logged+in"))
    assert "No entries match" in admin.get("/people/audit?person=nobody").text
    assert "No entries match" in admin.get("/people/audit?until=2020-01-01").text
    since = admin.get("/people/audit?since=2020-01-01")
    assert _rows(since)
    assert since.one("input", id="since").attributes["value"] == "2020-01-01"


@pytest.mark.parametrize(
    "query", ["since=0001-01-01", "until=9999-12-31", "since=x", "action=x", "collection=x", "person=%00", "other=1"]
)
def test_invalid_filters_are_ignored(admin: Visitor, query: str) -> None:
    assert _rows(admin.get(f"/people/audit?{query}"))


def test_paging_keeps_the_filter(admin: Visitor, served: Services) -> None:
    with transaction(served.sessions) as session:
        for number in range(60):
            audit.record(session, None, Action.JOB_SUBMITTED, target=f"job {number}")
    page = admin.get("/people/audit?action=job+submitted")
    assert len(_rows(page)) == 50
    (older,) = [link for link in page.all("a") if "Older" in link.text]
    page = admin.get(str(older.attributes["href"]))
    assert len(_rows(page)) == 10
    assert not [link for link in page.all("a") if "Older" in link.text]


def test_entries_of_deleted_collections_are_shown(admin: Visitor, served: Services) -> None:
    with transaction(served.sessions) as session:
        audit.record(session, None, Action.COLLECTION_DELETED, target="Old birds", collection_id=new_id())
    assert "Old birds in a deleted collection" in admin.get("/people/audit?action=collection+deleted").text


def test_user_supplied_values_are_escaped(admin: Visitor, served: Services) -> None:
    with transaction(served.sessions) as session:
        audit.record(session, None, Action.LOGIN_REFUSED, target="<b>x</b>", name="<script>alert(1)</script>", n=[1])
    page = admin.get("/people/audit")
    assert "<b>x</b>" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert not page.all("b")


def test_long_lists_are_collapsed(admin: Visitor, served: Services) -> None:
    with served.sessions.begin() as session:
        audit.record(session, None, Action.JOBS_DELETED, jobs=[f"job-{number}" for number in range(40)])
        audit.record(session, None, Action.JOBS_DELETED, jobs=["job-a", "job-b"])
    page = admin.get("/people/audit")
    (folded,) = page.all("details")
    assert folded.text.startswith("40 job-0, job-1,")
    assert "job-a, job-b" in page.text


def test_the_export_contains_every_matching_entry_across_batches(
    admin: Visitor, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of_audit, "_BATCH", 4)
    with transaction(served.sessions) as session:
        for number in range(8):
            audit.record(session, None, Action.JOB_SUBMITTED, target=f"job {number}", k=number)
    rows = _csv(admin, "?action=job+submitted")
    assert [row["target"] for row in rows] == [f"job {number}" for number in range(7, -1, -1)]
    assert rows[0]["detail"] == '{"k": 7}'
    assert len(_csv(admin)) == 9
    assert _csv(admin, "?person=nobody") == []


def test_the_export_escapes_formulas(admin: Visitor, served: Services) -> None:
    for target in ("=1+1", "+1", "-1", "@x", "\tx", "\rx", 'a "quoted", text\nof two lines'):
        with transaction(served.sessions) as session:
            session.add(AuditEntry(action=Action.LOGGED_IN.value, target=target, user_name="=cmd", detail={}))
    rows = [row for row in _csv(admin) if row["person"] != "root"]
    assert {row["person"] for row in rows} == {"'=cmd"}
    assert rows[0]["target"] == 'a "quoted", text\nof two lines'
    assert [row["target"][0] for row in rows[1:]] == ["'"] * 6
