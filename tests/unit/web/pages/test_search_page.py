"""The search page, repeated searches, and search by example."""

from __future__ import annotations

import io
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Searched, Visitor
from tests.unit.web.pages.search_requests import (
    ask_on_page,
    filled_form,
    log_in_viewer,
    newest_search,
    search_on_collection,
)
from tests.unit.web.pictures import picture

from retllm.db.enums import ItemKind
from retllm.db.searches import Search
from retllm_web.http.services import Services


def test_the_form_starts_with_the_configured_settings(reader: Visitor, indexed: str, served: Services) -> None:
    page = reader.get(f"/search?collection={indexed}")
    settings = served.settings
    filled = filled_form(page)
    assert (filled["k"], filled["alpha"], filled["mode"]) == (
        str(settings.k),
        str(settings.alpha),
        settings.default_mode,
    )
    assert len(filled["kinds"]) == 3
    assert filled["embedders"] == list(settings.embedders)
    assert "Default: 0.3" in page.one("div", id="alpha-hint").text
    assert "open" not in page.one("details", class_="settings").attributes
    assert "changed" not in page.all("summary")[0].text


def test_the_url_can_fill_the_form(reader: Visitor, indexed: str) -> None:
    page = reader.get(f"/search?collection={indexed}&text=a+%3Cwren%3E&k=7&trace=1&mode=choice&kinds=text")
    filled = filled_form(page)
    assert {name: filled[name] for name in ("text", "k", "mode", "trace", "kinds")} == {
        "text": "a <wren>",
        "k": "7",
        "mode": "choice",
        "trace": ["1"],
        "kinds": ["text"],
    }
    assert "3 settings changed" in page.all("summary")[0].text
    compact = reader.get(f"/collections/{indexed}?text=a+%3Cwren%3E&k=7")
    assert compact.one("textarea", id="text").text == "a <wren>"
    assert compact.one("input", id="k").attributes["value"] == "7"
    assert compact.all("a", href=f"/search?collection={indexed}")


def test_a_further_column_filters_the_search(reader: Visitor, indexed: str, served: Services) -> None:
    wanted = 'column."Box no." in ("7", "08") and not has column.Photographer'
    page = reader.get("/search", query_string={"collection": indexed, "filter": wanted})
    reader.send("/search", **{**filled_form(page), "text": "a wren"})
    assert newest_search(served).filter == 'column."Box no." in (7, 08) and not has column.Photographer'
    refused = ask_on_page(reader, indexed, text="a wren", filter="column.Photographer within (1, 2, 3, 4)")
    assert "column.Photographer can't be compared with within" in refused.one("div", id="filter-problem").text


def test_collections_are_offered_with_their_item_counts(reader: Visitor, texts: str, ada: Caller, bob: Caller) -> None:
    empty = ada.post("/collections", json={"name": "an empty one"}).json["id"]
    bob.post("/collections", json={"name": "Bob's"})
    page = reader.get("/search")
    assert [(e.attributes["value"], e.text) for e in page.all("option")][:2] == [
        (empty, "an empty one (empty)"),
        (texts, "Birds (3 items)"),
    ]
    assert "Bob's" not in page.text
    # the newest that is not empty, since there is no earlier query
    assert filled_form(page)["collection"] == texts
    assert filled_form(reader.get(f"/search?collection={empty}"))["collection"] == empty


def test_the_last_searched_collection_is_preselected(reader: Visitor, indexed: str, ada: Caller) -> None:
    ask_on_page(reader, indexed, text="a bird")
    newer = ada.post("/collections", json={"name": "Newer"}).json["id"]
    ada.post(f"/collections/{newer}/items?index=false", json={"items": [{"text": "a stone"}]})
    assert filled_form(reader.get("/search"))["collection"] == indexed


def test_without_a_collection_the_page_shows_what_to_do(app: Flask, reader: Visitor, served: Services) -> None:
    page = reader.get("/search")
    assert page.all("a", href="/collections")
    assert not page.all("form", data_search="")
    assert "Ask an editor" in log_in_viewer(app, served).get("/search").text


def test_recent_queries_are_offered_once_each(reader: Visitor, indexed: str, served: Services) -> None:
    for text in ("a robin", "a wren", "a robin"):
        search_on_collection(reader, indexed, text=text)
    search_on_collection(reader, indexed, picture=(io.BytesIO(picture("red")), "red.png"))
    by_picture = newest_search(served).id
    rows = [e.text for e in reader.get("/search").all("li") if "data-row" in e.attributes]
    assert [row.partition(" Birds")[0] for row in rows] == ["Search by picture", "a robin", "a wren"]
    page = reader.get(f"/search?again={by_picture}")
    assert filled_form(page)["again"] == [str(by_picture)]


# an earlier search


def test_a_query_picture_can_be_reused_without_uploading_it_again(
    reader: Visitor, indexed: str, served: Services
) -> None:
    page = search_on_collection(reader, indexed, text="", picture=(io.BytesIO(picture("red")), "red.png"))
    assert page.one("h1").text == "Search by picture"
    first = newest_search(served)
    image = page.one("img", alt="Picture of the earlier search")
    assert reader.client.get(image.attributes["src"]).mimetype == "image/webp"
    filled = filled_form(reader.get(f"/search?again={first.id}"))
    # an invalid form keeps its values, even the ticked box
    refused = reader.send("/search", **{**filled, "k": "0"})
    assert filled_form(refused)["again"] == [str(first.id)]
    reader.send("/search", **{**filled_form(refused), "k": "5", "text": "and red"})
    second = newest_search(served)
    assert second.query_picture_sha256 == first.query_picture_sha256
    assert second.query_picture_key != first.query_picture_key
    assert (second.query_text, second.k) == ("and red", 5)
    reader.send(
        "/search", **{**filled_form(reader.get(f"/search?again={first.id}")), "again": "", "text": "words alone"}
    )
    assert newest_search(served).query_picture_sha256 is None


def test_a_repeated_search_keeps_every_setting(reader: Visitor, indexed: str, served: Services, ada: Caller) -> None:
    asked = {
        "text": "a robin",
        "k": 2,
        "kinds": ["text", "image"],
        "query_image_weight": 0.123456789,
        "mode": "choice",
        "tie_decimals": 7,
        "fusion_weight": 0.5,
        "adaptive": {"first": 2, "step": 3, "clear_score": -1.25, "clear_gap": 0.5},
        "injection": {"alpha": 0.25, "trigger": "entropy", "tau": 0.5, "start": 2, "end": 5, "scope": "all"},
        "coarse": {"captions": True, "embedders": list(served.settings.embedders)},
        "trace": True,
    }
    key = ada.post(f"/collections/{indexed}/searches", json=asked).json["id"]
    reader.send("/search", **filled_form(reader.get(f"/search?again={key}")))
    with served.sessions() as session:
        first, second = session.scalars(sa.select(Search).order_by(Search.id))
    kept = [one.key for one in Search.__table__.columns if one.key not in ("id", "created_at")]
    assert first.id != second.id
    assert {name: getattr(second, name) for name in kept} == {name: getattr(first, name) for name in kept}


def test_the_url_can_override_a_setting_of_an_earlier_search(reader: Visitor, searched: Searched) -> None:
    filled = filled_form(reader.get(f"/search?again={searched.id}&trace=1"))
    assert (filled["text"], filled["trace"], filled["alpha"]) == ("<b>a small bird</b>", ["1"], "0.25")


def test_a_scorer_that_is_no_longer_in_use_is_named(reader: Visitor, searched: Searched) -> None:
    page = reader.get(f"/search?again={searched.id}")
    assert "The earlier search used the scorer some scorer" in page.text


def test_a_search_that_is_repeated_with_a_scorer_on_a_server_has_no_re_injection(
    reader: Visitor, searched: Searched, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filled_form(reader.get(f"/search?again={searched.id}"))["trigger"] != "off"
    monkeypatch.setattr(served.settings, "scorer", "openai+http://gpu#org/model")
    page = reader.get(f"/search?again={searched.id}")
    assert filled_form(page)["trigger"] == "off"
    assert "The scorer runs on a server now, where nothing can be re-injected." in page.text
    assert "A search that asks for it is refused." in page.text
    assert "gpu" not in page.text


def test_the_form_on_the_page_of_a_job_is_filled_with_its_search(reader: Visitor, searched: Searched) -> None:
    page = reader.get(f"/jobs/{searched.id}")
    assert page.one("textarea", id="text").text == "<b>a small bird</b>"
    values = {
        name: page.one("input", id=name).attributes["value"] for name in ("k", "alpha", "tie_decimals", "fixed_layer")
    }
    assert values == {"k": "3", "alpha": "0.25", "tie_decimals": "3", "fixed_layer": "3"}
    checked = [e.attributes["value"] for e in page.all("input", name="kinds") if "checked" in e.attributes]
    assert checked == ["text"]
    assert not page.all("input", name="again")


# search by example


@pytest.fixture
def captioned(reader: Visitor, indexed: str, ada: Caller) -> str:
    """A red picture with a caption, in the collection."""
    files = {
        "file": [(io.BytesIO(picture("red")), "red.png"), (io.BytesIO(b"file,caption\nred.png,a red wall\n"), "c.csv")]
    }
    ada.post(f"/collections/{indexed}/items?index=false", data=files, content_type="multipart/form-data")
    (item,) = ada.get(f"/collections/{indexed}/items?kind=image%2Btext").json["items"]
    return str(item["id"])


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({}, ItemKind.BOTH, "a red wall"),
        ({"like_parts": ["picture"]}, ItemKind.IMAGE, None),
        ({"like_parts": ["text"]}, ItemKind.TEXT, "a red wall"),
        ({"text": "but blue"}, ItemKind.BOTH, "but blue"),
        ({"like_parts": [], "text": "words alone"}, ItemKind.TEXT, "words alone"),
    ],
)
def test_a_search_can_use_an_item_as_its_example(
    reader: Visitor, indexed: str, captioned: str, served: Services, fields: dict[str, Any], kind: ItemKind, text: str
) -> None:
    page = reader.get(f"/search?collection={indexed}&like={captioned}")
    assert page.one("img", class_="thumb").attributes["src"] == f"/api/v1/items/{captioned}/thumbnail"
    reader.send("/search", **{**filled_form(page), **fields})
    search = newest_search(served)
    assert (search.kind, search.query_text) == (kind, text)
    if kind is not ItemKind.TEXT:
        shown = reader.client.get(f"/api/v1/searches/{search.id}/picture")
        assert shown.get_data() == picture("red")


def test_a_text_item_can_be_the_example(reader: Visitor, indexed: str, ada: Caller, served: Services) -> None:
    item = ada.get(f"/collections/{indexed}/items").json["items"][0]
    reader.send("/search", **filled_form(reader.get(f"/search?collection={indexed}&like={item['id']}")))
    assert newest_search(served).query_text == "a robin"


def test_more_like_this_searches_at_once(reader: Visitor, indexed: str, captioned: str, served: Services) -> None:
    assert reader.get(f"/items/{captioned}").all("input", type="hidden", name="like", value=captioned)
    page = reader.send(f"/collections/{indexed}/search", like=captioned)
    search = newest_search(served)
    assert page.path == f"/jobs/{search.id}"
    assert (search.kind, search.query_text) == (ItemKind.BOTH, "a red wall")


def test_an_uploaded_picture_takes_precedence_over_the_picture_of_the_item(
    reader: Visitor, indexed: str, captioned: str, served: Services
) -> None:
    filled = filled_form(reader.get(f"/search?collection={indexed}&like={captioned}"))
    reader.send("/search", **filled, picture=(io.BytesIO(picture("blue")), "blue.png"))
    search = newest_search(served)
    assert reader.client.get(f"/api/v1/searches/{search.id}/picture").get_data() == picture("blue")


def test_a_rejected_form_keeps_the_example_item_and_its_selected_parts(
    reader: Visitor, indexed: str, captioned: str
) -> None:
    filled = filled_form(reader.get(f"/search?collection={indexed}&like={captioned}"))
    page = reader.send("/search", **{**filled, "like_parts": ["picture"], "k": "0"})
    assert filled_form(page)["like"] == captioned
    assert filled_form(page)["like_parts"] == ["picture"]


def test_a_deleted_example_item_returns_404(reader: Visitor, indexed: str, captioned: str, ada: Caller) -> None:
    filled = filled_form(reader.get(f"/search?collection={indexed}&like={captioned}"))
    ada.delete(f"/items/{captioned}")
    assert reader.get(f"/search?like={captioned}").status == 404
    data = {"csrf_token": reader.get("/search") and reader.token(), **filled}
    assert reader.client.post("/search", data=data).status_code == 404
