"""The pages of the trash, and the button that undoes a deletion; without scripts."""

from __future__ import annotations

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor, hidden_fields

from retllm_web.actions import chosen


@pytest.fixture
def keys(texts: str, ada: Caller) -> list[str]:
    """The three texts: robin, wren and a crow."""
    return items(ada, texts)


def items(caller: Caller, collection: str) -> list[str]:
    return [one["id"] for one in caller.get(f"/collections/{collection}/items").json["items"]]


def alerts(page: Page) -> list[str]:
    return [e.text for e in page.all("div", class_="alert")]


def undo(reader: Visitor, page: Page, *, follow: bool = True) -> Page:
    """Press the button in the message."""
    (form,) = [form for form in page.all("form") if form.text.endswith("Undo")]
    action = str(form.attributes["action"])
    sent = {name: value for name, value in hidden_fields(page, action).items() if name in ("at", "back")}
    return reader.send(action, deed="restore", follow=follow, **sent)


def test_a_deletion_is_undone_from_its_message(reader: Visitor, texts: str, keys: list[str], ada: Caller) -> None:
    reader.get(f"/items/{keys[0]}")
    page = reader.send(f"/items/{keys[0]}/delete")
    assert items(ada, texts) == keys[1:]
    page = undo(reader, page)
    assert (alerts(page), page.path) == (["1 item was restored."], f"/collections/{texts}")
    assert items(ada, texts) == keys


def test_undoing_leads_back_to_the_list_with_its_filter_order_and_page(
    reader: Visitor, texts: str, keys: list[str], ada: Caller
) -> None:
    address = f"/collections/{texts}/items/chosen"
    listed = f"/collections/{texts}?q=r&sort=-name&size=s&facets=1&after={keys[1]}"
    page = reader.get(listed)
    sent = hidden_fields(page, address) | {"deed": "delete", "item": keys[:1]}
    page = reader.send(address, **sent)
    back = reader.send(address, follow=False, **hidden_fields(page, address)).headers["Location"]
    page = reader.get(back.partition("#")[0])
    undone = undo(reader, page, follow=False).headers["Location"]
    assert items(ada, texts) == keys
    for found in (back, undone):
        path, _, query = found.removesuffix("#items").partition("?")
        assert (f"{path}?", set(query.split("&"))) == (
            f"/collections/{texts}?",
            set(listed.partition("?")[2].split("&")),
        )


def test_undoing_leads_back_to_the_results_that_the_item_was_opened_from(reader: Visitor, searched: Searched) -> None:
    searched.finish([1, 2, 3])
    item = searched.items[0]
    reader.get(f"/items/{item}?search={searched.id}")
    page = reader.send(f"/items/{item}/delete?search={searched.id}")
    assert page.path == f"/jobs/{searched.id}"
    assert undo(reader, page).path == f"/jobs/{searched.id}"


@pytest.mark.parametrize("back", ["//elsewhere.example/", "https://elsewhere.example/", "/\\elsewhere.example"])
def test_undoing_leads_to_no_other_site(reader: Visitor, texts: str, keys: list[str], back: str) -> None:
    reader.get(f"/items/{keys[0]}")
    page = reader.send(f"/items/{keys[0]}/delete")
    address = f"/collections/{texts}/trash"
    sent = hidden_fields(page, address) | {"deed": "restore", "back": back}
    page = reader.send(address, follow=False, **sent)
    assert page.headers["Location"] == f"/collections/{texts}#items"


@pytest.fixture
def two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two items in a transaction."""
    monkeypatch.setattr(chosen, "BATCH", 2)


@pytest.mark.usefixtures("two_parts")
def test_the_deletion_of_many_items_is_undone_in_one_go(
    reader: Visitor, texts: str, keys: list[str], ada: Caller
) -> None:
    ada.delete(f"/items/{keys[0]}")
    ada.post(f"/collections/{texts}/items?index=false", json={"items": [{"text": "a tern"}]})
    before = items(ada, texts)
    reader.get(f"/collections/{texts}")
    address = f"/collections/{texts}/items/chosen"
    page = reader.send(address, deed="delete", all="1")
    assert "You can restore them for 30 days." in page.text
    page = reader.send(address, **hidden_fields(page, address))
    assert alerts(page) == ["3 items were moved to the trash. Undo"]
    assert items(ada, texts) == []
    # what was deleted before stays deleted
    assert alerts(undo(reader, page)) == ["3 items were restored."]
    assert items(ada, texts) == before


def test_items_are_restored_and_deleted_for_good_from_the_trash(
    reader: Visitor, texts: str, keys: list[str], ada: Caller
) -> None:
    for key in keys:
        ada.delete(f"/items/{key}")
    page = reader.get(f"/collections/{texts}")
    (link,) = [e for e in page.all("a") if e.text == "Trash"]
    page = reader.get(str(link.attributes["href"]))
    labels = [e.text for e in page.all("label")]
    assert labels == ["a crow", "wren", "robin"]
    assert page.text.count("30 days left") == 3
    assert "by ada" in page.text
    here = f"/collections/{texts}/trash"
    assert alerts(reader.send(here, deed="restore")) == ["Select items first."]
    page = reader.send(here, deed="restore", item=keys[:1])
    assert alerts(page) == ["1 item was restored."]
    assert items(ada, texts) == keys[:1]
    page = reader.send(here, deed="remove", item=keys[1:2])
    assert page.one("h1").text == "Delete 1 item for good?"
    assert "cannot be undone" in page.text
    page = reader.send(here, **hidden_fields(page, here))
    assert alerts(page) == ["1 item was deleted for good."]
    page = reader.send(here, deed="empty")
    assert page.one("h1").text == "Empty the trash?"
    page = reader.send(here, **hidden_fields(page, here))
    assert alerts(page) == ["The trash was emptied."]
    assert "The trash of this collection is empty." in page.text


def test_all_items_are_restored(reader: Visitor, texts: str, keys: list[str], ada: Caller) -> None:
    for key in keys:
        ada.delete(f"/items/{key}")
    ada.post(f"/collections/{texts}/items?index=false", json={"items": [{"text": "a wren"}]})
    reader.get(f"/trash?collection={texts}")
    page = reader.send(f"/collections/{texts}/trash", deed="restore_all")
    assert alerts(page) == [
        "2 items were restored.",
        "1 was not restored: the collection has the same content by now.",
    ]
    assert len(items(ada, texts)) == 3


@pytest.mark.parametrize(
    "sent", [{"deed": "burn"}, {"deed": "restore", "at": "x"}, {"deed": "restore", "at": "2026-01-01"}]
)
def test_a_wrong_request_changes_nothing(
    reader: Visitor, texts: str, keys: list[str], ada: Caller, sent: dict[str, str]
) -> None:
    ada.delete(f"/items/{keys[0]}")
    reader.get(f"/trash?collection={texts}")
    page = reader.send(f"/collections/{texts}/trash", **sent)
    assert len(page.all("div", role="alert")) == 1
    assert items(ada, texts) == keys[1:]


def test_a_deleted_collection_is_restored_from_its_message_and_from_the_trash(
    reader: Visitor, texts: str, keys: list[str], ada: Caller
) -> None:
    reader.get(f"/collections/{texts}")
    page = reader.send(f"/collections/{texts}/delete", confirm="Birds")
    assert alerts(page) == ["Collection “Birds” moved to the trash. Undo"]
    page = undo(reader, page)
    assert (alerts(page), page.path) == (["Collection “Birds” restored."], f"/collections/{texts}")
    ada.delete(f"/collections/{texts}")
    ada.post("/collections", json={"name": "Birds"})
    page = reader.get("/trash")
    assert "30 days left" in page.text
    page = reader.send(f"/collections/{texts}/restore")
    assert "under the name “Birds (restored)”" in alerts(page)[0]
    assert items(ada, texts) == keys
    ada.delete(f"/collections/{texts}")
    reader.get("/trash")
    page = reader.send(f"/collections/{texts}/remove")
    assert alerts(page) == ["Collection “Birds (restored)” deleted for good."]
    assert "There are none that you can restore." in page.text


def test_the_trash_names_the_collections_with_deleted_items(
    reader: Visitor, texts: str, keys: list[str], ada: Caller
) -> None:
    ada.post("/collections", json={"name": "Nothing deleted"})
    assert "There are none in collections that you can change." in reader.get("/trash").text
    ada.delete(f"/items/{keys[0]}")
    page = reader.get("/trash")
    assert [e.attributes["href"] for e in page.all("a") if e.text == "Birds"] == [f"/trash?collection={texts}"]
    assert "Nothing deleted" not in page.text


@pytest.mark.usefixtures("without_trash")
def test_without_a_trash_the_pages_say_that_a_deletion_is_for_good(
    reader: Visitor, texts: str, keys: list[str]
) -> None:
    assert "This cannot be undone." in reader.get(f"/collections/{texts}").text
    assert "permanently deletes" in reader.get(f"/items/{keys[0]}").text
    page = reader.send(f"/items/{keys[0]}/delete")
    assert alerts(page) == ["“robin” deleted."]
    assert "keeps no trash" in reader.get("/trash").text


def test_results_show_a_restored_item_again(reader: Visitor, searched: Searched, ada: Caller) -> None:
    searched.finish([1, 2, 3])
    key, address = str(searched.items[0]), f"/jobs/{searched.id}"
    before = reader.get(address).all("div", class_="what")[0].text
    ada.delete(f"/items/{key}")
    assert "in the trash" in reader.get(address).all("div", class_="what")[0].text
    collection = ada.get("/collections").json["collections"][0]["id"]
    ada.post(f"/collections/{collection}/trash/restore", json={"items": [key]})
    assert reader.get(address).all("div", class_="what")[0].text == before
