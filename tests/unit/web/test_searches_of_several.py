"""The API and the command line search several collections together."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from tests.factories import make_candidate, make_embedding, make_job, make_model, make_score, make_search, store
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture

from retllm.cli import jobs, search
from retllm.db.enums import JobState
from retllm.db.people import AuditEntry
from retllm.db.searches import Search, SearchCollection
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.settings import Settings, public_name
from retllm_web.http.services import Services


def filled(ada: Caller, served: Services, settings: Settings, **collections: list[str]) -> list[str]:
    """Make collections of texts, indexed with one model, and return their keys."""
    keys = []
    for name, texts in collections.items():
        key = str(ada.post("/collections", json={"name": name}).json["id"])
        items = {"items": [{"text": text} for text in texts]}
        assert ada.post(f"/collections/{key}/items?index=false", json=items).json["added"] == len(texts)
        keys.append(key)
    with transaction(served.sessions) as session:
        model = make_model(public_name(settings.embedder_name))
        items_of = sa.select(Item).where(Item.collection_id.in_(map(uuid.UUID, keys)))
        weight = settings.item_image_weight
        embeddings = [make_embedding(item, model.id, image_weight=weight) for item in session.scalars(items_of)]
        store(session, model, *embeddings)
    return keys


@pytest.fixture
def two(ada: Caller, served: Services, settings: Settings) -> list[str]:
    """Two collections that can be searched."""
    return filled(ada, served, settings, Birds=["a robin", "a wren"], Boats=["a dinghy"])


def finished(served: Services, ada: Caller, keys: list[str]) -> str:
    """A search of several collections with all their items in final order."""
    with transaction(served.sessions) as session:
        job = make_job(ada.user.id, None, state=JobState.SUCCEEDED, finished_at=sa.func.now())
        found = make_search(job.id, "a bird", collections=len(keys), final_at=sa.func.now(), coarse_at=sa.func.now())
        items = session.scalars(
            sa.select(Item.id).where(Item.collection_id.in_(map(uuid.UUID, keys))).order_by(Item.id)
        )
        rows: list[Any] = [job, found]
        rows += [SearchCollection(search_id=job.id, collection_id=uuid.UUID(key)) for key in keys]
        for rank, item in enumerate(items, start=1):
            rows.append(make_candidate(job.id, item, rank, final_rank=rank))
            rows.append(make_score(job.id, item, 1 - rank / 10))
        store(session, *rows)
    return str(job.id)


def test_a_search_names_its_collections(ada: Caller, two: list[str]) -> None:
    answer = ada.post("/searches", json={"text": "a bird", "collections": two})
    assert answer.status_code == 202
    job = answer.json
    assert (job["collection_id"], job["collection_name"], job["kind"]) == (None, "2 collections", "search")
    found = ada.get(f"/searches/{job['id']}").json
    assert [(one["id"], one["name"]) for one in found["collections"]] == [(two[0], "Birds"), (two[1], "Boats")]
    assert found["hidden_collections"] == 0
    assert job["id"] in {row["id"] for row in ada.get("/jobs?kind=search").json["jobs"]}


def test_all_are_recorded(ada: Caller, two: list[str], served: Services) -> None:
    job = ada.post("/searches", json={"text": "a bird", "collections": "all"}).json
    assert {one["id"] for one in ada.get(f"/searches/{job['id']}").json["collections"]} == set(two)
    with served.sessions() as session:
        (entry,) = session.scalars(sa.select(AuditEntry).filter_by(target_id=uuid.UUID(job["id"])))
    assert (entry.collection_id, entry.target) == (None, "a bird")


def test_a_request_for_one_collection_is_a_search_of_it(ada: Caller, two: list[str]) -> None:
    key = {"Idempotency-Key": "k"}
    first = ada.post("/searches", json={"text": "a bird", "collections": [two[0], two[0]]}, headers=key).json
    assert (first["collection_id"], first["collection_name"]) == (two[0], "Birds")
    again = ada.post(f"/collections/{two[0]}/searches", json={"text": "a bird"}, headers=key).json
    assert again["id"] == first["id"]


def test_a_query_picture_is_sent_in_a_form(ada: Caller, two: list[str], served: Services) -> None:
    query = json.dumps({"collections": two})
    data = {"query": query, "picture": (io.BytesIO(picture("red")), "red.png")}
    answer = ada.post("/searches", data=data, content_type="multipart/form-data")
    assert answer.status_code == 202
    with served.sessions() as session:
        assert session.get_one(Search, uuid.UUID(answer.json["id"])).query_picture_key is not None


@pytest.mark.parametrize(
    ("collections", "message"),
    [([], "at least 1"), ("some", "Input should be 'all'"), (["x"], "valid UUID"), (None, "Input should be"), (5, "")],
)
def test_a_request_without_valid_collections_is_refused(ada: Caller, collections: Any, message: str) -> None:
    answer = ada.post("/searches", json={"text": "a bird", "collections": collections})
    assert answer.status_code == 422
    assert message in answer.json["error"]["message"]
    assert len(answer.json["error"]["detail"]["fields"]) == 1


def test_a_missing_list_is_refused(ada: Caller) -> None:
    answer = ada.post("/searches", json={"text": "a bird"})
    assert (answer.status_code, answer.json["error"]["detail"]["fields"][0]["field"]) == (422, "collections")


def test_the_collection_of_another_account_is_not_found(ada: Caller, bob: Caller, two: list[str]) -> None:
    private = bob.post("/collections", json={"name": "Bob's"}).json["id"]
    answer = ada.post("/searches", json={"text": "a bird", "collections": [*two, private]})
    missing = ada.post("/searches", json={"text": "a bird", "collections": [*two, str(uuid.uuid4())]})
    assert (answer.status_code, missing.status_code) == (404, 404)


def test_what_was_found_elsewhere_is_neither_shown_nor_exported(
    ada: Caller, bob: Caller, two: list[str], served: Services
) -> None:
    ada.post(f"/collections/{two[1]}/members", json={"name": "bob", "role": "viewer"})
    job = finished(served, ada, two)
    assert len(ada.get(f"/searches/{job}").json["candidates"]) == 3
    seen = bob.get(f"/searches/{job}").json
    assert [(row["text"], row["collection_name"]) for row in seen["candidates"]] == [("a dinghy", "Boats")]
    assert seen["hidden_collections"] == 1
    exported = bob.get("/jobs/export?format=json&rows=results").get_data(as_text=True)
    assert "a dinghy" in exported
    assert "robin" not in exported
    hidden = next(row["item_id"] for row in ada.get(f"/searches/{job}").json["candidates"] if row["text"] == "a wren")
    assert bob.put(f"/searches/{job}/judgments/{hidden}", json={"relevant": True}).status_code == 404
    assert ada.put(f"/searches/{job}/judgments/{hidden}", json={"relevant": True}).status_code == 200
    assert bob.get(f"/searches/{job}/judgments").json["judgments"] == []


def test_the_command_searches_several_collections(run: Run, ada: Caller, two: list[str]) -> None:
    done = run(search.search, "--collection", "Birds", "--collection", two[1], "a bird")
    assert done.exit_code == 0
    job = lines(done.output)[-1]
    assert len(ada.get(f"/searches/{job}").json["collections"]) == 2
    every = run(search.search, "--all-collections", "a bird", "--json")
    assert json.loads(lines(every.output)[-1])["collection_name"] == "2 collections"


@pytest.mark.parametrize(
    "arguments",
    [["Birds", "a bird", "--all-collections"], ["--collection", "Birds", "--all-collections", "a bird"], []],
)
def test_the_command_takes_collections_in_one_way(run: Run, arguments: list[str]) -> None:
    done = run(search.search, *arguments)
    assert done.exit_code == 2
    assert "collection" in done.output


def test_the_table_of_results_has_the_collections(run: Run, ada: Caller, two: list[str], served: Services) -> None:
    shown = run(jobs.jobs, "show", finished(served, ada, two))
    head, *rows = lines(shown.output)[:4]
    assert head.split()[-1] == "collection"
    assert [row.count("Birds") + row.count("Boats") for row in rows] == [1, 1, 1]
