"""Search by example through the API."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture
from tests.unit.web.vectors import embed_items

from retllm.settings import Settings, public_name
from retllm_web.http.services import Services


@pytest.fixture
def walls(ada: Caller, served: Services, settings: Settings) -> str:
    """A collection of a captioned picture and a text, indexed enough for a search."""
    key = str(ada.post("/collections", json={"name": "Walls"}).json["id"])
    files = [(io.BytesIO(picture("red")), "red.png"), (io.BytesIO(b"file,caption\nred.png,a red wall\n"), "c.csv")]
    ada.post(f"/collections/{key}/items?index=false", data={"file": files}, content_type="multipart/form-data")
    ada.post(f"/collections/{key}/items?index=false", json={"items": [{"text": "a blue wall"}]})
    embed_items(served, settings, key, public_name(settings.embedder_name))
    return key


def _item(caller: Caller, key: str, kind: str) -> str:
    (item,) = caller.get(f"/collections/{key}/items", query_string={"kind": kind}).json["items"]
    return str(item["id"])


@pytest.mark.parametrize(
    ("like", "query", "kind", "text"),
    [
        ({}, {}, "image+text", "a red wall"),
        ({"parts": ["picture"]}, {}, "image", None),
        ({"parts": ["text"]}, {}, "text", "a red wall"),
        ({}, {"text": "a green wall"}, "image+text", "a green wall"),
        ({"parts": ["text"]}, {"text": " "}, "text", "a red wall"),
    ],
)
def test_an_example_item_fills_the_missing_parts_of_the_query(
    ada: Caller, walls: str, like: dict[str, Any], query: dict[str, Any], kind: str, text: str | None
) -> None:
    asked = {"like": {"item": _item(ada, walls, "image+text"), **like}, **query}
    answer = ada.post(f"/collections/{walls}/searches", json=asked)
    assert answer.status_code == 202
    assert answer.json["params"]["like"]["item"] == asked["like"]["item"]
    search = ada.get(f"/searches/{answer.json['id']}").json
    assert (search["kind"], search["text"]) == (kind, text)
    if search["has_picture"]:
        assert ada.get(f"/searches/{answer.json['id']}/picture").data == picture("red")


def test_an_uploaded_picture_takes_precedence_over_the_picture_of_the_item(ada: Caller, walls: str) -> None:
    query = json.dumps({"like": {"item": _item(ada, walls, "image+text")}})
    data = {"picture": (io.BytesIO(picture("blue")), "blue.png"), "query": query}
    answer = ada.post(f"/collections/{walls}/searches", data=data, content_type="multipart/form-data")
    search = ada.get(f"/searches/{answer.json['id']}").json
    assert search["text"] == "a red wall"
    assert ada.get(f"/searches/{answer.json['id']}/picture").data == picture("blue")


def test_an_item_of_another_collection_can_be_the_example(ada: Caller, walls: str) -> None:
    other = ada.post("/collections", json={"name": "Other"}).json["id"]
    ada.post(f"/collections/{other}/items?index=false", json={"items": [{"text": "a grey wall"}]})
    asked = {"like": {"item": _item(ada, other, "text")}}
    answer = ada.post(f"/collections/{walls}/searches", json=asked)
    assert ada.get(f"/searches/{answer.json['id']}").json["text"] == "a grey wall"


def test_an_idempotency_key_is_bound_to_the_example_item(ada: Caller, walls: str) -> None:
    asked = {"like": {"item": _item(ada, walls, "image+text")}}
    path, headers = f"/collections/{walls}/searches", {"Idempotency-Key": "one"}
    first, second = (ada.post(path, json=asked, headers=headers) for _ in range(2))
    assert first.json["id"] == second.json["id"]
    asked = {"like": {"item": _item(ada, walls, "text")}}
    assert ada.post(path, json=asked, headers=headers).status_code == 409


def test_a_part_that_the_item_lacks_is_rejected(ada: Caller, walls: str) -> None:
    asked = {"like": {"item": _item(ada, walls, "text"), "parts": ["picture"]}}
    answer = ada.post(f"/collections/{walls}/searches", json=asked)
    assert answer.status_code == 422
    assert answer.json["error"]["detail"]["fields"][0]["field"] == "like.parts"


@pytest.mark.parametrize(
    "like", [{}, {"item": "x"}, {"item": 1}, {"item": None, "parts": []}, {"parts": ["text"]}, "x"]
)
def test_an_invalid_example_is_rejected(ada: Caller, walls: str, like: Any) -> None:
    assert ada.post(f"/collections/{walls}/searches", json={"like": like}).status_code == 422


def test_a_hidden_or_deleted_example_item_returns_404(ada: Caller, bob: Caller, walls: str) -> None:
    item = _item(ada, walls, "text")
    own = bob.post("/collections", json={"name": "Own"}).json["id"]
    asked = {"like": {"item": item}}
    assert bob.post(f"/collections/{own}/searches", json=asked).status_code == 404
    ada.delete(f"/items/{item}")
    assert ada.post(f"/collections/{walls}/searches", json=asked).status_code == 404
