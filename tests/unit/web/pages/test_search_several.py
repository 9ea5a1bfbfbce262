"""The search page searches several collections, and the result says which item is from which."""

from __future__ import annotations

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pages.search_requests import filled_form, newest_search
from tests.unit.web.test_searches_of_several import filled, finished

from retllm.settings import Settings
from retllm_web.http.services import Services


@pytest.fixture
def two(ada: Caller, served: Services, settings: Settings) -> list[str]:
    """Two collections that can be searched."""
    return filled(ada, served, settings, Birds=["a robin", "a wren"], Boats=["a dinghy"])


def test_several_collections_are_chosen_by_their_boxes(reader: Visitor, two: list[str], served: Services) -> None:
    page = reader.get(f"/search?collection={two[0]}&also={two[1]}")
    assert [box.attributes["value"] for box in page.all("input", name="also") if "checked" in box.attributes] == [
        two[1]
    ]
    result = reader.send("/search", **{**filled_form(page), "text": "a bird"})
    assert result.status == 200
    assert newest_search(served).collections == 2
    assert result.one("p", id="searched").text.replace(" ", "").startswith("InBirds,Boats")
    again = reader.get(f"/search?again={newest_search(served).id}")
    form = filled_form(again)
    assert (form["collection"], form["also"]) == (two[0], [two[1]])


def test_all_collections_are_one_choice(reader: Visitor, two: list[str], served: Services) -> None:
    page = reader.get("/search?collection=all")
    assert filled_form(page)["collection"] == "all"
    reader.send("/search", **{**filled_form(page), "text": "a bird"})
    assert newest_search(served).collections == 2


def test_one_collection_stays_one(reader: Visitor, two: list[str], served: Services) -> None:
    page = reader.get(f"/search?collection={two[0]}&also={two[0]}")
    reader.send("/search", **{**filled_form(page), "text": "a bird"})
    assert newest_search(served).collections is None


def test_a_refused_search_keeps_the_choice(reader: Visitor, two: list[str]) -> None:
    page = reader.get(f"/search?collection={two[0]}&also={two[1]}")
    refused = reader.send("/search", **{**filled_form(page), "text": ""})
    assert refused.status == 422
    form = filled_form(refused)
    assert (form["collection"], form["also"]) == (two[0], [two[1]])


def test_a_collection_that_is_gone_leaves_the_others(reader: Visitor, two: list[str], ada: Caller) -> None:
    page = reader.get(f"/search?collection={two[0]}&also={two[1]}")
    sent = filled_form(page)
    ada.delete(f"/collections/{two[1]}")
    refused = reader.send("/search", **{**sent, "text": "a bird"})
    assert refused.status == 404
    assert "no longer available" in refused.text


def test_an_empty_collection_is_named(reader: Visitor, two: list[str], ada: Caller) -> None:
    empty = ada.post("/collections", json={"name": "none yet"}).json["id"]
    page = reader.get(f"/search?collection={two[0]}&also={empty}")
    refused = reader.send("/search", **{**filled_form(page), "text": "a bird"})
    assert refused.status == 409
    assert "“none yet”" in refused.one("div", id="collection-problem").text


def test_each_result_links_to_its_collection(reader: Visitor, two: list[str], ada: Caller, served: Services) -> None:
    job = finished(served, ada, two)
    page = reader.get(f"/jobs/{job}")
    links = [place.text for place in page.all("p", class_="of-collection")]
    assert links == ["Birds", "Birds", "Boats"]
    assert page.all("a", href=f"/collections/{two[1]}")
    again = {e.attributes["name"]: e.attributes["value"] for e in page.all("input", type="hidden")}
    assert (again["collection"], again["also"]) == (two[0], two[1])
    for address in (f"/jobs/{job}?view=table", f"/jobs/{job}/attempts", "/jobs", f"/compare?of={job}", "/search"):
        assert reader.get(address).status == 200
    assert "2 collections" in reader.get("/jobs").text


def test_a_page_says_that_collections_are_hidden(
    reader: Visitor, two: list[str], ada: Caller, served: Services
) -> None:
    job = finished(served, ada, two)
    ada.delete(f"/collections/{two[1]}")
    page = reader.get(f"/jobs/{job}")
    assert "1 that was deleted or is not shared with you" in page.one("p", id="searched").text
    assert "dinghy" not in page.text
