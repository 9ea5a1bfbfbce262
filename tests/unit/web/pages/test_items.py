"""Items on the pages: filters, details, rights."""

from __future__ import annotations

import io
import re
import uuid

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor
from tests.unit.web.pictures import picture

from retllm.db.enums import Role, Visibility
from retllm.db.session import transaction
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item, new_id
from retllm.identity import accounts, audit
from retllm.indexing.indexed import keep_error
from retllm_web.http.services import Services

SCRIPT = {"X-Requested-With": "fetch"}


@pytest.fixture
def viewer(app: Flask, served: Services, texts: str) -> Visitor:
    """A viewer, with ada's collection open to everyone."""
    with transaction(served.sessions) as session:
        accounts.create_user(session, "vic", PASSWORD, Role.VIEWER)
        session.get_one(Collection, uuid.UUID(texts)).visibility = Visibility.EVERYONE
    visitor = Visitor(app.test_client())
    visitor.log_in("vic")
    return visitor


@pytest.fixture
def mixed(indexed: str, served: Services) -> dict[str, uuid.UUID]:
    """Three texts: indexed, failed, and not yet indexed; return their keys by name."""
    with transaction(served.sessions) as session:
        items = dict(iter(session.execute(sa.select(Item.name, Item.id))))
        session.execute(sa.delete(Embedding).where(Embedding.item_id != items["robin"]))
        keep_error(session, items["wren"], "The text is <too> odd.")
    return items


def _names(page: Page) -> list[str]:
    return [e.text for e in page.all("span", class_="tile-name")]


def test_items_are_counted_and_filtered_by_state(reader: Visitor, indexed: str, mixed: dict[str, uuid.UUID]) -> None:
    here = f"/collections/{indexed}"
    page = reader.get(here)
    states = [e.text for e in page.all("a", class_="btn") if (e.attributes["href"] or "").endswith("#items")]
    assert states == ["All 3", "Indexed 1", "Not indexed 1", "Failed 1"]
    assert _names(reader.get(f"{here}?state=indexed")) == ["robin"]
    assert _names(reader.get(f"{here}?state=missing")) == ["a crow"]
    page = reader.get(f"{here}?state=failed")
    assert _names(page) == ["wren"]
    assert "Failed: The text is <too> odd." in page.one("li", class_="tile").text
    assert page.one("a", class_="btn", aria_current="true").text == "Failed 1"
    assert len(_names(reader.get(f"{here}?state=nonsense"))) == 3
    assert "1 item could not be indexed" in reader.get(here).text


def test_the_text_filter_searches_names_texts_and_captions(reader: Visitor, texts: str) -> None:
    here = f"/collections/{texts}"
    reader.get(here)
    sheet = b"file,caption\nred.png,A Wall of Bricks 100%_sure\n"
    parts = [(io.BytesIO(picture("red")), "red.png"), (io.BytesIO(sheet), "c.csv")]
    reader.send(f"{here}/upload", file=parts)
    for q, names in (
        ("of bricks", ["red.png"]),
        ("RED.P", ["red.png"]),
        ("a w", ["wren", "red.png"]),
        ("0%25_s", ["red.png"]),
        ("0_", []),
        ("%25", ["red.png"]),
    ):
        assert _names(reader.get(f"{here}?q={q}")) == names, q
    assert _names(reader.get(f"{here}?q=wall&kind=text")) == []


def test_paging_keeps_the_filter(reader: Visitor, ada: Caller) -> None:
    key = ada.post("/collections", json={"name": "Many"}).json["id"]
    ada.post(f"/collections/{key}/items", json={"items": [{"text": f"bird {n}"} for n in range(50)]})
    page = reader.get(f"/collections/{key}?state=missing&q=bird")
    (link,) = [e for e in page.all("a") if e.text == "Show more"]
    address = (link.attributes["href"] or "").partition("#")[0]
    assert "state=missing" in address
    assert "q=bird" in address
    assert _names(reader.get(address)) == ["bird 48", "bird 49"]


def test_an_item_page_shows_its_neighbours_vectors_and_searches(
    reader: Visitor, indexed: str, searched: Searched
) -> None:
    searched.finish([2, 1, 3])
    first, second, third = searched.items
    page = reader.get(f"/items/{second}")
    assert page.one("a", rel="prev").attributes["href"] == f"/items/{first}"
    assert page.one("a", rel="next").attributes["href"] == f"/items/{third}"
    assert "This is the first item" in reader.get(f"/items/{first}").text
    page = reader.get(f"/items/{second}")
    assert "revision rev-of-embed" in page.text
    assert "in use" in page.text
    found = page.one("a", href=f"/jobs/{searched.id}")
    assert found.text == "<b>a small bird</b>"
    assert "rank 1, coarse 2" in page.text
    assert page.all("a", href=f"/search?collection={indexed}&like={second}")


def test_a_vector_of_an_earlier_item_version_is_outdated(reader: Visitor, indexed: str, served: Services) -> None:
    with transaction(served.sessions) as session:
        session.execute(sa.update(Item).values(version=2))
        item_id = session.scalars(sa.select(Item.id).limit(1)).one()
    assert "outdated" in reader.get(f"/items/{item_id}").text


def test_a_failed_item_shows_its_error_and_the_next_step(
    reader: Visitor, indexed: str, mixed: dict[str, uuid.UUID], viewer: Visitor
) -> None:
    page = reader.get(f"/items/{mixed['wren']}")
    assert "The text is <too> odd." in page.one("div", role="alert").text
    assert reader.send(f"/collections/{indexed}/index").path == f"/collections/{indexed}"
    alert = viewer.get(f"/items/{mixed['wren']}").one("div", role="alert")
    assert "Editors of this collection" in alert.text


def test_viewers_get_no_controls_and_their_changes_are_rejected(viewer: Visitor, texts: str, served: Services) -> None:
    here = f"/collections/{texts}"
    page = viewer.get(here)
    actions = {form.attributes.get("action") for form in page.all("form", method="post")}
    assert not {f"{here}/{name}" for name in ("upload", "texts", "index", "change", "delete")} & actions
    assert "ask ada to make you an editor" in page.text
    token = viewer.token()
    with transaction(served.sessions) as session:
        item_id = session.scalars(sa.select(Item.id).limit(1)).one()
    assert not viewer.get(f"/items/{item_id}").all("form", action=f"/items/{item_id}/delete")
    for path in (f"{here}/upload", f"{here}/texts", f"/items/{item_id}/delete"):
        data = {"csrf_token": token, "text": "x", "file": (io.BytesIO(b"a wren"), "a.txt")}
        assert viewer.client.post(path, data=data).status_code == 403, path
    assert not viewer.get("/collections").all("form", action="/collections")
    answer = viewer.client.post("/collections", data={"csrf_token": token, "name": "Mine"})
    assert answer.status_code == 403


def test_collection_cards_show_pictures_or_else_texts(reader: Visitor, texts: str, ada: Caller) -> None:
    files = [(io.BytesIO(picture(colour)), f"{colour}.png") for colour in ("red", "blue", "green", "black", "white")]
    pictures = str(ada.post("/collections", json={"name": "Walls"}).json["id"])
    both = {"items": [{"text": "a robin that is no picture"}]}
    ada.post(f"/collections/{pictures}/items", data={"file": files}, content_type="multipart/form-data")
    ada.post(f"/collections/{pictures}/items", json=both)
    ada.post("/collections", json={"name": "Empty"})
    page = reader.get("/collections")
    empty, walls, birds = page.all("li", class_="collection-card")
    assert "No items yet" in empty.text
    newest = [row["id"] for row in ada.get(f"/collections/{pictures}/items?kind=image").json["items"]][:0:-1]
    assert re.findall(r'<img src="/api/v1/items/([^/]+)/thumbnail"', page.html) == newest
    assert "no picture" not in walls.text
    assert "a robin" in birds.text


def test_the_index_state_is_sent_again_only_if_it_changed(
    reader: Visitor, texts: str, ada: Caller, served: Services
) -> None:
    address = f"/collections/{texts}/live"

    def ask(etag: str = "") -> tuple[int, str]:
        answer = reader.client.get(address, headers=SCRIPT | ({"If-None-Match": etag} if etag else {}))
        return answer.status_code, answer.headers["ETag"]

    status, before = ask()
    assert status == 200
    assert ask(before) == (304, before)
    job = ada.post(f"/collections/{texts}/index").json["id"]
    status, queued = ask(before)
    assert (status, queued != before) == (200, True)
    with transaction(served.sessions) as session:
        session.execute(sa.text("UPDATE units SET started_at = now(), attempt = 1 WHERE job_id = :job"), {"job": job})
    status, started = ask(queued)
    assert (status, started != queued) == (200, True)
    ada.post(f"/collections/{texts}/items?index=false", json={"items": [{"text": "one more"}]})
    assert ask(started)[0] == 200


def test_changes_to_collections_and_items_are_in_the_audit_log(reader: Visitor, ada: Caller, served: Services) -> None:
    reader.get("/collections")
    here = reader.send("/collections", name="Noted").path
    reader.send(f"{here}/texts", text="a magpie", name="magpie")
    reader.send(f"{here}/texts", text="a magpie", name="again")
    reader.send(f"{here}/change", name="Renamed", description="")
    item_id = ada.get(f"{here}/items").json["items"][0]["id"]
    reader.get(f"/items/{item_id}")
    reader.send(f"/items/{item_id}/delete")
    reader.send(f"{here}/delete", confirm="Renamed")
    with transaction(served.sessions) as session:
        entries = [one for one in audit.page(session, audit.AuditFilters(user_name="ada")) if one.action != "logged in"]
    told = [(one.action, one.target, one.detail) for one in reversed(entries) if one.action != "job submitted"]
    assert told == [
        ("collection created", "Noted", {}),
        # duplicates submit no job
        ("items uploaded", "Noted", {"added": 1}),
        ("collection changed", "Renamed", {"name": ["Noted", "Renamed"]}),
        ("item deleted", "magpie", {}),
        ("collection deleted", "Renamed", {"items": 0}),
    ]
    assert all(one.address for one in entries)


def test_an_item_that_failed_only_with_another_embedder_still_counts_as_indexed(
    reader: Visitor, indexed: str, served: Services
) -> None:
    with transaction(served.sessions) as session:
        item_id = session.scalars(sa.select(Item.id).limit(1)).one()
        keep_error(session, item_id, "odd")
        other = EmbeddingModel(id=new_id(), name="other", revision="r", dimension=2, preprocessing_hash="h")
        session.add(other)
    page = reader.get(f"/items/{item_id}")
    assert not page.all("div", role="alert")
    assert "The last attempt with another embedder failed: odd" in page.text
    assert "All 3 items are indexed" in reader.get(f"/collections/{indexed}").text
