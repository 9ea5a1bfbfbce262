"""Index and search jobs through the API."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pictures import picture
from tests.unit.web.vectors import embed_items

from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.db.tables import Item, new_id
from retllm.settings import Settings, public_name
from retllm_web.http.services import Services

UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture
def texts(ada: Caller) -> str:
    """A collection of ada's with two texts, not indexed."""
    key = str(ada.post("/collections", json={"name": "Texts"}).json["id"])
    items = {"items": [{"text": "a robin"}, {"text": "a wren"}]}
    assert ada.post(f"/collections/{key}/items?index=false", json=items).json["added"] == 2
    return key


@pytest.fixture
def indexed(texts: str, served: Services, settings: Settings) -> str:
    """The same collection with a vector for each text."""
    embed_items(served, settings, texts, public_name(settings.embedder_name))
    return texts


def _search_by_picture(caller: Caller, key: str, content: bytes, query: Any = None, **headers: str) -> Any:
    data: dict[str, Any] = {"picture": (io.BytesIO(content), "query.png")}
    if query is not None:
        data["query"] = query if isinstance(query, str) else json.dumps(query)
    return caller.post(
        f"/collections/{key}/searches",
        data=data,
        content_type="multipart/form-data",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def _stored_pictures(served: Services) -> int:
    from pathlib import Path

    folder = Path(served.settings.media_url.removeprefix("file://")) / "queries"
    # a picture and what was made of it lie in one folder
    return len({one.parent for one in folder.rglob("*") if one.is_file()})


def test_submitting_an_index_job_stores_it_and_notifies_workers(
    ada: Caller, texts: str, notified: RecordingNotifier
) -> None:
    answer = ada.post(f"/collections/{texts}/index")
    assert answer.status_code == 202
    job = answer.json
    assert answer.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["kind"], job["state"], job["collection_name"], job["user_name"]) == ("index", "queued", "Texts", "ada")
    assert ada.get(f"/jobs/{job['id']}").json == job | {"pauses": []}
    assert [unit.stage for unit in notified.units] == [Stage.EMBED]


def test_an_empty_collection_cannot_be_indexed_or_searched(ada: Caller) -> None:
    key = ada.post("/collections", json={"name": "Empty"}).json["id"]
    for answer in (ada.post(f"/collections/{key}/index"), ada.post(f"/collections/{key}/searches", json={"text": "a"})):
        assert answer.status_code == 409
        assert "empty" in answer.json["error"]["message"]


def test_an_unindexed_collection_cannot_be_searched(ada: Caller, texts: str) -> None:
    answer = ada.post(f"/collections/{texts}/searches", json={"text": "a robin"})
    assert answer.status_code == 409
    assert "not indexed" in answer.json["error"]["message"]
    assert ada.get("/jobs").json["jobs"] == []


def test_a_text_search_is_accepted(ada: Caller, indexed: str, notified: RecordingNotifier) -> None:
    asked = {
        "text": "a robin",
        "k": 2,
        "kinds": ["text"],
        "injection": {"alpha": 0.1, "trigger": "fixed", "fixed_layer": 3},
    }
    answer = ada.post(f"/collections/{indexed}/searches", json=asked)
    assert answer.status_code == 202
    assert [unit.stage for unit in notified.units] == [Stage.COARSE]
    search = ada.get(f"/searches/{answer.json['id']}").json
    assert (search["text"], search["kind"], search["k"], search["kinds"]) == ("a robin", "text", 2, ["text"])
    assert (search["has_picture"], search["provisional"], search["candidates"]) == (False, True, [])
    assert search["injection"]["alpha"] == 0.1
    assert ada.get(f"/searches/{answer.json['id']}/picture").status_code == 404


def test_a_search_returns_its_settings(ada: Caller, indexed: str) -> None:
    asked = {"text": "a", "mode": "verbalized", "adaptive": {"first": 2}, "fusion_weight": 0.5, "trace": True}
    answer = ada.post(f"/collections/{indexed}/searches", json=asked)
    assert answer.status_code == 202
    search = ada.get(f"/searches/{answer.json['id']}").json
    assert {name: search[name] for name in ("mode", "fusion_weight", "trace", "tie_decimals")} == {
        "mode": "verbalized",
        "fusion_weight": 0.5,
        "trace": True,
        "tie_decimals": 2,
    }
    assert search["adaptive"]["first"] == 2
    assert (search["no_match"], search["match_threshold"]) == (None, None)
    again = ada.post(f"/collections/{indexed}/searches", json={"text": "a", "adaptive": True})
    assert ada.get(f"/searches/{again.json['id']}").json["adaptive"]["step"] == 4


def test_an_invalid_adaptive_setting_is_reported_once(ada: Caller, indexed: str) -> None:
    answer = ada.post(f"/collections/{indexed}/searches", json={"text": "a", "adaptive": {"first": 0}})
    (field,) = answer.json["error"]["detail"]["fields"]
    assert field["field"].startswith("adaptive.")
    assert field["field"].endswith(".first")


def test_traces_have_their_own_url_and_are_not_part_of_the_search(
    ada: Caller, bob: Caller, indexed: str, served: Services
) -> None:
    key = ada.post(f"/collections/{indexed}/searches", json={"text": "a", "trace": True}).json["id"]
    trace = {"uncertainty": [0.25, 0.75], "armed_layer": None}
    with transaction(served.sessions) as session:
        search = session.get_one(Search, uuid.UUID(key))
        search.scorer_version = "v"
        one, other = session.scalars(sa.select(Item.id).where(Item.collection_id == uuid.UUID(indexed)))
        for rank, item in enumerate((one, other), start=1):
            session.add(Candidate(token=new_id(), search_id=search.id, item_id=item, coarse_rank=rank, similarity=0.5))
        session.flush()
        session.add(
            Score(
                token=new_id(), search_id=search.id, item_id=one, scorer_version="v", score=0.5, tokens=1, trace=trace
            )
        )
    path = f"/searches/{key}/candidates/{one}/trace"
    assert ada.get(path).json == trace
    assert bob.get(path).status_code == 404
    missing = ada.get(f"/searches/{key}/candidates/{other}/trace")
    assert missing.status_code == 404
    assert "no trace" in missing.json["error"]["message"]
    rows = ada.get(f"/searches/{key}").json["candidates"]
    assert {row["item_id"]: row["has_trace"] for row in rows} == {str(one): True, str(other): False}
    assert all("trace" not in row for row in rows)


def test_the_picture_of_a_search_is_stored_and_hidden_from_other_accounts(
    ada: Caller, indexed: str, bob: Caller
) -> None:
    content = picture("red")
    answer = _search_by_picture(ada, indexed, content, {"text": "darker", "k": 1})
    assert answer.status_code == 202
    key = answer.json["id"]
    search = ada.get(f"/searches/{key}").json
    assert (search["kind"], search["has_picture"], search["text"], search["k"]) == ("image+text", True, "darker", 1)
    shown = ada.get(f"/searches/{key}/picture")
    assert shown.data == content
    assert shown.headers["Content-Type"] == "image/png"
    assert ada.get(f"/searches/{key}/picture", headers={"If-None-Match": shown.headers["ETag"]}).status_code == 304
    for path in (f"/searches/{key}", f"/searches/{key}/picture", f"/jobs/{key}"):
        assert bob.get(path).status_code == 404


def test_a_query_can_consist_of_a_picture_alone(ada: Caller, indexed: str) -> None:
    answer = _search_by_picture(ada, indexed, picture("red", "TIFF"))
    assert answer.status_code == 202
    assert ada.get(f"/searches/{answer.json['id']}").json["kind"] == "image"
    assert ada.get(f"/searches/{answer.json['id']}/picture").headers["Content-Type"] == "image/tiff"


def test_the_query_part_can_be_sent_as_a_file(ada: Caller, indexed: str) -> None:
    data = {"query": (io.BytesIO(b'{"text": "a robin"}'), "query.json")}
    answer = ada.post(f"/collections/{indexed}/searches", data=data, content_type="multipart/form-data")
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"text": ""},
        {"text": "  \n "},
        {"text": 5},
        {"text": "a", "k": 0},
        {"text": "a", "k": -1},
        {"text": "a", "k": 201},
        {"text": "a", "k": "3"},
        {"text": "a", "k": True},
        {"text": "a", "k": 1.5},
        {"text": "a", "kinds": []},
        {"text": "a", "kinds": ["film"]},
        {"text": "a", "query_image_weight": 1.1},
        {"text": "a", "tie_decimals": 13},
        {"text": "a", "tie_decimals": "2"},
        {"text": "a", "query_image_weight": float("nan")},
        {"text": "a", "query_image_weight": 1e400},
        {"text": "a", "injection": {"alpha": 2}},
        {"text": "a", "injection": {"trigger": "often"}},
        {"text": "a", "injection": {"start": 9, "end": 3}},
        {"text": "a", "injection": {"colour": 1}},
        {"text": "a", "mode": "guess"},
        {"text": "a", "adaptive": "yes"},
        {"text": "a", "adaptive": {"first": 0}},
        {"text": "a", "adaptive": {"clear_score": 1e400}},
        {"text": "a", "adaptive": {"colour": 1}},
        {"text": "a", "fusion_weight": -1},
        {"text": "a", "fusion_weight": 101},
        {"text": "a", "trace": "yes"},
        {"text": "a", "colour": "red"},
        {"text": "nul\0"},
        {"text": "x" * 20_001},
    ],
)
def test_an_invalid_query_is_rejected_without_creating_a_job(
    ada: Caller, indexed: str, asked: Any, notified: RecordingNotifier, served: Services
) -> None:
    answer = ada.post(f"/collections/{indexed}/searches", json=asked)
    assert answer.status_code == 422, answer.text
    assert answer.json["error"]["code"] == "invalid_input"
    for field in answer.json["error"]["detail"]["fields"]:
        assert field["field"]
        assert field["message"]
    # a picture needs no text
    without_text = not str(asked.get("text", "x")).strip()
    answer = _search_by_picture(ada, indexed, picture(), asked or {"colour": 1})
    assert answer.status_code == (202 if without_text else 422)
    assert len([unit for unit in notified.units if unit[1] is Stage.COARSE]) == len(ada.get("/jobs").json["jobs"])


def test_a_rejected_search_stores_no_picture(ada: Caller, texts: str, bob: Caller, served: Services) -> None:
    assert _search_by_picture(ada, texts, picture()).status_code == 409  # not indexed
    assert _search_by_picture(ada, texts, picture(), {"k": 0}).status_code == 422
    assert _search_by_picture(ada, texts, picture(), {"k": 201}).status_code == 422
    assert _search_by_picture(ada, texts, picture(), "{").status_code == 422
    assert _search_by_picture(bob, texts, picture()).status_code == 404
    assert _search_by_picture(ada, UNKNOWN_ID, picture()).status_code == 404
    assert _stored_pictures(served) == 0


def test_an_invalid_query_picture_is_rejected_and_not_stored(ada: Caller, indexed: str, served: Services) -> None:
    for content in (b"", b"text", picture()[:50]):
        answer = _search_by_picture(ada, indexed, content)
        assert answer.status_code == 422
        assert answer.json["error"]["code"] == "media_rejected"
    assert _stored_pictures(served) == 0


def test_a_search_form_with_duplicate_or_unknown_parts_is_rejected(ada: Caller, indexed: str) -> None:
    two = [(io.BytesIO(picture()), "a.png"), (io.BytesIO(picture()), "b.png")]
    for data in (
        {"picture": two},
        {"file": (io.BytesIO(picture()), "a.png")},
        {"query": ['{"text": "a"}', '{"text": "b"}']},
        {"text": "a robin"},
    ):
        answer = ada.post(f"/collections/{indexed}/searches", data=data, content_type="multipart/form-data")
        assert answer.status_code == 422, data


def test_an_idempotency_key_returns_the_same_job_and_is_rejected_for_another_request(
    ada: Caller, indexed: str, notified: RecordingNotifier
) -> None:
    headers = {"Idempotency-Key": "one"}
    first, again = (
        ada.post(f"/collections/{indexed}/searches", json={"text": "a robin"}, headers=headers) for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json["id"] == again.json["id"]
    assert len(notified.units) == 1
    other = ada.post(f"/collections/{indexed}/searches", json={"text": "a wren"}, headers=headers)
    assert other.status_code == 409
    assert ada.post(f"/collections/{indexed}/index", headers=headers).status_code == 409
    assert ada.post(f"/collections/{indexed}/index", headers={"Idempotency-Key": "two"}).status_code == 202


def test_a_repeated_search_by_picture_stores_one_picture(ada: Caller, indexed: str, served: Services) -> None:
    first = _search_by_picture(ada, indexed, picture("red"), Idempotency_Key="one")
    again = _search_by_picture(ada, indexed, picture("red"), Idempotency_Key="one")
    assert first.json["id"] == again.json["id"]
    assert _search_by_picture(ada, indexed, picture("blue"), Idempotency_Key="one").status_code == 409
    assert _stored_pictures(served) == 1
    assert ada.get(f"/searches/{first.json['id']}/picture").data == picture("red")


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "é"])
def test_an_invalid_idempotency_key_is_rejected(ada: Caller, texts: str, key: str) -> None:
    answer = ada.post(f"/collections/{texts}/index", headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert answer.json["error"]["detail"]["fields"][0]["field"] == "Idempotency-Key"


def test_jobs_are_paged_newest_first_and_filtered(ada: Caller, bob: Caller, indexed: str) -> None:
    made = [ada.post(f"/collections/{indexed}/searches", json={"text": f"q{n}"}).json["id"] for n in range(4)]
    made.append(ada.post(f"/collections/{indexed}/index").json["id"])
    first = ada.get("/jobs?limit=3").json
    rest = ada.get(f"/jobs?limit=3&after={first['next']}").json
    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == made[::-1]
    assert rest["next"] is None
    assert [job["id"] for job in ada.get("/jobs?kind=index").json["jobs"]] == made[-1:]
    assert len(ada.get(f"/jobs?state=queued&kind=search&collection={indexed}").json["jobs"]) == 4
    assert ada.get(f"/jobs?collection={UNKNOWN_ID}").json["jobs"] == []
    assert bob.get("/jobs").json["jobs"] == []
    for wrong in ("kind=film", "state=lost", "collection=x", "limit=0", "colour=red"):
        assert ada.get(f"/jobs?{wrong}").status_code == 422


def test_a_job_can_be_cancelled_and_then_retried(
    ada: Caller, texts: str, notified: RecordingNotifier, bob: Caller
) -> None:
    key = ada.post(f"/collections/{texts}/index").json["id"]
    assert bob.post(f"/jobs/{key}/cancel").status_code == 404
    assert ada.post(f"/jobs/{key}/retry").status_code == 409
    cancelled = ada.post(f"/jobs/{key}/cancel")
    assert (cancelled.status_code, cancelled.json["state"]) == (200, "cancelled")
    assert ada.post(f"/jobs/{key}/cancel").status_code == 200
    notified.units.clear()
    again = ada.post(f"/jobs/{key}/retry")
    assert again.status_code == 202
    assert again.json["state"] in ("queued", "running")
    assert len(notified.units) == 1
    assert bob.post(f"/jobs/{key}/retry").status_code == 404


def test_a_succeeded_job_cannot_be_cancelled_or_retried(ada: Caller, texts: str, served: Services) -> None:
    key = ada.post(f"/collections/{texts}/index").json["id"]
    with transaction(served.sessions) as session:
        job = session.get_one(Job, uuid.UUID(key))
        job.state, job.finished_at = JobState.SUCCEEDED, sa.func.now()
        session.execute(sa.update(Unit).values(state=UnitState.DONE))
    for what in ("cancel", "retry"):
        answer = ada.post(f"/jobs/{key}/{what}")
        assert answer.status_code == 409
        assert answer.json["error"]["code"] == "conflict"


def test_an_index_job_is_not_found_as_a_search(ada: Caller, texts: str) -> None:
    key = ada.post(f"/collections/{texts}/index").json["id"]
    assert ada.get(f"/searches/{key}").status_code == 404
    assert ada.get(f"/searches/{key}/picture").status_code == 404


def test_a_job_is_accepted_even_if_workers_cannot_be_notified(
    ada: Caller, texts: str, notified: RecordingNotifier, monkeypatch: pytest.MonkeyPatch, served: Services
) -> None:
    from retllm.queue.notifications import Notifier

    away = Notifier("redis://127.0.0.1:1/0")
    monkeypatch.setattr(notified, "notify", away.notify)
    answer = ada.post(f"/collections/{texts}/index")
    assert answer.status_code == 202
    with transaction(served.sessions) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Unit)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(Search)) == 0
