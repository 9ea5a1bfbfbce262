"""The page of a collection's members."""

from __future__ import annotations

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor


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
    assert "checked" in page.one("input", id="seen-everyone").attributes
    assert guest.get(f"/collections/{texts}").status == 200
    assert guest.get(here).status == 403
    assert "Not changed" in reader.send(f"/collections/{texts}/visibility", visibility="x").text
    reader.send(f"/collections/{texts}/visibility", visibility="private")
    assert guest.get(f"/collections/{texts}").status == 404
