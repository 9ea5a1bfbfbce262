"""The pages of accounts: the list, one account, the user's own password."""

from __future__ import annotations

import re

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Visitor


@pytest.fixture
def admin(app: OpenAPI, root: Caller) -> Visitor:
    """The administrator in a browser."""
    visitor = Visitor(app.test_client())
    assert visitor.log_in("root").status == 200
    return visitor


def _log_in(app: OpenAPI, name: str, password: str) -> int:
    return Visitor(app.test_client()).log_in(name, password).status


def test_the_pages_of_accounts_are_for_administrators_only(admin: Visitor, reader: Visitor) -> None:
    assert admin.get("/").all("a", href="/people")
    assert not reader.get("/").all("a", href="/people")
    for path in ("/people", "/people/audit", "/people/audit.csv", f"/people/{'0' * 8}-0000-7000-8000-{'0' * 12}"):
        assert reader.get(path).status == 403
    answer = reader.client.post("/people", data={"csrf_token": reader.get("/account") and reader.token(), "name": "x"})
    assert answer.status_code == 403


def test_an_account_is_created_with_a_generated_password_that_is_shown_once(app: OpenAPI, admin: Visitor) -> None:
    admin.get("/people")
    page = admin.send("/people", name="new", role="viewer", password="")
    password = page.one("input", id="made").attributes["value"]
    assert password
    assert page.headers["Cache-Control"] == "private, no-store"
    people = admin.get("/people")
    assert password not in people.html
    (row,) = [row for row in people.all("tr") if "new" in row.text]
    assert "Viewer" in row.text
    assert "never" in row.text
    assert _log_in(app, "new", password) == 200
    (row,) = [row for row in admin.get("/people").all("tr") if "new" in row.text]
    assert "never" not in row.text


def test_a_typed_password_is_never_in_a_response(app: OpenAPI, admin: Visitor) -> None:
    admin.get("/people")
    refused = admin.send("/people", name="a b", role="editor", password="typed by root")
    assert refused.status == 422
    assert "starts with a letter" in refused.one("div", id="name-problem").text
    assert "typed by root" not in refused.html
    short = admin.send("/people", name="new", role="editor", password="short")
    assert "10 to" in short.one("div", id="password-problem").text
    assert short.one("input", id="name").attributes["value"] == "new"
    made = admin.send("/people", name="new", role="editor", password="typed by root")
    assert "typed by root" not in made.html
    assert "password that you typed" in made.text
    assert _log_in(app, "new", "typed by root") == 200


def test_a_role_is_changed_except_that_of_the_last_administrator(admin: Visitor, ada: Caller, root: Caller) -> None:
    here = f"/people/{ada.user.id}"
    admin.get(here)
    assert "ada now has the role viewer" in admin.send(f"{here}/role", role="viewer").text
    own = f"/people/{root.user.id}"
    assert "With another role" in admin.get(own).text
    assert "last administrator" in admin.send(f"{own}/role", role="editor").text
    assert admin.get("/people").status == 200
    admin.get(here)
    admin.send(f"{here}/role", role="admin")
    admin.get(own)
    gone = admin.send(f"{own}/role", role="editor")
    assert (gone.status, gone.path) == (200, "/")


def test_a_locked_account_is_rejected_until_it_is_unlocked(
    app: OpenAPI, admin: Visitor, reader: Visitor, ada: Caller
) -> None:
    here = f"/people/{ada.user.id}"
    admin.get(here)
    assert "locked out" in admin.send(f"{here}/lock").text
    assert reader.get("/").path == "/login"
    assert ada.get("/me").status_code == 401
    assert _log_in(app, "ada", PASSWORD) == 401
    assert "unlocked" in admin.send(f"{here}/unlock").text
    assert _log_in(app, "ada", PASSWORD) == 200


def test_administrators_are_not_offered_a_lock_or_password_reset_for_themselves(admin: Visitor, root: Caller) -> None:
    page = admin.get(f"/people/{root.user.id}")
    actions = {form.attributes.get("action") or "" for form in page.all("form")}
    assert not [action for action in actions if action.endswith(("/lock", "/password"))]


def test_a_password_reset_ends_existing_sessions(app: OpenAPI, admin: Visitor, reader: Visitor, ada: Caller) -> None:
    here = f"/people/{ada.user.id}"
    admin.get(here)
    made_up = admin.send(f"{here}/password", password="").one("input", id="made").attributes["value"]
    assert made_up
    assert reader.get("/").path == "/login"
    assert reader.log_in("ada", made_up).status == 200
    refused = admin.send(f"{here}/password", password="short")
    assert refused.status == 422
    assert "10 to" in refused.one("div", id="password-problem").text


def test_accounts_are_filtered_by_name_and_paged(admin: Visitor, ada: Caller, bob: Caller) -> None:
    assert [row.text.split()[0] for row in admin.get("/people?q=OB").all("tr")[1:]] == ["bob"]
    assert "No accounts match" in admin.get("/people?q=nobody").text
    assert "No more accounts" in admin.get("/people?after=ffffffff-ffff-7fff-bfff-ffffffffffff").text
    assert admin.get("/people?after=x").status == 404


def test_changing_the_own_password_requires_the_current_one_and_ends_other_sessions(
    app: OpenAPI, reader: Visitor
) -> None:
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


def test_too_many_wrong_current_passwords_are_blocked(reader: Visitor) -> None:
    reader.get("/account")
    fields = {"old": "wrong wrong", "new": "another good one", "again": "another good one"}
    statuses = [reader.send("/account/password", **fields).status for _ in range(20)]
    assert set(statuses) == {422}
    stopped = reader.send("/account/password", **{**fields, "old": PASSWORD})
    assert stopped.status == 429
    assert int(stopped.headers["Retry-After"]) > 0
