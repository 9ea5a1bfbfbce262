"""Asking: the page to search, the form wherever it stands, and what is submitted with it."""

from __future__ import annotations

import io
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pictures import picture

from retllm import accounts
from retllm.db.enums import ItemKind, Role, Visibility
from retllm.db.session import transaction
from retllm.db.tables import Collection, Job, Search
from retllm_web.services import Services

from .conftest import Page, Searched, Visitor

SCRIPT = {"X-Requested-With": "fetch"}
NOBODY = "018f0000-0000-7000-8000-000000000000"


def _search(reader: Visitor, key: str, **fields: Any) -> Page:
    """Search from the collection's page, with a form that shows the question alone."""
    reader.get(f"/collections/{key}")
    return reader.send(f"/collections/{key}/search", **fields)


def _ask(reader: Visitor, key: str, **fields: Any) -> Page:
    """Search from the page to search, with whatever its form has and ``fields`` over it."""
    page = reader.get(f"/search?collection={key}")
    return reader.send("/search", **{**_filled(page), **fields})


def _filled(page: Page) -> dict[str, Any]:
    """What the form of a page would send as it stands."""
    sent: dict[str, Any] = {"text": page.one("textarea", id="text").text}
    select = ""
    for element in page.elements:
        has = element.attributes
        name, value = has.get("name") or "", has.get("value") or ""
        if element.tag == "select":
            select = name
        elif element.tag == "option" and (select not in sent or "selected" in has):
            # without a choice a browser sends the first
            sent[select] = value
        elif element.tag == "input" and name not in ("", "csrf_token", "picture"):
            if has.get("type") != "checkbox":
                sent[name] = value
            elif "checked" in has:
                sent[name] = [*sent.get(name, []), value]
    return sent


def _newest(served: Services) -> Search:
    with served.sessions() as session:
        return session.scalars(sa.select(Search).order_by(Search.id.desc()).limit(1)).one()


def _jobs(served: Services) -> int:
    with served.sessions() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Job)) or 0


def _viewer(app: Flask, served: Services, open_to_all: str | None = None) -> Visitor:
    with transaction(served.sessions) as session:
        accounts.create_user(session, "vera", PASSWORD, Role.VIEWER)
        if open_to_all:
            session.get_one(Collection, uuid.UUID(open_to_all)).visibility = Visibility.EVERYONE
    visitor = Visitor(app.test_client())
    visitor.log_in("vera")
    return visitor


# what is submitted


def test_a_search_is_submitted_with_its_settings(reader: Visitor, indexed: str, served: Services) -> None:
    page = _ask(
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
    search = _newest(served)
    assert (search.k, search.item_kinds, search.tie_decimals) == (2, ["text"], 3)
    assert (search.mode, search.fusion_weight, search.trace) == ("verbalized", 0.25, True)
    assert search.adaptive == {"first": 2, "step": 4, "clear_score": 0.0, "clear_gap": 1.5}
    injection = {name: search.injection[name] for name in ("trigger", "fixed_layer", "alpha", "tau", "scope")}
    assert injection == {"trigger": "fixed", "fixed_layer": 4, "alpha": 0.5, "tau": 0.6, "scope": "all"}
    assert search.coarse is not None
    assert search.coarse["captions"]


def test_a_form_that_is_left_as_it_is_asks_by_the_settings_in_force(
    reader: Visitor, indexed: str, served: Services
) -> None:
    _ask(reader, indexed, text="a bird")
    whole = _newest(served)
    _search(reader, indexed, text="a bird", k="10")
    compact = _newest(served)
    kept = [one.key for one in Search.__table__.columns if one.key not in ("id", "created_at")]
    assert whole.id != compact.id
    assert {name: getattr(whole, name) for name in kept} == {name: getattr(compact, name) for name in kept}
    assert whole.coarse is None


def test_the_tie_decimals_follow_the_answer_that_is_chosen(reader: Visitor, indexed: str, served: Services) -> None:
    _ask(reader, indexed, text="a bird", mode="verbalized")
    assert _newest(served).tie_decimals == 2


def test_a_layer_in_the_folded_form_means_nothing_to_another_trigger(
    reader: Visitor, indexed: str, served: Services
) -> None:
    _ask(reader, indexed, text="a bird", trigger="off", fixed_layer="7", start="3", end="2")
    assert [_newest(served).injection[name] for name in ("fixed_layer", "start", "end")] == [None, None, None]


def test_a_script_is_told_where_the_job_is(reader: Visitor, indexed: str, served: Services) -> None:
    reader.get(f"/search?collection={indexed}")
    data = {"csrf_token": reader.token(), "text": "a bird", "collection": indexed}
    answer = reader.client.post("/search", data=data, headers=SCRIPT)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/jobs/{_newest(served).id}"


def test_a_viewer_may_search(app: Flask, served: Services, indexed: str) -> None:
    viewer = _viewer(app, served, open_to_all=indexed)
    page = _ask(viewer, indexed, text="a bird")
    assert page.path == f"/jobs/{_newest(served).id}"


# what is refused

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


def test_a_field_that_is_wrong_is_told_beside_it_and_nothing_is_lost(
    reader: Visitor, indexed: str, served: Services
) -> None:
    for fields, wrong in WRONG:
        page = _ask(reader, indexed, **{**KEPT, **fields})
        assert page.status == 422, fields
        assert len(page.one("div", id=f"{wrong}-problem").text) > 10, fields
        again = _filled(page)
        sent = {
            name: value for name, value in {**KEPT, **fields}.items() if value and name not in ("kinds", "embedders")
        }
        for name, value in sent.items():
            if wrong not in ("trigger", "scope", "mode") or name != wrong:
                assert again[name] in (value.strip(), [value]), (fields, name)
        if wrong not in ("text", "k", "collection"):
            # the folded part is open where the mistake is
            assert "open" in page.one("details", class_="settings").attributes, fields
    assert _jobs(served) == 0


def test_a_form_of_the_collection_that_is_refused_keeps_its_question_and_shows_every_setting(
    reader: Visitor, indexed: str, served: Services
) -> None:
    page = _search(reader, indexed, text="a <wren>", k="0")
    assert page.status == 422
    assert page.one("div", id="k-problem").text
    again = _filled(page)
    assert (again["text"], again["k"], again["collection"]) == ("a <wren>", "0", indexed)
    assert again["alpha"] == str(served.settings.alpha)
    assert "open" not in page.one("details", class_="settings").attributes


def test_a_picture_that_is_none_is_told_beside_its_field(reader: Visitor, indexed: str) -> None:
    page = _ask(reader, indexed, text="a bird", picture=(io.BytesIO(b"no picture"), "red.png"))
    assert page.status == 422
    assert page.one("div", id="picture-problem").text
    assert page.one("textarea", id="text").text == "a bird"


def test_a_picture_beside_a_mistake_has_to_be_chosen_again(reader: Visitor, indexed: str) -> None:
    page = _ask(reader, indexed, text="x", k="0", picture=(io.BytesIO(picture("red")), "red.png"))
    assert "Choose the picture again" in page.text


def test_a_collection_that_is_not_indexed_says_so(reader: Visitor, texts: str) -> None:
    page = _ask(reader, texts, text="a bird")
    assert page.status == 409
    assert "not indexed" in page.one("div", id="collection-problem").text
    assert page.all("a", href=f"/collections/{texts}")


def test_a_collection_that_is_gone_meanwhile_loses_nothing_of_the_form(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    other = ada.post("/collections", json={"name": "Short-lived"}).json["id"]
    filled = _filled(reader.get(f"/search?collection={other}"))
    assert ada.delete(f"/collections/{other}").status_code == 204
    page = reader.send("/search", **filled | {"text": "an owl in the snow", "alpha": "0.4"})
    assert page.status == 404
    assert "choose another" in page.one("div", id="collection-problem").text
    assert page.one("textarea", id="text").text == "an owl in the snow"
    assert page.one("input", id="alpha").attributes["value"] == "0.4"
    assert not [link for link in page.all("a") if link.text == "Open this collection"]
    assert _jobs(served) == 0


def test_what_others_own_can_be_neither_searched_nor_used(
    app: Flask, reader: Visitor, indexed: str, bob: Caller, ada: Caller
) -> None:
    page = _search(reader, indexed, picture=(io.BytesIO(picture("red")), "red.png"))
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
    for query in (f"collection={indexed}", f"like={item}", f"again={earlier}", f"again={NOBODY}", "again=1", "like=x"):
        assert stranger.get(f"/search?{query}").status == 404, query


# the form


def test_the_page_starts_with_the_settings_in_force(reader: Visitor, indexed: str, served: Services) -> None:
    page = reader.get(f"/search?collection={indexed}")
    settings = served.settings
    filled = _filled(page)
    assert (filled["k"], filled["alpha"], filled["mode"]) == (
        str(settings.default_k),
        str(settings.alpha),
        settings.mode,
    )
    assert len(filled["kinds"]) == 3
    assert filled["embedders"] == list(settings.embedders)
    assert "Default: 0.3" in page.one("div", id="alpha-hint").text
    assert "open" not in page.one("details", class_="settings").attributes
    assert "changed" not in page.one("summary").text


def test_an_address_can_fill_the_form(reader: Visitor, indexed: str) -> None:
    page = reader.get(f"/search?collection={indexed}&text=a+%3Cwren%3E&k=7&trace=1&mode=choice&kinds=text")
    filled = _filled(page)
    assert {name: filled[name] for name in ("text", "k", "mode", "trace", "kinds")} == {
        "text": "a <wren>",
        "k": "7",
        "mode": "choice",
        "trace": ["1"],
        "kinds": ["text"],
    }
    assert "3 settings changed" in page.one("summary").text
    compact = reader.get(f"/collections/{indexed}?text=a+%3Cwren%3E&k=7")
    assert compact.one("textarea", id="text").text == "a <wren>"
    assert compact.one("input", id="k").attributes["value"] == "7"
    assert compact.all("a", href=f"/search?collection={indexed}")


def test_collections_are_offered_with_their_counts(reader: Visitor, texts: str, ada: Caller, bob: Caller) -> None:
    empty = ada.post("/collections", json={"name": "an empty one"}).json["id"]
    bob.post("/collections", json={"name": "Bob's"})
    page = reader.get("/search")
    assert [(e.attributes["value"], e.text) for e in page.all("option")][:2] == [
        (empty, "an empty one (empty)"),
        (texts, "Birds (3 items)"),
    ]
    assert "Bob's" not in page.text
    # the newest with something in it, as nothing was asked yet
    assert _filled(page)["collection"] == texts
    assert _filled(reader.get(f"/search?collection={empty}"))["collection"] == empty


def test_the_last_collection_that_was_asked_is_chosen_again(reader: Visitor, indexed: str, ada: Caller) -> None:
    _ask(reader, indexed, text="a bird")
    newer = ada.post("/collections", json={"name": "Newer"}).json["id"]
    ada.post(f"/collections/{newer}/items?index=false", json={"items": [{"text": "a stone"}]})
    assert _filled(reader.get("/search"))["collection"] == indexed


def test_without_a_collection_the_page_says_what_to_do(app: Flask, reader: Visitor, served: Services) -> None:
    page = reader.get("/search")
    assert page.all("a", href="/collections")
    assert not page.all("form", data_search="")
    assert "Ask somebody" in _viewer(app, served).get("/search").text


def test_latest_questions_are_offered_once_each(reader: Visitor, indexed: str, served: Services) -> None:
    for text in ("a robin", "a wren", "a robin"):
        _search(reader, indexed, text=text)
    _search(reader, indexed, picture=(io.BytesIO(picture("red")), "red.png"))
    by_picture = _newest(served).id
    rows = [e.text for e in reader.get("/search").all("li") if "data-row" in e.attributes]
    assert [row.partition(" Birds")[0] for row in rows] == ["by picture", "a robin", "a wren"]
    page = reader.get(f"/search?again={by_picture}")
    assert _filled(page)["again"] == [str(by_picture)]


# an earlier search


def test_a_picture_can_be_asked_again_without_choosing_it_anew(reader: Visitor, indexed: str, served: Services) -> None:
    page = _search(reader, indexed, text="", picture=(io.BytesIO(picture("red")), "red.png"))
    assert page.one("h1").text == "Search by picture"
    first = _newest(served)
    image = page.one("img", alt="The picture of the earlier search")
    assert reader.client.get(image.attributes["src"]).get_data() == picture("red")
    filled = _filled(reader.get(f"/search?again={first.id}"))
    # a mistake loses nothing, not even that the box is ticked
    refused = reader.send("/search", **{**filled, "k": "0"})
    assert _filled(refused)["again"] == [str(first.id)]
    reader.send("/search", **{**_filled(refused), "k": "5", "text": "and red"})
    second = _newest(served)
    assert second.query_picture_sha256 == first.query_picture_sha256
    assert second.query_picture_key != first.query_picture_key
    assert (second.query_text, second.k) == ("and red", 5)
    reader.send("/search", **{**_filled(reader.get(f"/search?again={first.id}")), "again": "", "text": "words alone"})
    assert _newest(served).query_picture_sha256 is None


def test_an_earlier_search_is_asked_again_with_every_setting(
    reader: Visitor, indexed: str, served: Services, ada: Caller
) -> None:
    asked = {
        "text": "a robin",
        "k": 2,
        "kinds": ["text", "image"],
        "query_image_weight": 0.123456789,
        "mode": "choice",
        "tie_decimals": 7,
        "fusion_weight": 0.5,
        "adaptive": {"first": 2, "step": 3, "clear_score": -1.25, "clear_gap": 0.5},
        "injection": {"alpha": 0.25, "trigger": "entropy", "tau": 0.5, "start": 2, "end": 9, "scope": "all"},
        "coarse": {"captions": True, "embedders": list(served.settings.embedders)},
        "trace": True,
    }
    key = ada.post(f"/collections/{indexed}/searches", json=asked).json["id"]
    reader.send("/search", **_filled(reader.get(f"/search?again={key}")))
    with served.sessions() as session:
        first, second = session.scalars(sa.select(Search).order_by(Search.id))
    kept = [one.key for one in Search.__table__.columns if one.key not in ("id", "created_at")]
    assert first.id != second.id
    assert {name: getattr(second, name) for name in kept} == {name: getattr(first, name) for name in kept}


def test_the_address_may_change_a_setting_of_an_earlier_search(reader: Visitor, searched: Searched) -> None:
    filled = _filled(reader.get(f"/search?again={searched.id}&trace=1"))
    assert (filled["text"], filled["trace"], filled["alpha"]) == ("<b>a small bird</b>", ["1"], "0.25")


def test_what_is_not_in_force_any_more_is_told(reader: Visitor, searched: Searched) -> None:
    page = reader.get(f"/search?again={searched.id}")
    assert "some scorer judged then" in page.text


def test_search_again_on_the_job_is_filled_with_the_search(reader: Visitor, searched: Searched) -> None:
    page = reader.get(f"/jobs/{searched.id}")
    assert page.one("textarea", id="text").text == "<b>a small bird</b>"
    values = {
        name: page.one("input", id=name).attributes["value"] for name in ("k", "alpha", "tie_decimals", "fixed_layer")
    }
    assert values == {"k": "3", "alpha": "0.25", "tie_decimals": "3", "fixed_layer": "3"}
    checked = [e.attributes["value"] for e in page.all("input", name="kinds") if "checked" in e.attributes]
    assert checked == ["text"]
    assert not page.all("input", name="again")


# more like this


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
def test_a_search_can_be_like_an_item(
    reader: Visitor, indexed: str, captioned: str, served: Services, fields: dict[str, Any], kind: ItemKind, text: str
) -> None:
    page = reader.get(f"/search?collection={indexed}&like={captioned}")
    assert page.one("img", class_="thumb").attributes["src"] == f"/api/v1/items/{captioned}/thumbnail"
    reader.send("/search", **{**_filled(page), **fields})
    search = _newest(served)
    assert (search.kind, search.query_text) == (kind, text)
    if kind is not ItemKind.TEXT:
        shown = reader.client.get(f"/api/v1/searches/{search.id}/picture")
        assert shown.get_data() == picture("red")


def test_a_search_like_a_text_asks_with_it(reader: Visitor, indexed: str, ada: Caller, served: Services) -> None:
    item = ada.get(f"/collections/{indexed}/items").json["items"][0]
    reader.send("/search", **_filled(reader.get(f"/search?collection={indexed}&like={item['id']}")))
    assert _newest(served).query_text == "a robin"


def test_a_picture_that_is_chosen_goes_before_that_of_the_item(
    reader: Visitor, indexed: str, captioned: str, served: Services
) -> None:
    filled = _filled(reader.get(f"/search?collection={indexed}&like={captioned}"))
    reader.send("/search", **filled, picture=(io.BytesIO(picture("blue")), "blue.png"))
    search = _newest(served)
    assert reader.client.get(f"/api/v1/searches/{search.id}/picture").get_data() == picture("blue")


def test_a_refused_form_keeps_the_item_and_what_of_it_is_asked(reader: Visitor, indexed: str, captioned: str) -> None:
    filled = _filled(reader.get(f"/search?collection={indexed}&like={captioned}"))
    page = reader.send("/search", **{**filled, "like_parts": ["picture"], "k": "0"})
    assert _filled(page)["like"] == captioned
    assert _filled(page)["like_parts"] == ["picture"]


def test_a_deleted_item_is_like_nothing(reader: Visitor, indexed: str, captioned: str, ada: Caller) -> None:
    filled = _filled(reader.get(f"/search?collection={indexed}&like={captioned}"))
    ada.delete(f"/items/{captioned}")
    assert reader.get(f"/search?like={captioned}").status == 404
    data = {"csrf_token": reader.get("/search") and reader.token(), **filled}
    assert reader.client.post("/search", data=data).status_code == 404
