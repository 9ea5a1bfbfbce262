"""Near-duplicates are reviewed and thinned out on their page, without scripts."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.web.conftest import Caller, start_session
from tests.unit.web.pages.conftest import Page, Visitor, hidden_fields
from tests.unit.web.test_duplicates import file_of, listed, look, pictures, scene
from tests.unit.web.test_item_changes import added

from retllm_web.pages import duplicates as review

__all__ = ["pictures"]


@pytest.fixture
def address(birds: str) -> str:
    return f"/collections/{birds}/duplicates"


def alerts(page: Page) -> list[str]:
    return [e.text for e in page.all("div", class_="alert")]


def names(caller: Caller, collection: str) -> list[str]:
    return sorted(one["name"] for one in caller.get(f"/collections/{collection}/items").json["items"])


def group_of(caller: Caller, collection: str, name: str) -> dict[str, Any]:
    groups = listed(caller, collection)["groups"]
    return next(group for group in groups if name in [one["item"]["name"] for one in group["pictures"]])


def test_the_page_leads_from_the_collection_to_the_job_and_back(
    reader: Visitor, birds: str, address: str, pictures: dict[str, str]
) -> None:
    page = reader.get(f"/collections/{birds}")
    assert address in [link.attributes.get("href") for link in page.all("a")]
    page = reader.get(address)
    assert "Nobody has looked for pictures that are nearly the same yet" in page.text
    page = reader.send(address)
    assert page.path.startswith("/jobs/")
    assert page.one("h1").text == "Near-duplicates"
    assert address in [link.attributes.get("href") for link in page.all("a")]
    page = reader.get(address)
    assert "3 groups of pictures that are nearly the same. 6 pictures were compared" in page.text
    assert "out of date" not in page.text


def test_each_group_shows_its_pictures_and_suggests_the_largest(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str]
) -> None:
    ada.patch(f"/items/{pictures['small/0.png']}", json={"text": "a caption", "taken": "1998-05", "tags": ["old"]})
    look(ada, birds)
    page = reader.get(address)
    assert len(page.all("li", class_="group")) == 3
    boxes = {box.attributes["value"]: "checked" in box.attributes for box in page.all("input", name="keep")}
    assert boxes == {key: name.startswith("large/") for name, key in pictures.items()}
    for text in ("256 × 256 pixels", "128 × 128 pixels", "Taken 1998-05", "a caption", "old"):
        assert text in page.text
    assert len(page.all("input", name="merge")) == 1, "only where there is something to merge"


def test_the_others_are_deleted_after_a_confirmation_and_the_next_group_is_shown(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str]
) -> None:
    look(ada, birds)
    reader.get(address)
    group = group_of(ada, birds, "large/1.png")
    page = reader.send(f"{address}/{group['id']}/keep", keep=pictures["large/1.png"])
    assert page.one("h1").text == "Delete 1 item?"
    assert len(names(ada, birds)) == 6
    action = f"/collections/{birds}/items/chosen"
    page = reader.send(action, **hidden_fields(page, action))
    assert alerts(page) == ["1 item was moved to the trash. Undo"]
    assert page.path == address
    assert "small/1.png" not in names(ada, birds)
    assert len(names(ada, birds)) == 5
    assert len(page.all("li", class_="group")) <= 2


def test_the_kept_picture_gets_captions_and_tags_of_the_deleted_ones(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str]
) -> None:
    large, small = pictures["large/2.png"], pictures["small/2.png"]
    ada.patch(f"/items/{large}", json={"text": "a harbour", "tags": ["boats"]})
    ada.patch(f"/items/{small}", json={"text": "in Genoa", "tags": ["old", "boats"]})
    look(ada, birds)
    reader.get(address)
    group = group_of(ada, birds, "large/2.png")
    page = reader.send(f"{address}/{group['id']}/keep", keep=large, merge="1")
    assert "“large/2.png” first gets the captions and tags of the deleted picture." in page.text
    action = f"/collections/{birds}/items/chosen"
    reader.send(action, **hidden_fields(page, action))
    kept = ada.get(f"/items/{large}").json
    assert (kept["text"], kept["tags"]) == ("a harbour\nin Genoa", ["boats", "old"])
    assert "small/2.png" not in names(ada, birds)


def test_nothing_is_deleted_if_the_picture_that_was_to_be_kept_is_gone(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str]
) -> None:
    ada.patch(f"/items/{pictures['small/0.png']}", json={"text": "a caption"})
    look(ada, birds)
    reader.get(address)
    group = group_of(ada, birds, "large/0.png")
    page = reader.send(f"{address}/{group['id']}/keep", keep=pictures["large/0.png"], merge="1")
    sent = hidden_fields(page, f"/collections/{birds}/items/chosen")
    ada.delete(f"/items/{pictures['large/0.png']}")
    page = reader.send(f"/collections/{birds}/items/chosen", **sent)
    assert "not there any more: nothing is done" in " ".join(alerts(page))
    assert "small/0.png" in names(ada, birds)


@pytest.mark.parametrize(
    ("kept", "message"),
    [([], "Choose at least one picture of the group to keep."), (["large/0.png", "small/0.png"], "nothing is left")],
)
def test_what_is_missing_is_said(
    reader: Visitor,
    ada: Caller,
    birds: str,
    address: str,
    pictures: dict[str, str],
    kept: list[str],
    message: str,
) -> None:
    look(ada, birds)
    reader.get(address)
    group = group_of(ada, birds, "large/0.png")
    page = reader.send(f"{address}/{group['id']}/keep", keep=[pictures[name] for name in kept])
    assert message in " ".join(alerts(page))
    assert len(names(ada, birds)) == 6


def test_a_group_is_dismissed_and_brought_back(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str]
) -> None:
    look(ada, birds)
    reader.get(address)
    group = group_of(ada, birds, "large/0.png")
    dismissal = f"{address}/{group['id']}/dismiss"
    data = {"csrf_token": reader.token()}
    page = Page(reader.client.post(dismissal, data=data, follow_redirects=True))
    assert alerts(page) == ["Noted: these 2 pictures are no duplicates."]
    assert len(listed(ada, birds)["groups"]) == 2
    page = Page(reader.client.post(dismissal, data=data, follow_redirects=True))
    assert "it may have been decided meanwhile" in alerts(page)[0]
    reader.get(address)
    reader.send(f"{address}/restore")
    look(ada, birds)
    assert len(listed(ada, birds)["groups"]) == 3


def test_groups_come_in_pages_that_go_on_where_a_group_is_gone(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "_GROUPS", 1)
    look(ada, birds)
    groups = [group["id"] for group in listed(ada, birds)["groups"]]
    page = reader.get(address)
    following = page.one("a", rel="next").attributes["href"]
    assert following == f"{address}?at={groups[1]}"
    ada.post(f"/collections/{birds}/duplicates/{groups[1]}/dismiss")
    page = reader.get(str(following))
    assert [form for form in page.all("form") if groups[2] in str(form.attributes.get("action"))]
    assert page.all("a", rel="next") == []


def test_the_page_of_a_picture_leads_to_its_group(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str]
) -> None:
    look(ada, birds)
    group = group_of(ada, birds, "small/1.png")
    page = reader.get(f"/items/{pictures['small/1.png']}")
    assert page.one("a", href=f"{address}?at={group['id']}").text == "1 other picture"
    ada.delete(f"/items/{pictures['large/1.png']}")
    assert "Near-duplicates" not in reader.get(f"/items/{pictures['small/1.png']}").one("main").text


def test_the_page_says_that_it_is_out_of_date(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str]
) -> None:
    look(ada, birds)
    added(ada, birds, ("new.png", file_of(scene(9))))
    assert "This is out of date: pictures were added since." in reader.get(address).text
    reader.send(address)
    assert "out of date" not in reader.get(address).text


def test_whoever_may_not_change_the_collection_sees_the_groups_alone(
    reader: Visitor, ada: Caller, bob: Caller, app, birds: str, address: str, pictures: dict[str, str]
) -> None:
    look(ada, birds)
    ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"})
    other = Visitor(app.test_client())
    start_session(app, other.client, bob.user)
    page = other.get(address)
    assert len(page.all("li", class_="group")) == 3
    assert page.all("input", name="keep") == []
    assert [form.attributes["action"] for form in page.all("form", method="post")] == ["/logout"]
