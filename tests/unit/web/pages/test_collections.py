"""The pages of collections and of their items."""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.pictures import picture
from tests.unit.web.vectors import embed_items

from retllm.db.enums import JobKind, JobState
from retllm.db.jobs import Job
from retllm.db.operations import PausedQueue
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.settings import Settings, public_name
from retllm.uploads.removal import remove_deleted
from retllm_web.actions import item_lists
from retllm_web.http.services import Services
from retllm_web.pages import collections

SCRIPT = {"X-Requested-With": "fetch"}


def _upload(reader: Visitor, key: str, *files: tuple[str, bytes], **fields: str) -> Page:
    reader.get(f"/collections/{key}")
    parts = [(io.BytesIO(content), name) for name, content in files]
    return reader.send(f"/collections/{key}/upload", file=parts, **fields)


def _lines(page: Page) -> list[tuple[str, str]]:
    """Return name and outcome of each file that the page lists."""
    # folders stand apart from the name of the file
    names = [e.text.replace("/ ", "/") for e in page.all("th", scope="row")]
    return list(
        zip(
            names,
            [e.attributes["data-status"] or "" for e in page.all("tr") if "data-status" in e.attributes],
            strict=True,
        )
    )


def test_an_empty_list_explains_how_to_start(reader: Visitor) -> None:
    text = reader.get("/collections").text
    assert "Create a collection" in text
    assert "Upload" in text


def test_a_collection_is_created_and_its_name_is_escaped(reader: Visitor) -> None:
    reader.get("/collections")
    page = reader.send("/collections", name="  Birds & <bees>  ", description="of the garden")
    assert page.one("h1").text == "Birds & <bees>"
    assert "<bees>" not in page.html
    assert "of the garden" in page.text
    assert "Birds & <bees>" in reader.get("/collections").one("li", class_="card").text


def test_an_invalid_name_is_rejected_next_to_its_field(reader: Visitor) -> None:
    for name, says in (("  ", "Enter a name for the collection"), ("x" * 201, "at most 200"), ("a\0b", "NUL")):
        reader.get("/collections")
        page = reader.send("/collections", name=name, description="kept")
        assert page.status == 422
        field = page.one("input", id="name")
        assert field.attributes["aria-invalid"] == "true"
        assert says in page.one("div", id=(field.attributes["aria-describedby"] or "")).text
        assert page.one("input", id="description").attributes["value"] == "kept"


def test_a_duplicate_collection_name_is_rejected(reader: Visitor, texts: str) -> None:
    reader.get("/collections")
    page = reader.send("/collections", name="Birds")
    assert page.status == 409
    assert "already" in page.one("div", id="name-problem").text


def test_the_list_shows_item_counts_and_the_last_job(reader: Visitor, indexed: str, ada: Caller) -> None:
    ada.post(f"/collections/{indexed}/index")
    (card,) = reader.get("/collections").all("li", class_="card")
    assert "3 texts" in card.text
    assert "All items indexed" in card.text
    assert "Last job: index, succeeded" in card.text


def test_a_large_collection_without_a_vector_index_says_so(
    reader: Visitor, indexed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "The collection has no vector index, so searches compare the query with every vector"
    assert told not in reader.get(f"/collections/{indexed}").text
    monkeypatch.setattr(collections, "EXACT_LIMIT", 2)
    for path in ("", "/live"):
        page = reader.get(f"/collections/{indexed}{path}")
        assert told in page.text
        assert "Build the vector index" in page.text
    monkeypatch.setattr(collections, "usable_index", lambda *_: object())
    assert told not in reader.get(f"/collections/{indexed}").text


def test_collections_of_others_return_404_and_stay_unchanged(app: Flask, texts: str, bob: Caller, ada: Caller) -> None:
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    assert "Birds" not in stranger.get("/collections").text
    token = stranger.token()
    for path in ("", "/live"):
        assert stranger.get(f"/collections/{texts}{path}").status == 404
    for action in ("upload", "texts", "index", "search", "change", "delete"):
        data = {"csrf_token": token, "text": "x", "name": "Mine", "confirm": "Birds"}
        files = {"file": (io.BytesIO(picture()), "red.png")} if action == "upload" else {}
        answer = stranger.client.post(f"/collections/{texts}/{action}", data=data | files)
        assert answer.status_code == 404, action
    view = ada.get(f"/collections/{texts}").json
    assert (view["name"], view["items_total"], view["last_job"]) == ("Birds", 3, None)


def test_an_upload_without_scripts_lists_the_outcome_of_each_file(
    reader: Visitor, texts: str, notified: RecordingNotifier
) -> None:
    page = _upload(
        reader,
        texts,
        ("red.png", picture("red")),
        ("again.png", picture("red")),
        ("<i>broken</i>.png", b"no picture"),
        ("captions.csv", b"file,caption\nred.png,a red wall\n"),
        ("2023/Thumbs.db", b"x"),
    )
    assert page.status == 200
    # rejected files come first
    assert _lines(page) == [
        ("<i>broken</i>.png", "rejected"),
        ("red.png", "added"),
        ("again.png", "duplicate"),
        ("captions.csv", "read"),
        ("2023/Thumbs.db", "ignored"),
        ("captions.csv, row 2", "updated"),
    ]
    assert "1 added, 1 updated, 1 duplicate, 1 ignored, 1 rejected." in page.text
    assert "Left out: previews and settings of Windows." in page.text
    assert "is not such a picture" in page.text
    assert len(notified.units) == 1


def test_an_upload_without_a_file_is_rejected(reader: Visitor, texts: str) -> None:
    page = _upload(reader, texts, ("", b""))
    assert page.status == 422
    assert "Choose at least one file" in page.one("div", id="file-problem").text


def test_a_text_is_added_once_and_an_empty_text_is_rejected(reader: Visitor, texts: str) -> None:
    reader.get(f"/collections/{texts}")
    assert "Text added" in reader.send(f"/collections/{texts}/texts", text="a magpie", name="").text
    assert (
        "already contains this text as “a magpie”"
        in reader.send(f"/collections/{texts}/texts", text="a magpie", name="other").text
    )
    page = reader.send(f"/collections/{texts}/texts", text="   ", name="blank")
    assert page.status == 422
    assert "empty" in page.one("div", id="text-problem").text


def test_unindexed_items_can_be_indexed_from_the_page(reader: Visitor, texts: str, notified: RecordingNotifier) -> None:
    page = reader.get(f"/collections/{texts}")
    assert "3 of 3 items are not indexed yet" in page.text
    assert "as soon as an item is indexed" in page.text
    page = reader.send(f"/collections/{texts}/index")
    assert page.one("div", id="index-state").attributes["data-over"] == "false"
    assert page.all("progress")
    assert len(notified.units) == 1


def test_a_waiting_index_job_names_the_paused_queue(reader: Visitor, texts: str, served: Services) -> None:
    reader.get(f"/collections/{texts}")
    reader.send(f"/collections/{texts}/index")
    live = f"/collections/{texts}/live"
    before = reader.get(live)
    assert "paused" not in before.text
    with transaction(served.sessions) as session:
        session.add(PausedQueue(queue="embed", reason="the disk is full"))
    told = reader.get(live, headers={"If-None-Match": before.headers["ETag"]})
    assert told.status == 200
    assert "paused the queue “embed”" in told.text
    assert "the disk is full" in told.text
    assert "paused the queue “embed”" in reader.get(f"/collections/{texts}").text


def test_an_index_job_that_ends_during_a_poll_is_polled_again(
    reader: Visitor, texts: str, served: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fragment that says the job is over is not polled again, so its counts must be the final ones."""
    reader.get(f"/collections/{texts}")
    reader.send(f"/collections/{texts}/index")
    counted = collections.collection_views

    def count_and_end(*given: Any) -> Any:
        found = counted(*given)
        with transaction(served.sessions) as session:
            session.execute(sa.update(Job).values(state=JobState.SUCCEEDED, finished_at=sa.func.now()))
        embed_items(served, settings, texts, public_name(settings.embedder_name))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(collections, "collection_views", count_and_end)
        page = reader.get(f"/collections/{texts}/live")
        assert page.one("div", id="index-state").attributes["data-over"] == "false"
    page = reader.get(f"/collections/{texts}/live")
    assert page.one("div", id="index-state").attributes["data-over"] == "true"
    assert "All 3 items are indexed" in page.text


def test_an_empty_collection_cannot_be_indexed(reader: Visitor, ada: Caller) -> None:
    key = ada.post("/collections", json={"name": "Empty"}).json["id"]
    reader.get(f"/collections/{key}")
    data = {"csrf_token": reader.token()}
    page = Page(reader.client.post(f"/collections/{key}/index", data=data, follow_redirects=True))
    assert "collection is empty" in page.one("div", role="alert").text


def test_a_failed_index_job_is_linked_if_items_are_not_indexed(
    reader: Visitor, texts: str, served: Services, ada: Caller
) -> None:
    with transaction(served.sessions) as session:
        job = Job(id=new_id(), kind=JobKind.INDEX, state=JobState.FAILED, user_id=ada.user.id, params={})
        job.collection_id = uuid.UUID(texts)
        session.add(job)
    page = reader.get(f"/collections/{texts}/live")
    assert "failed" in page.text
    assert page.one("a", href=f"/jobs/{job.id}").text == "index job"


def test_items_are_filtered_by_kind_and_name(reader: Visitor, texts: str, ada: Caller) -> None:
    _upload(reader, texts, ("100%_red.png", picture("red")), ("blue.png", picture("blue")))

    def names(query: str) -> list[str]:
        return [e.text for e in reader.get(f"/collections/{texts}?{query}").all("span", class_="tile-name")]

    assert names("kind=image") == ["100%_red.png", "blue.png"]
    assert names("kind=text&q=WREN") == ["wren"]
    assert names("q=0%25_") == ["100%_red.png"]
    assert len(names("kind=nonsense&q=")) == 5
    assert names("q=nothing") == []
    assert "No items match" in reader.page.text  # type: ignore[union-attr]


def test_a_page_compares_some_items_with_the_filter_and_leads_to_the_others(
    reader: Visitor, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ada.post("/collections", json={"name": "Many"}).json["id"]
    ada.post(f"/collections/{key}/items", json={"items": [{"text": f"bird {n}"} for n in range(5)]})
    monkeypatch.setattr(item_lists, "MAX_COMPARED", 2)
    # as if no index served the filters
    monkeypatch.setattr(item_lists, "_CHEAP", -1)

    def names(page: Page) -> list[str]:
        return [e.text for e in page.all("span", class_="tile-name")]

    found = []
    address = f"/collections/{key}?q=bird+4&state=missing&kind=text"
    for _ in range(3):
        page = reader.get(address, headers=SCRIPT)
        found.append(names(page))
        assert ("None of the 2 items" in page.text) == (not found[-1])
        more = [e for e in page.all("a") if e.text == "Show more"]
        address = str(more[0].attributes["href"]).partition("#")[0] if more else ""
    assert found == [[], [], ["bird 4"]]
    assert not address
    assert "None of the 2 items" in reader.get(f"/collections/{key}?q=bird+4").text
    first = ada.get(f"/collections/{key}/items?q=bird+4").json
    assert first["items"] == []
    assert first["next"]
    # nothing is compared if the counts say that there is none
    for none in ("kind=image", "state=indexed", "state=failed"):
        assert ada.get(f"/collections/{key}/items?{none}").json == {"items": [], "next": None}
    assert len(ada.get(f"/collections/{key}/items").json["items"]) == 5


def test_a_filter_and_an_order_are_in_the_address_and_a_wrong_filter_is_told(reader: Visitor, ada: Caller) -> None:
    key = ada.post("/collections", json={"name": "Shelves"}).json["id"]
    ada.post(f"/collections/{key}/items", json={"items": [{"text": f"bird {n}", "name": f"a/{n}"} for n in range(60)]})
    page = reader.get(f"/collections/{key}?filter=folder+~+a&sort=-name")
    names = [e.text for e in page.all("span", class_="tile-name")]
    assert (len(names), names[0].replace(" ", "")) == (48, "a/9")
    (link,) = [e for e in page.all("a") if e.text == "Show more"]
    rest = reader.get(str(link.attributes["href"]).partition("#")[0])
    assert len(rest.all("span", class_="tile-name")) == 12
    wrong = reader.get(f"/collections/{key}?filter=foldr+~+a")
    assert "Did you mean folder?" in wrong.text
    assert "No items are shown until the filter is corrected." in wrong.text
    assert [e.attributes["value"] for e in wrong.all("input") if e.attributes.get("name") == "filter"] == ["foldr ~ a"]


def test_a_filter_that_takes_too_long_is_refused(
    reader: Visitor, texts: str, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_lists, "_SECONDS", 0.2)
    monkeypatch.setattr(item_lists, "condition", lambda _: sa.text("(SELECT pg_sleep(60)) IS NULL"))
    answer = ada.get(f"/collections/{texts}/items?filter=name+~+a")
    assert (answer.status_code, answer.json["error"]["detail"]["field"]) == (422, "filter")
    page = reader.get(f"/collections/{texts}?filter=name+~+a")
    assert page.status == 200
    assert "takes longer than 0.2 s" in page.text


def test_items_are_paged_with_and_without_scripts(reader: Visitor, ada: Caller) -> None:
    key = ada.post("/collections", json={"name": "Many"}).json["id"]
    ada.post(f"/collections/{key}/items", json={"items": [{"text": f"bird {n}"} for n in range(50)]})
    first = reader.get(f"/collections/{key}?kind=text")
    (link,) = [e for e in first.all("a") if e.text == "Show more"]
    address = (link.attributes["href"] or "").partition("#")[0]
    assert "kind=text" in address
    rest = reader.get(address)
    names = [e.text for e in first.all("span", class_="tile-name") + rest.all("span", class_="tile-name")]
    assert names == [f"bird {n}" for n in range(50)]
    piece = reader.get(address, headers=SCRIPT)
    assert [e.text for e in piece.all("span", class_="tile-name")] == names[48:]
    assert not piece.all("html")


def test_an_invalid_key_in_the_url_returns_404(reader: Visitor, texts: str) -> None:
    assert reader.get(f"/collections/{texts}?after=1").status == 404
    assert reader.get("/collections?after=x").status == 404
    assert reader.get("/collections/7").status == 404


def test_an_item_page_shows_its_picture_caption_and_metadata(reader: Visitor, texts: str, ada: Caller) -> None:
    _upload(reader, texts, ("red.png", picture("red", size=(40, 30))), ("c.csv", b"file,caption\nred.png,a red wall\n"))
    (item,) = ada.get(f"/collections/{texts}/items?kind=image%2Btext").json["items"]
    page = reader.get(f"/items/{item['id']}")
    assert page.one("h1").text == "red.png"
    image = page.one("img", class_="large")
    assert image.attributes["alt"] == "a red wall"
    assert reader.client.get(image.attributes["src"]).mimetype == "image/webp"
    for fact in ("captioned picture", "40 × 30 pixels", "image/png", item["content_sha256"], "not yet"):
        assert fact in page.one("dl", class_="item-facts").text
    assert page.all("a", href=f"/collections/{texts}")


def test_an_item_is_deleted_from_its_page(reader: Visitor, texts: str, ada: Caller) -> None:
    item = ada.get(f"/collections/{texts}/items").json["items"][0]
    reader.get(f"/items/{item['id']}")
    page = reader.send(f"/items/{item['id']}/delete")
    assert "” moved to the trash. Undo" in page.text
    assert "2 texts" in page.text
    assert reader.get(f"/items/{item['id']}").status == 404


def test_a_collection_is_renamed_unless_the_name_is_taken(reader: Visitor, texts: str, ada: Caller) -> None:
    ada.post("/collections", json={"name": "Taken"})
    reader.get(f"/collections/{texts}")
    assert reader.send(f"/collections/{texts}/change", name="Crows", description="black").one("h1").text == "Crows"
    page = reader.send(f"/collections/{texts}/change", name="Taken", description="")
    assert "already" in page.one("div", role="alert").text
    assert page.one("h1").text == "Crows"


def test_the_language_of_a_collection_is_chosen_when_it_is_made_and_changed_later(reader: Visitor, ada: Caller) -> None:
    reader.get("/collections")
    assert _chosen(reader.send("/collections", name="Vögel", language="german")) == "german"
    here = f"/collections/{ada.get('/collections').json['collections'][0]['id']}"
    assert _chosen(reader.send(f"{here}/change", name="Vögel", language="french")) == "french"
    page = reader.send(f"{here}/change", name="Vögel", language="klingon")
    assert "Choose one of: arabic" in page.one("div", role="alert").text
    assert _chosen(page) == "french"


def _chosen(page: Page) -> str:
    """The language that the form of a collection shows."""
    known = ("english", "french", "german")
    (chosen,) = [one.text for one in page.all("option") if "selected" in one.attributes and one.text in known]
    return chosen


def test_a_collection_is_deleted_only_if_its_name_is_typed(
    reader: Visitor, texts: str, settings: Settings, served: Services, without_trash: None
) -> None:
    _upload(reader, texts, ("red.png", picture("red")))
    files = Path(settings.media_url.removeprefix("file://"))
    reader.get(f"/collections/{texts}")
    page = reader.send(f"/collections/{texts}/delete", confirm="Bird")
    assert "Not deleted." in page.one("div", role="alert").text
    page = reader.send(f"/collections/{texts}/delete", confirm=" Birds ")
    assert page.path == "/collections"
    assert "” deleted." in page.text
    assert reader.get(f"/collections/{texts}").status == 404
    remove_deleted(served.sessions, served.storage)
    assert not [one for one in files.rglob("*") if one.is_file()]
