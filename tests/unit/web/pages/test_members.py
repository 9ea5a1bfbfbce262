"""The page of a collection's members."""

from __future__ import annotations

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller, start_session
from tests.unit.web.pages.conftest import Visitor

from retllm_web.http.services import Services


@pytest.fixture
def guest(app: OpenAPI, bob: Caller) -> Visitor:
    """Bob in his browser."""
    visitor = Visitor(app.test_client())
    assert visitor.log_in("bob").status == 200
    return visitor


def test_the_owner_adds_changes_and_removes_a_member(reader: Visitor, guest: Visitor, texts: str) -> None:
    here = f"/collections/{texts}/people"
    assert "No members yet" in reader.get(here).text
    assert guest.get(f"/collections/{texts}").status == 404
    page = reader.send(here, name="BOB", role="viewer")
    assert "bob is now a viewer of this collection" in page.text
    assert guest.get(f"/collections/{texts}").status == 200
    assert "bob is now an editor of this collection" in reader.send(here, name="bob", role="editor").text
    assert len(reader.get(here).all("tr")) == 2
    (remove,) = [form for form in reader.get(here).all("form") if "Remove" in form.text]
    assert "bob is no longer a member" in reader.send(str(remove.attributes["action"])).text
    assert guest.get(f"/collections/{texts}").status == 404


def test_an_invalid_member_is_rejected_next_to_the_field(reader: Visitor, guest: Visitor, texts: str) -> None:
    here = f"/collections/{texts}/people"
    reader.get(here)
    for name, told in (("nobody", "no account named nobody"), ("ada", "owns this collection"), ("", "Enter the name")):
        page = reader.send(here, name=name, role="editor")
        assert page.status in (409, 422)
        assert told in page.one("div", id="name-problem").text
        assert page.one("input", id="name").attributes["value"] == name
        # the choice is kept too
        assert "checked" in page.one("input", id="role-editor").attributes
    page = reader.send(here, name="bob", role="king")
    assert page.status == 422
    assert "Choose a role." in page.text


def test_a_member_sees_their_role_and_can_leave(reader: Visitor, guest: Visitor, texts: str) -> None:
    here = f"/collections/{texts}/people"
    assert guest.get(here).status == 404
    reader.get(here)
    reader.send(here, name="bob", role="viewer")
    page = guest.get(here)
    assert "Your role is viewer" in page.text
    (leave,) = [form for form in page.all("form") if "Leave" in form.text]
    left = guest.send(str(leave.attributes["action"]))
    assert (left.path, left.status) == ("/collections", 200)
    assert "You left" in left.text
    assert guest.get(here).status == 404


def test_an_editor_cannot_change_members_or_visibility_with_forged_forms(
    reader: Visitor, guest: Visitor, texts: str, ada: Caller
) -> None:
    here = f"/collections/{texts}/people"
    reader.get(here)
    reader.send(here, name="bob", role="editor")
    guest.get(here)
    for path, data in (
        (here, {"name": "bob", "role": "editor"}),
        (f"{here}/{ada.user.id}/remove", {}),
        (f"/collections/{texts}/visibility", {"visibility": "everyone"}),
    ):
        answer = guest.client.post(path, data={"csrf_token": guest.token(), **data})
        assert answer.status_code == 403, path


def test_an_open_collection_is_visible_to_everyone_but_its_members_are_not(
    reader: Visitor, guest: Visitor, texts: str
) -> None:
    here = f"/collections/{texts}/people"
    reader.get(here)
    page = reader.send(f"/collections/{texts}/visibility", visibility="everyone")
    assert "every account can view" in page.text
    assert "checked" in page.one("input", id="visibility-everyone").attributes
    assert guest.get(f"/collections/{texts}").status == 200
    assert guest.get(here).status == 403
    assert "Not changed" in reader.send(f"/collections/{texts}/visibility", visibility="x").text
    reader.send(f"/collections/{texts}/visibility", visibility="private")
    assert guest.get(f"/collections/{texts}").status == 404


def choices(visitor: Visitor, path: str) -> list[str]:
    """The accounts that can be chosen."""
    return [str(one.attributes["value"]) for one in visitor.get(path).all("input", type="checkbox", name="account")]


def test_accounts_are_listed_for_administrators_and_for_others_if_the_setting_says_so(
    app: OpenAPI, reader: Visitor, texts: str, bob: Caller, root: Caller, served: Services
) -> None:
    here = f"/collections/{texts}/people"
    admin = Visitor(app.test_client())
    start_session(app, admin.client, root.user)
    assert choices(admin, here) == ["bob", "root"]
    assert choices(admin, f"{here}?find=OB") == ["bob"]
    assert choices(admin, f"{here}?find=%25") == []
    # to others, no page tells that bob is there
    assert choices(reader, here) == []
    page = reader.get(f"{here}?find=bob")
    assert "bob" not in page.one("main").text
    assert not page.all("input", id="find")
    served.settings.list_accounts = True
    assert choices(reader, here) == ["bob", "root"]


def test_several_accounts_are_added_at_once_or_none(
    reader: Visitor, texts: str, bob: Caller, root: Caller, served: Services, ada: Caller
) -> None:
    served.settings.list_accounts = True
    here = f"/collections/{texts}/people"
    reader.get(here)
    page = reader.send(here, account=["bob", "ada"], role="viewer")
    assert "owns this collection" in page.text
    assert ada.get(f"/collections/{texts}/members").json["members"] == []
    page = reader.send(here, account=["bob", "root"], role="editor")
    assert "2 people are now editors of this collection" in page.text
    assert choices(reader, here) == []
    assert [one["name"] for one in ada.get(f"/collections/{texts}/members").json["members"]] == ["bob", "root"]


def test_a_private_collection_says_how_many_it_is_shared_with(
    reader: Visitor, texts: str, bob: Caller, root: Caller, ada: Caller
) -> None:
    def told() -> set[str]:
        pages = [reader.get(path).one("main").text for path in ("/collections", f"/collections/{texts}")]
        return {
            words
            for words in ("private", "shared with 1 person", "shared with 2 people")
            for one in pages
            if words in one
        }

    assert told() == {"private"}
    for name, words in (("bob", "shared with 1 person"), ("root", "shared with 2 people")):
        ada.post(f"/collections/{texts}/members", json={"name": name})
        assert told() == {words}
    assert ada.get(f"/collections/{texts}").json["members"] == 2
    ada.put(f"/collections/{texts}/visibility", json={"visibility": "everyone"})
    assert told() == set()
