"""The history through the API: filters, deletion, exports, and their audit entries."""

from __future__ import annotations

import csv
import io
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture

from retllm.db.enums import ItemKind, JobKind, JobState, MemberRole, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.people import AuditEntry, CollectionMember
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.db.tables import Item, new_id
from retllm.fine.injection import Injection
from retllm.search import export
from retllm.search.submit import question_of
from retllm_web.actions import bulk
from retllm_web.http.services import Services


def _job_id_at(moment: datetime) -> uuid.UUID:
    """Return a key of a job created at that time."""
    return uuid.UUID(int=(int(moment.timestamp() * 1000) << 80) | uuid.uuid4().int % (1 << 62) | 7 << 76)


class History:
    """Jobs that are over, stored in the database."""

    def __init__(self, served: Services, ada: Caller) -> None:
        self.served, self.ada = served, ada
        self.collection = uuid.UUID(ada.post("/collections", json={"name": "Birds"}).json["id"])
        texts = {"items": [{"text": "a robin", "name": "=robin()"}, {"text": "a wren", "name": "wren"}]}
        assert ada.post(f"/collections/{self.collection}/items?index=false", json=texts).json["added"] == 2
        with transaction(served.sessions) as session:
            self.items = list(session.scalars(sa.select(Item.id).order_by(Item.id)))

    def search(
        self,
        text: str,
        state: JobState = JobState.SUCCEEDED,
        *,
        at: datetime | None = None,
        collection: uuid.UUID | None = None,
        user_id: uuid.UUID | None = None,
        picture_key: str | None = None,
    ) -> str:
        """A search with both items; the second by coarse rank has final rank 1."""
        over = state not in (JobState.QUEUED, JobState.RUNNING)
        with transaction(self.served.sessions) as session:
            job = Job(
                id=_job_id_at(at) if at else new_id(),
                kind=JobKind.SEARCH,
                state=state,
                user_id=user_id or self.ada.user.id,
                collection_id=collection or self.collection,
                params={"text": text},
                finished_at=sa.func.now() if over else None,
            )
            session.add(job)
            session.flush()
            session.add(_search(job.id, text, picture_key))
            session.flush()
            for place, item in enumerate(self.items, start=1):
                final = 3 - place if over else None
                session.add(
                    Candidate(token=new_id(), search_id=job.id, item_id=item, coarse_rank=place, final_rank=final)
                )
                session.flush()
                score = Score(
                    token=new_id(), search_id=job.id, item_id=item, scorer_version="v", score=place / 4, tokens=1
                )
                score.log_odds, score.entropy, score.injected_layer = -1.5, 0.25, 2
                session.add(score)
            done = UnitState.DONE if over else UnitState.READY
            failed = UnitState.DEAD if state in (JobState.FAILED, JobState.PARTIAL) else done
            payload = {"items": [str(item) for item in self.items]}
            session.add(Unit(id=new_id(), job_id=job.id, stage=Stage.FINE, seq=0, payload=payload, state=failed))
        return str(job.id)


def _search(key: uuid.UUID, text: str, picture_key: str | None) -> Search:
    return Search(
        id=key,
        kind=ItemKind.TEXT,
        query_text=text,
        query_picture_key=picture_key,
        query_picture_sha256="aa" if picture_key else None,
        question=question_of(text, None),
        k=2,
        item_kinds=["text"],
        query_image_weight=0.8,
        embedder="e",
        scorer="s",
        scorer_version="v",
        mode="true_false",
        injection=Injection(trigger="off").as_json(),
        tie_decimals=3,
        final_at=sa.func.now(),
        no_match=False,
    )


@pytest.fixture
def history(served: Services, ada: Caller) -> History:
    """A collection with two texts and no job yet."""
    return History(served, ada)


def _ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json["jobs"]]


def _audit_entries(served: Services, action: str) -> list[AuditEntry]:
    with served.sessions() as session:
        return list(session.scalars(sa.select(AuditEntry).filter_by(action=action).order_by(AuditEntry.id)))


# filters


def test_each_filter_returns_the_matching_jobs(ada: Caller, bob: Caller, history: History, served: Services) -> None:
    with transaction(served.sessions) as session:
        member = CollectionMember(collection_id=history.collection, user_id=bob.user.id, role=MemberRole.EDITOR)
        session.add(member)
    robin = history.search("a Robin, 100% red")
    failed = history.search("a wren", JobState.FAILED)
    bobs = history.search("a wren", user_id=bob.user.id)
    index = ada.post(f"/collections/{history.collection}/index").json["id"]
    assert _ids(ada.get("/jobs")) == [index, bobs, failed, robin]
    assert _ids(ada.get("/jobs?text=rOBIN")) == [robin]
    assert _ids(ada.get("/jobs?text=0%25+r")) == [robin]
    assert _ids(ada.get("/jobs?text=%25")) == [robin]
    assert _ids(ada.get("/jobs?text=_")) == []
    assert _ids(ada.get("/jobs?person=bob")) == [bobs]
    assert _ids(ada.get("/jobs?person=nobody")) == []
    assert _ids(ada.get("/jobs?state=failed&state=queued")) == [index, failed]
    assert _ids(ada.get("/jobs?state=succeeded&text=wren&kind=search")) == [bobs]
    assert _ids(ada.get(f"/jobs?collection={uuid.uuid4()}")) == []


def test_since_and_until_are_inclusive_whole_days(ada: Caller, history: History) -> None:
    first = history.search("a", at=datetime(2026, 3, 1, tzinfo=UTC))
    second = history.search("a", at=datetime(2026, 3, 2, 23, 59, 59, 999000, tzinfo=UTC))
    third = history.search("a", at=datetime(2026, 3, 3, tzinfo=UTC))
    assert _ids(ada.get("/jobs?since=2026-03-02")) == [third, second]
    assert _ids(ada.get("/jobs?until=2026-03-02")) == [second, first]
    assert _ids(ada.get("/jobs?since=2026-03-02&until=2026-03-02")) == [second]
    assert _ids(ada.get("/jobs?since=0001-01-01&until=9999-12-31")) == [third, second, first]


@pytest.mark.parametrize(
    "wrong", ["since=0", "since=1700000000", "until=2026-02-30", "since=", "text=a%00", f"text={'x' * 201}", "state="]
)
def test_an_invalid_filter_is_rejected(ada: Caller, wrong: str) -> None:
    assert ada.get(f"/jobs?{wrong}").status_code == 422
    assert ada.get(f"/jobs/export?{wrong}").status_code == 422


# deletion


def test_deleting_a_search_deletes_its_results_and_picture_but_keeps_its_marks(
    ada: Caller, history: History, served: Services
) -> None:
    served.storage.put("queries/q/picture", io.BytesIO(picture()))
    key = history.search("a robin", picture_key="queries/q/picture")
    other = history.search("a wren")
    with transaction(served.sessions) as session:
        question = session.get_one(Search, uuid.UUID(key)).question
        session.add(
            Judgment(
                collection_id=history.collection,
                question=question,
                item_id=history.items[0],
                relevant=True,
                search_id=uuid.UUID(key),
            )
        )
    assert ada.delete(f"/jobs/{key}").status_code == 204
    assert ada.get(f"/jobs/{key}").status_code == 404
    assert ada.delete(f"/jobs/{key}").status_code == 404
    assert not served.storage.exists("queries/q/picture")
    with served.sessions() as session:
        for table in (Search, Candidate, Score, Unit):
            assert session.scalar(sa.select(sa.func.count()).select_from(table)), "the other search keeps its rows"
        assert session.scalars(sa.select(Candidate.search_id).distinct()).all() == [uuid.UUID(other)]
        mark = session.scalars(sa.select(Judgment)).one()
        assert (mark.relevant, mark.search_id) == (True, None)
        assert session.scalar(sa.select(sa.func.count()).select_from(Item)) == 2
    (entry,) = _audit_entries(served, "jobs deleted")
    assert (entry.user_name, entry.collection_id, entry.detail["count"]) == ("ada", history.collection, 1)
    assert entry.detail["jobs"] == [key]


def test_an_unfinished_job_must_be_cancelled_before_it_is_deleted(ada: Caller, history: History) -> None:
    key = ada.post(f"/collections/{history.collection}/index").json["id"]
    answer = ada.delete(f"/jobs/{key}")
    assert answer.status_code == 409
    assert "cancel it first" in answer.json["error"]["message"]
    assert ada.post(f"/jobs/{key}/cancel").status_code == 200
    assert ada.delete(f"/jobs/{key}").status_code == 204


def test_deleting_a_job_of_another_account_requires_editing_rights_in_its_collection(
    ada: Caller, bob: Caller, root: Caller, history: History, served: Services
) -> None:
    keys = [history.search(f"{n}") for n in range(3)]
    assert bob.delete(f"/jobs/{keys[0]}").status_code == 404
    with transaction(served.sessions) as session:
        member = CollectionMember(collection_id=history.collection, user_id=bob.user.id, role=MemberRole.VIEWER)
        session.add(member)
    assert bob.delete(f"/jobs/{keys[0]}").status_code == 403
    with transaction(served.sessions) as session:
        session.execute(sa.update(CollectionMember).values(role=MemberRole.EDITOR))
    assert bob.delete(f"/jobs/{keys[0]}").status_code == 204
    assert root.delete(f"/jobs/{keys[1]}").status_code == 204
    assert _ids(ada.get("/jobs")) == [keys[2]]


# the audit log


def test_each_action_on_a_job_is_logged_once(ada: Caller, history: History, served: Services) -> None:
    for _ in range(2):
        answer = ada.post(f"/collections/{history.collection}/index", headers={"Idempotency-Key": "one"})
        assert answer.status_code == 202
    key = answer.json["id"]
    ada.post(f"/jobs/{key}/cancel")
    ada.post(f"/jobs/{key}/retry")
    for action in ("job submitted", "job cancelled", "job retried"):
        (entry,) = _audit_entries(served, action)
        assert (entry.user_name, str(entry.target_id), entry.target) == ("ada", key, "index job")
        assert entry.collection_id == history.collection
    assert ada.post(f"/jobs/{key}/retry").status_code == 409
    assert len(_audit_entries(served, "job retried")) == 1


# exports


def test_jobs_are_exported_with_their_outcome(ada: Caller, history: History) -> None:
    key = history.search("a robin")
    index = ada.post(f"/collections/{history.collection}/index").json["id"]
    answer = ada.get("/jobs/export")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="jobs.json"'
    first, second = json.loads(answer.text)
    assert (first["job_id"], first["kind"], first["state"], first["query"]) == (index, "index", "queued", None)
    assert (second["job_id"], second["query"], second["person"]) == (key, "a robin", "ada")
    assert (second["best_item"], second["best_score"]) == ("wren", 0.5)
    assert second["seconds"] >= 0
    assert tuple(second) == export.COLUMNS[export.Rows.JOBS]
    assert json.loads(ada.get("/jobs/export?state=failed").text) == []


def test_results_are_exported_in_final_order_with_marks_and_escaped_formulas(
    ada: Caller, history: History, served: Services
) -> None:
    history.search("a robin")
    ada.post(f"/collections/{history.collection}/index")
    with transaction(served.sessions) as session:
        session.add(
            Judgment(
                collection_id=history.collection,
                question=question_of("a robin", None),
                item_id=history.items[0],
                relevant=False,
            )
        )
    answer = ada.get("/jobs/export?rows=results&format=csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    best, second = csv.DictReader(io.StringIO(answer.text))
    assert (best["item"], best["final_rank"], best["coarse_rank"], best["score"]) == ("wren", "1", "2", "0.5")
    assert (best["mark"], second["mark"]) == ("", "not relevant")
    # a number may begin with a minus; a name that looks like a formula must be escaped
    assert best["log_odds"] == "-1.5"
    assert second["item"] == "'=robin()"


def test_an_export_in_several_batches_contains_every_row_once(
    ada: Caller, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BATCH", dict.fromkeys(export.Rows, 2))
    keys = [history.search(f"query {n}") for n in range(5)]
    rows = json.loads(ada.get("/jobs/export").text)
    assert [row["job_id"] for row in rows] == keys[::-1]
    results = json.loads(ada.get("/jobs/export?rows=results").text)
    assert [(row["job_id"], row["final_rank"]) for row in results] == [
        (key, rank) for key in keys[::-1] for rank in (1, 2)
    ]


def test_an_export_omits_jobs_that_the_account_cannot_see(ada: Caller, bob: Caller, history: History) -> None:
    history.search("a robin")
    for rows in ("jobs", "results"):
        assert json.loads(bob.get(f"/jobs/export?rows={rows}").text) == []
        assert len(bob.get(f"/jobs/export?rows={rows}&format=csv").text.splitlines()) == 1


# bulk actions


def test_a_bulk_deletion_skips_jobs_that_cannot_be_deleted_and_reports_why(
    ada: Caller, bob: Caller, app: Any, history: History, served: Services
) -> None:
    done, running = history.search("a"), history.search("b", JobState.RUNNING)
    theirs = uuid.UUID(bob.post("/collections", json={"name": "Open"}).json["id"])
    with transaction(served.sessions) as session:
        session.add(CollectionMember(collection_id=theirs, user_id=ada.user.id, role=MemberRole.VIEWER))
    bobs = history.search("c", collection=theirs, user_id=bob.user.id)
    keys = [uuid.UUID(key) for key in (done, running, bobs, str(uuid.uuid4()))]
    with app.test_request_context():
        tally = bulk.apply_to(ada.user, bulk.BulkAction.DELETE, keys)
    assert tally.done == 1
    assert sorted(tally.refused.values()) == [1, 1, 1]
    assert any("still running" in reason for reason in tally.refused)
    assert any("of another account" in reason for reason in tally.refused)
    assert _ids(ada.get("/jobs")) == [bobs, running]


def test_a_bulk_retry_of_all_matches_resumes_after_its_limit_and_skips_newer_jobs(
    ada: Caller, app: Any, history: History, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    monkeypatch.setattr(bulk, "MAX", 4)
    failed = [history.search(f"{n}", JobState.FAILED) for n in range(5)]
    whole = history.search("whole")
    upto = new_id()
    later = history.search("later", JobState.FAILED)
    filters = bulk.JobFilters()
    with app.test_request_context():
        tally = bulk.apply_to_all(ada.user, bulk.BulkAction.RETRY, filters, upto=upto)
        assert (tally.done, str(tally.after)) == (4, failed[1])
        rest = bulk.apply_to_all(ada.user, bulk.BulkAction.RETRY, filters, upto=upto, after=tally.after)
    assert (rest.done, rest.after) == (1, None)
    states = {job["id"]: job["state"] for job in ada.get("/jobs").json["jobs"]}
    assert {states[key] for key in failed} == {"queued"}
    assert (states[whole], states[later]) == ("succeeded", "failed")
    assert len(_audit_entries(served, "job retried")) == 5


def test_a_bulk_retry_notifies_workers_and_makes_dead_units_ready(
    ada: Caller, app: Any, history: History, served: Services, notified: Any
) -> None:
    keys = [uuid.UUID(history.search(f"{n}", JobState.FAILED)) for n in range(3)]
    with app.test_request_context():
        assert bulk.apply_to(ada.user, bulk.BulkAction.RETRY, keys).done == 3
    assert [unit.stage for unit in notified.units] == [Stage.FINE] * 3
    with served.sessions() as session:
        assert set(session.scalars(sa.select(Unit.state))) == {UnitState.READY}


def test_a_job_is_deleted_even_if_its_picture_cannot_be_deleted(
    ada: Caller, history: History, served: Services, tmp_path: Path
) -> None:
    # its key names a folder that is not empty
    served.storage.put("queries/q/picture/inner", io.BytesIO(b"x"))
    key = history.search("a robin", picture_key="queries/q/picture")
    assert ada.delete(f"/jobs/{key}").status_code == 204
    assert ada.get(f"/jobs/{key}").status_code == 404
