"""Marks through the API."""

from __future__ import annotations

import uuid

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Searched


@pytest.fixture
def finished(searched: Searched) -> Searched:
    """A search whose final order is the reverse of the coarse order."""
    searched.finish([3, 2, 1])
    return searched


def test_marks_are_set_read_and_removed(ada: Caller, finished: Searched) -> None:
    base = f"/searches/{finished.id}/judgments"
    assert ada.get(base).json["measures"] == {
        "verdict": "unknown", "pool": 3, "marked": 0, "relevant": 0, "coarse": None, "fine": None,
    }  # fmt: skip
    answer = ada.put(f"{base}/{finished.items[0]}", json={"relevant": True})
    assert answer.status_code == 200
    ada.put(f"{base}/{finished.items[1]}", json={"relevant": False})
    read = ada.get(base).json
    assert [(one["item_id"], one["relevant"], one["user_name"]) for one in read["judgments"]] == [
        (str(finished.items[0]), True, "ada"),
        (str(finished.items[1]), False, "ada"),
    ]
    assert (read["judgments"][0]["coarse_rank"], read["judgments"][0]["final_rank"]) == (1, 3)
    measures = read["measures"]
    assert (measures["verdict"], measures["marked"], measures["relevant"]) == ("fine miss", 2, 1)
    assert measures["coarse"]["ndcg"]["3"] == 1
    assert measures["fine"]["ndcg"]["3"] == pytest.approx(0.5)
    assert measures["fine"]["precision"]["3"] == pytest.approx(1 / 3)
    for _ in range(2):
        assert ada.delete(f"{base}/{finished.items[0]}").status_code == 204
    assert ada.get(base).json["measures"]["verdict"] == "unknown"


def test_an_invalid_mark_is_rejected(ada: Caller, finished: Searched) -> None:
    path = f"/searches/{finished.id}/judgments/{finished.items[0]}"
    for body in ({}, {"relevant": "yes"}, {"relevant": 1}, {"relevant": None}, {"relevant": True, "more": 1}):
        answer = ada.put(path, json=body)
        assert (answer.status_code, answer.json["error"]["code"]) == (422, "invalid_input"), body
    assert ada.get(f"/searches/{finished.id}/judgments").json["judgments"] == []


def test_marking_hidden_or_unknown_results_returns_404(ada: Caller, bob: Caller, finished: Searched) -> None:
    base = f"/searches/{finished.id}/judgments"
    mark = {"relevant": True}
    assert bob.get(base).status_code == 404
    assert bob.put(f"{base}/{finished.items[0]}", json=mark).status_code == 404
    assert bob.delete(f"{base}/{finished.items[0]}").status_code == 404
    assert ada.put(f"{base}/{uuid.uuid4()}", json=mark).status_code == 404
    assert ada.put(f"/searches/{uuid.uuid4()}/judgments/{finished.items[0]}", json=mark).status_code == 404
