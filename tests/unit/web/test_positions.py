"""Who may not see where items were made learns it through no door, and what is not kept is nowhere."""

from __future__ import annotations

import io
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.media.test_parts import pages
from tests.unit.web.conftest import Caller, start_session
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pictures import located, picture, place_in
from tests.unit.web.test_item_changes import added
from tests.unit.web.vectors import embed_items

from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item
from retllm.errors import InvalidInput
from retllm.media import positions
from retllm.operations.maintenance import ErasePositions
from retllm.search.coarse import require_filter
from retllm.settings import Settings, public_name
from retllm_web.http.services import Services

# of what is at 48, 11: everything else than "position" is a value that no page may have
NEAR, FAR = "position within (47, 10, 49, 12)", "position within (10, 10, 12, 12)"
FILTERS = (NEAR, FAR, "has position", "not has position", f"kind = text or not (not ({NEAR}))")


@pytest.fixture
def photograph(ada: Caller, birds: str) -> str:
    """A picture at 48 degrees north and 11 east in a collection of ada's that everyone sees."""
    key = added(ada, birds, ("robin.jpg", located(48, 11)))
    assert ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"}).status_code == 200
    return key


def hide(ada: Caller, collection: str, who: str = "editors") -> None:
    answer = ada.patch(f"/collections/{collection}", json={"positions": who})
    assert (answer.status_code, answer.json["positions"]) == (200, who)


@pytest.fixture
def hidden(ada: Caller, birds: str, photograph: str) -> str:
    """The same picture, whose position only editors see."""
    hide(ada, birds)
    return photograph


@pytest.fixture
def stranger(app: OpenAPI, bob: Caller) -> Visitor:
    """Bob in his browser, who is no member of that collection."""
    visitor = Visitor(app.test_client())
    start_session(app, visitor.client, bob.user)
    return visitor


def test_everyone_sees_positions_unless_the_owner_says_otherwise(bob: Caller, birds: str, photograph: str) -> None:
    item = bob.get(f"/items/{photograph}").json
    assert (item["position"], item["original"]) == ({"latitude": 48, "longitude": 11}, True)
    assert place_in(bob.get(f"/items/{photograph}/picture").data)
    assert len(bob.get(f"/collections/{birds}/items", query_string={"filter": NEAR}).json["items"]) == 1


def test_only_who_manages_a_collection_says_who_sees_positions(
    ada: Caller, bob: Caller, birds: str, photograph: str
) -> None:
    ada.post(f"/collections/{birds}/members", json={"name": "bob", "role": "editor"})
    assert bob.patch(f"/collections/{birds}", json={"positions": "nobody"}).status_code == 403
    assert ada.get(f"/items/{photograph}").json["position"]


def test_items_do_not_tell_their_positions(
    ada: Caller, bob: Caller, birds: str, hidden: str, stranger: Visitor
) -> None:
    assert ada.get(f"/items/{hidden}").json["position"] == {"latitude": 48, "longitude": 11}
    item = bob.get(f"/items/{hidden}").json
    assert (item["position"], item["original"]) == (None, False)
    assert [one["position"] for one in bob.get(f"/collections/{birds}/items").json["items"]] == [None]
    for page in (f"/items/{hidden}", f"/collections/{birds}"):
        assert "48.00000" not in stranger.get(page).html
    assert "Position" not in stranger.get(f"/items/{hidden}").text


@pytest.mark.parametrize("text", FILTERS)
def test_no_filter_is_an_oracle(bob: Caller, birds: str, hidden: str, stranger: Visitor, text: str) -> None:
    answer = bob.get(f"/collections/{birds}/items", query_string={"filter": text})
    assert (answer.status_code, answer.json["error"]["detail"]["field"]) == (422, "filter")
    assert "Only editors" in answer.json["error"]["message"]
    page = stranger.get(f"/collections/{birds}", query_string={"filter": text, "facets": "1"})
    assert "Only editors" in page.text
    assert not page.all("li", class_="tile")
    facets = stranger.get(f"/collections/{birds}/facets", query_string={"filter": text})
    assert not facets.all("a", class_="facet")
    # on the page of an item, the list that one came from is the whole collection
    ways = [stranger.get(f"/items/{hidden}", query_string={"filter": one}).html for one in (NEAR, FAR)]
    assert ways[0].count("Filtered items") == ways[1].count("Filtered items") == 0


def test_who_may_not_see_positions_has_no_places_and_no_colour_of_them(
    ada: Caller, bob: Caller, birds: str, hidden: str, stranger: Visitor
) -> None:
    assert bob.get(f"/collections/{birds}/places").status_code == 404
    assert stranger.get(f"/collections/{birds}/places").status == 404
    for page in (f"/collections/{birds}", f"/collections/{birds}/map"):
        assert "Places" not in stranger.get(page).text
    for text in FILTERS:
        answer = bob.get(f"/collections/{birds}/map/points", query_string={"filter": text})
        assert (answer.status_code, answer.json["error"]["detail"]["field"]) == (422, "filter")
    for who in (ada, bob):
        answer = who.get(f"/collections/{birds}/map/points", query_string={"colour": "position"})
        assert (answer.status_code, answer.json["error"]["detail"]["field"]) == (422, "colour")
    assert [one["count"] for one in ada.get(f"/collections/{birds}/places").json["clusters"]] == [1]


def test_a_collection_that_keeps_no_positions_has_no_places(ada: Caller, birds: str, photograph: str) -> None:
    hide(ada, birds, "nobody")
    assert ada.get(f"/collections/{birds}/places").status_code == 404


def test_editors_filter_by_position(ada: Caller, birds: str, hidden: str) -> None:
    found = [ada.get(f"/collections/{birds}/items", query_string={"filter": one}).json["items"] for one in (NEAR, FAR)]
    assert [[one["id"] for one in items] for items in found] == [[hidden], []]


def test_no_search_is_an_oracle(
    ada: Caller, bob: Caller, birds: str, hidden: str, served: Services, settings: Settings
) -> None:
    embed_items(served, settings, birds, public_name(settings.embedder_name))
    for who in (ada, bob):
        answer = who.post(f"/collections/{birds}/searches", json={"text": "a robin", "filter": NEAR})
        assert (answer.status_code, answer.json["error"]["detail"]["field"]) == (422, "filter")
    assert bob.post(f"/collections/{birds}/searches", json={"text": "a", "filter": "rating > 3"}).status_code == 202


def test_a_search_that_waits_or_is_tried_again_is_refused_too(
    ada: Caller, birds: str, photograph: str, served: Services
) -> None:
    search = Search(filter=NEAR)
    with transaction(served.sessions) as session:
        require_filter([session.get_one(Collection, UUID(birds))], search)
    hide(ada, birds)
    with transaction(served.sessions) as session, pytest.raises(InvalidInput, match="leave position out"):
        require_filter([session.get_one(Collection, UUID(birds))], search)


def test_downloads_do_not_tell_where_they_were_made(ada: Caller, bob: Caller, hidden: str) -> None:
    assert place_in(ada.get(f"/items/{hidden}/picture").data)
    for name in ("picture", "rendition", "thumbnail"):
        answer = bob.get(f"/items/{hidden}/{name}")
        assert answer.status_code == 200
        assert not place_in(answer.data)
        assert b"Maker" not in answer.data
    answer = bob.get(f"/items/{hidden}/picture")
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="robin.')
    again = bob.get(f"/items/{hidden}/picture", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    # the tag of the original, which somebody has told, leads to the copy too
    original = ada.get(f"/items/{hidden}/picture").headers["ETag"]
    assert bob.get(f"/items/{hidden}/picture", headers={"If-None-Match": original}).status_code == 200


def test_whole_files_are_refused(ada: Caller, bob: Caller, birds: str, hidden: str) -> None:
    form = {"file": [(io.BytesIO(pages(2, "PDF")), "scan.pdf")]}
    ada.post(f"/collections/{birds}/items?index=false", data=form, content_type="multipart/form-data")
    page = next(one for one in bob.get(f"/collections/{birds}/items").json["items"] if one["source"])
    assert bob.get(f"/items/{page['id']}/source").status_code == 403
    assert bob.get(f"/items/{page['id']}/picture").status_code == 200
    assert ada.get(f"/items/{page['id']}/source").status_code == 200


def test_the_picture_of_a_search_does_not_tell_where_it_was_made(
    ada: Caller, bob: Caller, birds: str, hidden: str, served: Services, settings: Settings, stranger: Visitor
) -> None:
    def search(who: Caller, collection: str, **sent: Any) -> str:
        answer = who.post(f"/collections/{collection}/searches", **sent)
        assert answer.status_code == 202, answer.json
        return str(answer.json["id"])

    def is_told(search: str) -> bool:
        data = bob.get(f"/searches/{search}/picture").data
        assert data
        return bool(place_in(data))

    like = {"like": {"item": hidden, "parts": ["picture"]}}
    embed_items(served, settings, birds, public_name(settings.embedder_name))
    assert not is_told(search(ada, birds, json=like))
    assert not is_told(search(bob, birds, json=like))
    form = {"picture": (io.BytesIO(located(3, 4)), "sent.jpg")}
    of_editor = search(ada, birds, data=form, content_type="multipart/form-data")
    assert place_in(ada.get(f"/searches/{of_editor}/picture").data)
    assert not is_told(of_editor)
    # in a collection of one's own
    own = str(bob.post("/collections", json={"name": "Own"}).json["id"])
    added(bob, own, ("own.png", picture("red")))
    embed_items(served, settings, own, public_name(settings.embedder_name), revision="next")
    assert not is_told(search(bob, own, json=like))
    stranger.get(f"/collections/{own}")
    page = stranger.send(f"/collections/{own}/search", again=of_editor, k="1")
    again = page.path.rpartition("/")[2]
    assert again != of_editor
    assert not is_told(again)


def test_no_copy_of_an_item_leads_to_its_original(ada: Caller, bob: Caller, birds: str, hidden: str) -> None:
    own = str(bob.post("/collections", json={"name": "Own"}).json["id"])
    for chosen in ({"items": [hidden]}, {"filter": ""}, {"filter": NEAR}):
        assert bob.post(f"/collections/{birds}/items/copy", json={**chosen, "to": own}).status_code == 403
    assert bob.get(f"/collections/{own}/items").json["items"] == []
    target = str(ada.post("/collections", json={"name": "Target"}).json["id"])
    assert ada.post(f"/collections/{birds}/items/copy", json={"items": [hidden], "to": target}).status_code == 200


def test_what_is_not_kept_is_erased_and_never_read(ada: Caller, bob: Caller, birds: str, photograph: str) -> None:
    hide(ada, birds, "nobody")
    later = added(ada, birds, ("wren.jpg", located(47, 12, "navy")))
    for key in (photograph, later):
        assert ada.get(f"/items/{key}").json["position"] is None
        # the file itself is kept, for editors
        assert place_in(ada.get(f"/items/{key}/picture").data)
        assert not place_in(bob.get(f"/items/{key}/picture").data)
    answer = ada.get(f"/collections/{birds}/items", query_string={"filter": NEAR})
    assert answer.status_code == 422
    assert "keeps no positions" in answer.json["error"]["message"]
    place = {"latitude": 1.0, "longitude": 1.0}
    assert ada.patch(f"/items/{later}", json={"position": place}).status_code == 409
    many = {"items": [later], "change": {"position": place}}
    assert ada.post(f"/collections/{birds}/items/change", json=many).status_code == 409
    hide(ada, birds, "everyone")
    assert [one["position"] for one in bob.get(f"/collections/{birds}/items").json["items"]] == [None, None]


def test_an_item_loses_its_position_on_its_way_into_a_collection_that_keeps_none(
    ada: Caller, birds: str, photograph: str
) -> None:
    target = str(ada.post("/collections", json={"name": "Target"}).json["id"])
    hide(ada, target, "nobody")
    made = ada.post(f"/collections/{birds}/items/copy", json={"items": [photograph], "to": target}).json
    hide(ada, target, "everyone")
    assert ada.get(f"/items/{made['new'][photograph]}").json["position"] is None
    assert ada.get(f"/items/{photograph}").json["position"]


def test_dispatchers_erase_what_is_left(
    ada: Caller, birds: str, photograph: str, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "BATCH", 1)
    for number in range(3):
        added(ada, birds, (f"{number}.jpg", located(10 + number, 5, f"rgb({number},0,0)")))
    hide(ada, birds, "nobody")
    there = sa.select(sa.func.count()).where(Item.latitude.is_not(None))
    with transaction(served.sessions) as session:
        assert session.scalar(there) == 3
    assert [one["position"] for one in ada.get(f"/collections/{birds}/items").json["items"]] == [None] * 4
    assert ErasePositions(served.sessions).run() == 3
    with transaction(served.sessions) as session:
        assert session.scalar(there) == 0


def test_the_owner_chooses_on_the_page_of_the_members(
    app: OpenAPI, ada: Caller, birds: str, photograph: str, bob: Caller
) -> None:
    visitor = Visitor(app.test_client())
    start_session(app, visitor.client, ada.user)
    visitor.get(f"/collections/{birds}/people")
    page = visitor.send(f"/collections/{birds}/positions", positions="editors")
    assert "Editors only: others see no positions" in page.text
    (chosen,) = [e for e in page.all("input", type="radio", name="positions") if "checked" in e.attributes]
    assert chosen.attributes["value"] == "editors"
    assert bob.get(f"/items/{photograph}").json["position"] is None
