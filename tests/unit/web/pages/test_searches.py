"""The search form on every page: submission and rejection."""

from __future__ import annotations

import io
from typing import Any

from flask import Flask
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pages.search_requests import (
    ask_on_page,
    count_jobs,
    filled_form,
    log_in_viewer,
    newest_search,
    search_on_collection,
)
from tests.unit.web.pictures import picture

from retllm.db.searches import Search
from retllm_web.http.services import Services

SCRIPT = {"X-Requested-With": "fetch"}
UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"


def test_a_search_is_submitted_with_its_settings(reader: Visitor, indexed: str, served: Services) -> None:
    page = ask_on_page(
        reader,
        indexed,
        text="a small bird",
        k="2",
        kinds=["text"],
        mode="verbalized",
        tie_decimals="3",
        fusion_weight="0.25",
        adaptive="1",
        first="2",
        clear_gap="1.5",
        trigger="fixed",
        fixed_layer="4",
        alpha="0.5",
        tau="0.6",
        scope="all",
        trace="1",
        captions="1",
    )
    assert "a small bird" in page.one("h1").text
    assert page.one("div", id="job").attributes["data-over"] == "false"
    search = newest_search(served)
    assert (search.k, search.item_kinds, search.tie_decimals) == (2, ["text"], 3)
    assert (search.mode, search.fusion_weight, search.trace) == ("verbalized", 0.25, True)
    assert search.adaptive == {"first": 2, "step": 4, "clear_score": 0.0, "clear_gap": 1.5}
    injection = {name: search.injection[name] for name in ("trigger", "fixed_layer", "alpha", "tau", "scope")}
    assert injection == {"trigger": "fixed", "fixed_layer": 4, "alpha": 0.5, "tau": 0.6, "scope": "all"}
    assert search.coarse is not None
    assert search.coarse["captions"]


def test_an_unchanged_form_uses_the_configured_settings(reader: Visitor, indexed: str, served: Services) -> None:
    ask_on_page(reader, indexed, text="a bird")
    whole = newest_search(served)
    search_on_collection(reader, indexed, text="a bird", k="10")
    compact = newest_search(served)
    kept = [one.key for one in Search.__table__.columns if one.key not in ("id", "created_at")]
    assert whole.id != compact.id
    assert {name: getattr(whole, name) for name in kept} == {name: getattr(compact, name) for name in kept}
    assert whole.coarse is None


def test_the_default_tie_decimals_depend_on_the_mode(reader: Visitor, indexed: str, served: Services) -> None:
    ask_on_page(reader, indexed, text="a bird", mode="verbalized")
    assert newest_search(served).tie_decimals == 2


def test_layers_that_the_trigger_does_not_use_are_ignored(reader: Visitor, indexed: str, served: Services) -> None:
    ask_on_page(reader, indexed, text="a bird", trigger="off", fixed_layer="7", start="3", end="2")
    assert [newest_search(served).injection[name] for name in ("fixed_layer", "start", "end")] == [None, None, None]


def test_a_script_gets_the_url_of_the_job(reader: Visitor, indexed: str, served: Services) -> None:
    reader.get(f"/search?collection={indexed}")
    data = {"csrf_token": reader.token(), "text": "a bird", "collection": indexed}
    answer = reader.client.post("/search", data=data, headers=SCRIPT)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/jobs/{newest_search(served).id}"


def test_a_viewer_can_search_an_open_collection(app: Flask, served: Services, indexed: str) -> None:
    viewer = log_in_viewer(app, served, open_to_all=indexed)
    page = ask_on_page(viewer, indexed, text="a bird")
    assert page.path == f"/jobs/{newest_search(served).id}"


# rejection

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"text": "  "}, "text"),
    ({"k": "0"}, "k"),
    ({"k": "100000"}, "k"),
    ({"k": "many"}, "k"),
    ({"alpha": "2"}, "alpha"),
    ({"tau": "-1"}, "tau"),
    ({"trigger": "fixed", "fixed_layer": ""}, "fixed_layer"),
    ({"trigger": "sometimes"}, "trigger"),
    ({"scope": "some"}, "scope"),
    ({"start": "5", "end": "4"}, "start"),
    ({"mode": "guess"}, "mode"),
    ({"tie_decimals": "13"}, "tie_decimals"),
    ({"fusion_weight": "inf"}, "fusion_weight"),
    ({"adaptive": "1", "step": "0"}, "step"),
    ({"adaptive": "1", "clear_gap": "-1"}, "clear_gap"),
    ({"query_image_weight": "1.5"}, "query_image_weight"),
    ({"kinds": ["sounds"]}, "kinds"),
    ({"embedders": [], "captions": ""}, "coarse"),
    ({"embedders": ["no/such"]}, "embedders"),
    ({"collection": ""}, "collection"),
]
KEPT = {"text": "x", "k": "3", "kinds": ["text"], "alpha": "0.5", "mode": "choice", "trace": "1", "first": "2"}


def test_an_invalid_field_shows_its_error_and_the_form_keeps_its_values(
    reader: Visitor, indexed: str, served: Services
) -> None:
    for fields, wrong in WRONG:
        page = ask_on_page(reader, indexed, **{**KEPT, **fields})
        assert page.status == 422, fields
        assert len(page.one("div", id=f"{wrong}-problem").text) > 10, fields
        again = filled_form(page)
        sent = {
            name: value for name, value in {**KEPT, **fields}.items() if value and name not in ("kinds", "embedders")
        }
        for name, value in sent.items():
            if wrong not in ("trigger", "scope", "mode") or name != wrong:
                assert again[name] in (value.strip(), [value]), (fields, name)
        if wrong not in ("text", "k", "collection"):
            # the part with the error is open
            assert "open" in page.one("details", class_="settings").attributes, fields
    assert count_jobs(served) == 0


def test_a_rejected_compact_form_keeps_its_query_and_shows_every_setting(
    reader: Visitor, indexed: str, served: Services
) -> None:
    page = search_on_collection(reader, indexed, text="a <wren>", k="0")
    assert page.status == 422
    assert page.one("div", id="k-problem").text
    again = filled_form(page)
    assert (again["text"], again["k"], again["collection"]) == ("a <wren>", "0", indexed)
    assert again["alpha"] == str(served.settings.alpha)
    assert "open" not in page.one("details", class_="settings").attributes


def test_an_invalid_picture_is_rejected_next_to_its_field(reader: Visitor, indexed: str) -> None:
    page = ask_on_page(reader, indexed, text="a bird", picture=(io.BytesIO(b"no picture"), "red.png"))
    assert page.status == 422
    assert page.one("div", id="picture-problem").text
    assert page.one("textarea", id="text").text == "a bird"


def test_a_picture_must_be_chosen_again_after_an_error(reader: Visitor, indexed: str) -> None:
    page = ask_on_page(reader, indexed, text="x", k="0", picture=(io.BytesIO(picture("red")), "red.png"))
    assert "Choose it again" in page.text


def test_an_unindexed_collection_is_rejected_with_a_link(reader: Visitor, texts: str) -> None:
    page = ask_on_page(reader, texts, text="a bird")
    assert page.status == 409
    assert "not indexed" in page.one("div", id="collection-problem").text
    assert page.all("a", href=f"/collections/{texts}")


def test_the_form_keeps_its_values_if_the_collection_was_deleted_meanwhile(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    other = ada.post("/collections", json={"name": "Short-lived"}).json["id"]
    filled = filled_form(reader.get(f"/search?collection={other}"))
    assert ada.delete(f"/collections/{other}").status_code == 204
    page = reader.send("/search", **filled | {"text": "an owl in the snow", "alpha": "0.4"})
    assert page.status == 404
    assert "Choose another" in page.one("div", id="collection-problem").text
    assert page.one("textarea", id="text").text == "an owl in the snow"
    assert page.one("input", id="alpha").attributes["value"] == "0.4"
    assert not [link for link in page.all("a") if link.text == "Open this collection"]
    assert count_jobs(served) == 0


def test_collections_items_and_searches_of_others_return_404(
    app: Flask, reader: Visitor, indexed: str, bob: Caller, ada: Caller
) -> None:
    page = search_on_collection(reader, indexed, picture=(io.BytesIO(picture("red")), "red.png"))
    earlier = page.one("input", name="again").attributes["value"]
    item = ada.get(f"/collections/{indexed}/items").json["items"][0]["id"]
    key = bob.post("/collections", json={"name": "Bob's"}).json["id"]
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    data = {"csrf_token": stranger.token(), "text": "x"}
    for path, fields in (
        (f"/collections/{key}/search", {"again": earlier}),
        (f"/collections/{key}/search", {"like": item}),
        (f"/collections/{indexed}/search", {}),
        ("/search", {"collection": indexed}),
        ("/search", {"collection": key, "earlier": earlier, "k": "0"}),
    ):
        assert stranger.client.post(path, data=data | fields).status_code == 404, (path, fields)
    for query in (
        f"collection={indexed}",
        f"like={item}",
        f"again={earlier}",
        f"again={UNKNOWN_ID}",
        "again=1",
        "like=x",
    ):
        assert stranger.get(f"/search?{query}").status == 404, query
