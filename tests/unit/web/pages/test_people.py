"""The pages of accounts: the list, one account, the user's own password."""

from __future__ import annotations

import re

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Visitor


@pytest.fixture
def chief(app: OpenAPI, root: Caller) -> Visitor:
    """The administrator in a browser."""
    visitor = Visitor(app.test_client())
    assert visitor.log_in("root").status == 200
    return visitor


def _log_in(app: OpenAPI, name: str, password: str) -> int:
    return Visitor(app.test_client()).log_in(name, password).status


def test_people_is_for_administrators_in_the_menu_and_on_the_server(chief: Visitor, reader: Visitor) -> None:
    assert chief.get("/").all("a", href="/people")
    assert not reader.get("/").all("a", href="/people")
    for path in ("/people", "/people/audit", "/people/audit.csv", f"/people/{'0' * 8}-0000-7000-8000-{'0' * 12}"):
        assert reader.get(path).status == 403
    answer = reader.client.post("/people", data={"csrf_token": reader.get("/account") and reader.token(), "name": "x"})
    assert answer.status_code == 403


def test_an_account_is_made_and_its_password_shown_this_once(app: OpenAPI, chief: Visitor) -> None:
    chief.get("/people")
    page = chief.send("/people", name="new", role="viewer", password="")
    password = page.one("input", id="made").attributes["value"]
    assert password
    assert page.headers["Cache-Control"] == "private, no-store"
    assert password not in chief.get("/people").html
    (row,) = [row for row in chief.page.all("tr") if "new" in row.text] if chief.page else []
    assert "Viewer" in row.text
    assert "never" in row.text
    assert _log_in(app, "new", password) == 200
    (row,) = [row for row in chief.get("/people").all("tr") if "new" in row.text]
    assert "never" not in row.text


def test_a_typed_password_is_never_sent_back(app: OpenAPI, chief: Visitor) -> None:
    chief.get("/people")
    refused = chief.send("/people", name="a b", role="editor", password="typed by root")
    assert refused.status == 422
    assert "starts with a letter" in refused.one("div", id="name-problem").text
    assert "typed by root" not in refused.html
    short = chief.send("/people", name="new", role="editor", password="short")
    assert "10 to" in short.one("div", id="password-problem").text
    assert short.one("input", id="name").attributes["value"] == "new"
    made = chief.send("/people", name="new", role="editor", password="typed by root")
    assert "typed by root" not in made.html
    assert "password that you typed" in made.text
    assert _log_in(app, "new", "typed by root") == 200


def test_a_role_is_changed_and_the_last_administrator_keeps_it(chief: Visitor, ada: Caller, root: Caller) -> None:
    here = f"/people/{ada.user.id}"
    chief.get(here)
    assert "ada now has the role viewer" in chief.send(f"{here}/role", role="viewer").text
    own = f"/people/{root.user.id}"
    assert "With another role" in chief.get(own).text or "with another role" in chief.get(own).text
    assert "last administrator" in chief.send(f"{own}/role", role="editor").text
    assert chief.get("/people").status == 200
    chief.get(here)
    chief.send(f"{here}/role", role="admin")
    chief.get(own)
    gone = chief.send(f"{own}/role", role="editor")
    assert (gone.status, gone.path) == (200, "/")


def test_who_is_locked_out_is_out_at_once_and_can_be_let_in_again(
    app: OpenAPI, chief: Visitor, reader: Visitor, ada: Caller
) -> None:
    here = f"/people/{ada.user.id}"
    chief.get(here)
    assert "locked out" in chief.send(f"{here}/lock").text
    assert reader.get("/").path == "/login"
    assert ada.get("/me").status_code == 401
    assert _log_in(app, "ada", PASSWORD) == 401
    assert "unlocked" in chief.send(f"{here}/unlock").text
    assert _log_in(app, "ada", PASSWORD) == 200


def test_nobody_locks_themselves_out_by_a_button(chief: Visitor, root: Caller) -> None:
    page = chief.get(f"/people/{root.user.id}")
    actions = {form.attributes.get("action") or "" for form in page.all("form")}
    assert not [action for action in actions if action.endswith(("/lock", "/password"))]


def test_a_new_password_ends_the_sessions_of_before(app: OpenAPI, chief: Visitor, reader: Visitor, ada: Caller) -> None:
    here = f"/people/{ada.user.id}"
    chief.get(here)
    made_up = chief.send(f"{here}/password", password="").one("input", id="made").attributes["value"]
    assert made_up
    assert reader.get("/").path == "/login"
    assert reader.log_in("ada", made_up).status == 200
    refused = chief.send(f"{here}/password", password="short")
    assert refused.status == 422
    assert "10 to" in refused.one("div", id="password-problem").text


def test_names_are_found_and_pages_follow_each_other(chief: Visitor, ada: Caller, bob: Caller) -> None:
    assert [row.text.split()[0] for row in chief.get("/people?q=OB").all("tr")[1:]] == ["bob"]
    assert "No accounts match" in chief.get("/people?q=nobody").text
    assert "No more accounts" in chief.get("/people?after=ffffffff-ffff-7fff-bfff-ffffffffffff").text
    assert chief.get("/people?after=x").status == 404


def test_the_own_password_needs_the_old_one_and_ends_other_sessions(app: OpenAPI, reader: Visitor) -> None:
    other = Visitor(app.test_client())
    other.log_in("ada")
    reader.get("/account")
    fields = {"old": "wrong wrong", "new": "another good one", "again": "another good one"}
    refused = reader.send("/account/password", **fields)
    assert refused.status == 422
    assert "not your current password" in refused.one("div", id="old-problem").text
    assert not re.search("wrong wrong|another good one", refused.html)
    differing = reader.send("/account/password", **{**fields, "old": PASSWORD, "again": "something else"})
    assert "do not match" in differing.one("div", id="again-problem").text
    short = reader.send("/account/password", old=PASSWORD, new="short", again="short")
    assert "10 to" in short.one("div", id="new-problem").text
    assert other.get("/account").path == "/account"
    done = reader.send("/account/password", **{**fields, "old": PASSWORD})
    assert (done.status, done.path) == (200, "/account")
    assert "Password changed" in done.text
    assert reader.get("/account").path == "/account"
    assert other.get("/account").path == "/login"
    assert other.log_in("ada", "another good one").status == 200


def test_guesses_at_the_old_password_are_stopped(reader: Visitor) -> None:
    reader.get("/account")
    fields = {"old": "wrong wrong", "new": "another good one", "again": "another good one"}
    statuses = [reader.send("/account/password", **fields).status for _ in range(20)]
    assert set(statuses) == {422}
    stopped = reader.send("/account/password", **{**fields, "old": PASSWORD})
    assert stopped.status == 429
    assert int(stopped.headers["Retry-After"]) > 0
