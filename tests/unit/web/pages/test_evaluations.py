"""Evaluations on the pages and through the API: stored reports, repeated runs of reviewed queries."""

from __future__ import annotations

import io
import json
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.evaluation.test_report import made, part
from tests.unit.web.conftest import PASSWORD, Caller, RecordingNotifier
from tests.unit.web.pages.conftest import Page, Searched, Visitor
from tests.unit.web.pages.test_quality import add_search, mark
from tests.unit.web.pictures import picture

from retllm.db.enums import JobState, Role
from retllm.db.jobs import Job
from retllm.db.people import AuditEntry
from retllm.db.reviews import EvaluationRun
from retllm.db.searches import Candidate, Search
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.evaluation.run import Result
from retllm.evaluation.variants import Variant
from retllm.identity import accounts
from retllm_web.http.services import Services


@pytest.fixture(scope="module")
def report() -> dict:
    """What `retllm eval flickr30k --ablate` writes."""
    return made(
        "flickr30k",
        [
            Result(Variant("all", 5), "t2i", [part("t2i", 6, 8)]),
            Result(Variant("k 3", 3), "t2i", [part("t2i", 6, 7)]),
            Result(Variant("<mode>", 5, mode="choice"), "t2i", [], skipped="It can't <choose>."),
        ],
    )


def _upload(reader: Visitor, content: bytes, name: str = "") -> Page:
    reader.get("/quality/runs")
    return reader.send("/quality/runs", report=(io.BytesIO(content), "result.json"), name=name)


def test_a_report_is_uploaded_shown_with_charts_and_deleted(reader: Visitor, report: dict, served: Services) -> None:
    page = _upload(reader, json.dumps(report).encode())
    assert page.one("h1").text == "flickr30k, seed 7"
    row = page.all("tr")[1].text
    assert row.startswith("all 5 60.00 80.00")
    assert row.endswith("81.80")
    assert "It can't <choose>." in page.text
    figures = [one.text for one in page.all("figure", class_="chart")]
    assert len(figures) == 2
    assert "Recall@1 of every variant" in figures[0]
    assert "80.00 %" in figures[0]
    assert "flickr30k, seed 7" in reader.get("/quality").text
    listed = reader.get("/quality/runs")
    (link,) = [one for one in listed.all("a") if one.text == "flickr30k, seed 7"]
    page = reader.get(link.attributes["href"] or "")
    page = reader.send(f"{page.path}/delete")
    assert "” deleted." in page.text
    assert "No evaluations yet" in page.text
    with served.sessions() as session:
        actions = [one.action for one in session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id))]
    assert actions[-2:] == ["evaluation added", "evaluation deleted"]


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"[[[[", b'{"benchmark": 1}'])
def test_an_invalid_report_is_rejected_next_to_its_field(reader: Visitor, content: bytes, served: Services) -> None:
    page = _upload(reader, content, name="mine")
    assert page.status == 422
    assert "result.json" in page.one("div", id="report-problem").text
    assert page.one("input", id="name").attributes["value"] == "mine"
    with served.sessions() as session:
        assert session.scalars(sa.select(EvaluationRun)).all() == []


def test_everyone_reads_reports_but_only_their_uploader_or_an_administrator_deletes_them(
    app: Flask, ada: Caller, bob: Caller, root: Caller, report: dict, served: Services
) -> None:
    keys = []
    for number in range(2):
        answer = ada.post("/evaluations", json={"name": f"run {number}", "report": report})
        assert answer.status_code == 201
        assert answer.headers["Location"] == f"/api/v1/evaluations/{answer.json['id']}"
        keys.append(answer.json["id"])
    read = bob.get(f"/evaluations/{keys[0]}").json
    assert read["report"]["variants"][0]["fine"]["r1"] == 0.8
    assert (read["source"], read["user_name"], read["outcome"]) == ("uploaded", "ada", None)
    assert bob.delete(f"/evaluations/{keys[0]}").status_code == 403
    assert root.delete(f"/evaluations/{keys[0]}").status_code == 204
    assert ada.delete(f"/evaluations/{keys[1]}").status_code == 204
    assert ada.get(f"/evaluations/{keys[1]}").status_code == 404
    with transaction(served.sessions) as session:
        accounts.create_user(session, "vera", PASSWORD, Role.VIEWER)
    vera = Visitor(app.test_client())
    vera.log_in("vera")
    page = vera.get("/quality/runs")
    assert not page.all("form", action="/quality/runs")
    answer = vera.client.post(
        "/quality/runs",
        data={"csrf_token": vera.token(), "report": (io.BytesIO(json.dumps(report).encode()), "r.json")},
        follow_redirects=True,
    )
    assert "Ask an administrator" in Page(answer).text


def test_evaluations_are_paged(ada: Caller, report: dict) -> None:
    keys = [ada.post("/evaluations", json={"report": report}).json["id"] for _ in range(3)]
    first = ada.get("/evaluations?limit=2").json
    second = ada.get(f"/evaluations?limit=2&after={first['next']}").json
    assert [one["id"] for one in first["evaluations"] + second["evaluations"]] == keys[::-1]
    assert second["next"] is None


# repeated runs


@pytest.fixture
def two_queries(searched: Searched, served: Services, ada: Caller) -> dict[str, UUID]:
    """Two reviewed queries: one hit and one miss of the fine stage."""
    found = {
        "hit": add_search(served, searched, "hit", [2, 1, 3]),
        "miss": add_search(served, searched, "miss", [1, 2, 3]),
    }
    for key in found.values():
        mark(ada, key, searched.items[1])
    return found


def _finish_search(served: Services, searched: Searched, text: str, final: list[int]) -> UUID:
    """Act like the workers of the newest search for ``text``."""
    with transaction(served.sessions) as session:
        search = session.scalars(sa.select(Search).filter_by(query_text=text).order_by(Search.id.desc())).first()
        assert search is not None
        for rank, item in enumerate(searched.items, start=1):
            session.add(
                Candidate(
                    token=new_id(),
                    search_id=search.id,
                    item_id=item,
                    coarse_rank=rank,
                    final_rank=final.index(rank) + 1,
                )
            )
        search.final_at = sa.func.now()
        session.get_one(Job, search.id).state = JobState.SUCCEEDED
    return search.id


def test_reviewed_queries_are_repeated_and_compared(
    reader: Visitor,
    searched: Searched,
    two_queries: dict[str, UUID],
    served: Services,
    indexed: str,
    notified: RecordingNotifier,
) -> None:
    reader.get(f"/quality/{indexed}")
    page = reader.send(f"/quality/{indexed}/ask", name="wider", scorer="mllm", k="2", mode="true_false", trigger="off")
    assert page.one("h1").text == "wider"
    assert "0 of 2 searches ended" in page.text
    assert "scorer = mllm, k = 2, mode = true_false, trigger = off" in page.text
    run = page.path
    with served.sessions() as session:
        made = session.scalars(sa.select(Search).order_by(Search.id.desc()).limit(2)).all()
        assert {one.query_text for one in made} == {"hit", "miss"}
        assert {(one.k, one.mode, one.injection["trigger"]) for one in made} == {(2, "true_false", "off")}
    assert len(notified.units) == 2
    # the history has one line for both, which leads to them
    (line,) = [row for row in reader.get("/jobs").all("tr") if row.attributes.get("data-run")]
    assert line.text.startswith("wider: 2 searches queued")
    searches = reader.get(f"/jobs?run={line.attributes['data-run']}")
    assert {row.attributes.get("data-key") for row in searches.all("tr")} - {None} == {str(one.id) for one in made}
    _finish_search(served, searched, "hit", [1, 2, 3])
    live = reader.get(f"{run}/live", headers={"X-Requested-With": "fetch"})
    assert live.one("div", id="run").attributes["data-over"] == "false"
    assert "1 of 2 searches ended" in live.text
    newest = _finish_search(served, searched, "miss", [2, 3, 1])
    page = reader.get(f"{run}?show=all")
    assert page.one("div", id="run").attributes["data-over"] == "true"
    rows = {row.text.split()[0]: row.text for row in page.all("tr") if "data-row" in row.attributes}
    assert "hit fine miss" in rows["hit"]
    assert "fine miss hit" in rows["miss"]
    assert f"/compare?of={two_queries['miss']}&of={newest}" in [one.attributes["href"] for one in page.all("a")]
    assert "the difference is not significant" in page.text
    # once ended, later marks and deletions do not change the run
    shown = page.one("div", id="run").text
    with transaction(served.sessions) as session:
        session.execute(sa.text("DELETE FROM judgments"))
    assert reader.get(f"{run}?show=all").one("div", id="run").text == shown


def test_a_repeated_run_is_created_read_and_deleted_through_the_api(
    ada: Caller, bob: Caller, searched: Searched, two_queries: dict[str, UUID], served: Services, indexed: str
) -> None:
    answer = ada.post(f"/collections/{indexed}/evaluations", json={"settings": {"k": 2}})
    assert (answer.status_code, answer.json["source"]) == (201, "reviewed")
    path = f"/evaluations/{answer.json['id']}"
    assert ada.get(path).json["outcome"]["searches"] == {"queued": 2}
    for text in ("hit", "miss"):
        _finish_search(served, searched, text, [2, 1, 3])
    outcome = ada.get(path).json["outcome"]
    assert (outcome["final"], outcome["over"], outcome["shared"], outcome["gain"]) == (True, 2, 2, 0.5)
    assert (outcome["then"]["recall_fine"], outcome["now"]["recall_fine"]) == (0.5, 1)
    assert outcome["now"]["verdicts"] == {"hit": 2}
    assert {UUID(one["before"]) for one in outcome["answers"]} == set(two_queries.values())
    assert bob.get(path).status_code == 404
    assert bob.get("/evaluations").json["evaluations"] == []
    assert bob.delete(path).status_code == 404
    assert ada.delete(path).status_code == 204
    assert len(ada.get(f"/jobs?collection={indexed}").json["jobs"]) == 5


def test_a_run_with_an_invalid_field_creates_no_searches(
    reader: Visitor, two_queries: dict[str, UUID], served: Services, indexed: str, notified: RecordingNotifier
) -> None:
    reader.get(f"/quality/{indexed}")
    for field, value in (
        ("k", "0"),
        ("k", "100000"),
        ("alpha", "2"),
        ("mode", "dance"),
        ("scorer", "third"),
        ("name", "x" * 201),
    ):
        page = reader.send(f"/quality/{indexed}/ask", **{field: value})
        assert page.status == 422, field
        assert page.one("div", id=f"{field}-problem").text, field
    with served.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 3
        assert session.scalars(sa.select(EvaluationRun)).all() == []
    assert notified.units == []


def test_a_repeated_search_has_its_own_copy_of_the_query_picture(
    ada: Caller, searched: Searched, served: Services, indexed: str
) -> None:
    key = add_search(served, searched, "with a picture", [1, 2, 3])
    served.storage.put("queries/first/picture", io.BytesIO(picture("red")))
    with transaction(served.sessions) as session:
        search = session.get_one(Search, key)
        search.query_picture_key, search.query_picture_sha256 = "queries/first/picture", "0" * 64
    mark(ada, key, searched.items[0])
    assert ada.post(f"/collections/{indexed}/evaluations", json={}).status_code == 201
    with served.sessions() as session:
        again = session.scalars(sa.select(Search).order_by(Search.id.desc())).first()
        assert again is not None
        assert again.query_picture_sha256 == "0" * 64
        assert again.query_picture_key not in (None, "queries/first/picture")
        with served.storage.open(again.query_picture_key or "") as copy:
            assert copy.read() == picture("red")


def test_a_rejected_run_stores_no_pictures(
    ada: Caller, searched: Searched, served: Services, indexed: str, tmp_path: Path
) -> None:
    key = add_search(served, searched, "with a picture", [1, 2, 3])
    served.storage.put("queries/first/picture", io.BytesIO(picture("red")))
    with transaction(served.sessions) as session:
        search = session.get_one(Search, key)
        search.query_picture_key, search.query_picture_sha256 = "queries/first/picture", "0" * 64
    mark(ada, key, searched.items[0])
    before = sorted(tmp_path.rglob("picture"))
    refused = ada.post(f"/collections/{indexed}/evaluations", json={"settings": {"k": 100000}})
    assert refused.status_code == 422
    assert sorted(tmp_path.rglob("picture")) == before != []


def test_repeating_queries_requires_editing_rights_in_the_collection(
    ada: Caller, bob: Caller, two_queries: dict[str, UUID], indexed: str, app: Flask
) -> None:
    assert bob.post(f"/collections/{indexed}/evaluations", json={}).status_code == 404
    with transaction(app.extensions["retllm"].sessions) as session:
        session.execute(sa.text("UPDATE collections SET visibility = 'everyone'"))
    assert bob.post(f"/collections/{indexed}/evaluations", json={}).status_code == 403
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    page = stranger.get(f"/quality/{indexed}")
    assert not page.all("form", method="post", action=f"/quality/{indexed}/ask")
    assert "The owner and the editors" in page.text


def test_repeating_queries_requires_a_relevant_mark(ada: Caller, searched: Searched, indexed: str) -> None:
    searched.finish([1, 2, 3])
    mark(ada, searched.id, searched.items[0], relevant=False)
    answer = ada.post(f"/collections/{indexed}/evaluations", json={})
    assert answer.status_code == 409
    assert "relevant mark" in answer.json["error"]["message"]


def test_unknown_runs_return_404_and_invalid_reports_are_rejected(reader: Visitor, ada: Caller, indexed: str) -> None:
    for path in (f"/quality/runs/{indexed}", f"/quality/runs/{indexed}/live"):
        assert reader.get(path).status == 404
    assert ada.get(f"/evaluations/{indexed}").status_code == 404
    assert ada.post("/evaluations", json={"report": {}}).status_code == 422
    assert ada.post("/evaluations", json={"report": {"benchmark": "a\0b"}}).status_code == 422
