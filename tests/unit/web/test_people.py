"""Accounts, members and the audit log through the API."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, Caller

from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm_web.http.services import Services

UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture
def eve(app: OpenAPI, served: Services) -> Caller:
    """A viewer."""
    with transaction(served.sessions) as session:
        user = accounts.create_user(session, "eve", PASSWORD, Role.VIEWER)
        _, token = tokens.issue(session, tokens.token_key(served.settings), Actor.unlimited(user), "test")
    return Caller(app.test_client(), user, token)


def _audit_entries(root: Caller, **query: Any) -> list[tuple[str | None, str, str | None]]:
    entries = root.get("/audit", query_string=query).json["entries"]
    return [(one["user_name"], one["action"], one["target"]) for one in entries]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("get", "/users", None, 200),
        ("post", "/users", {"name": "new"}, 201),
        ("get", f"/users/{UNKNOWN_ID}", None, 404),
        ("patch", f"/users/{UNKNOWN_ID}", {"role": "admin"}, 404),
        ("post", f"/users/{UNKNOWN_ID}/password", {}, 404),
        ("get", "/audit", None, 200),
    ],
)
def test_only_administrators_manage_accounts_and_read_the_audit_log(
    ada: Caller, eve: Caller, root: Caller, method: str, path: str, body: dict[str, str] | None, status: int
) -> None:
    options = {} if body is None else {"json": body}
    for caller in (ada, eve):
        answer = getattr(caller, method)(path, **options)
        assert (answer.status_code, answer.json["error"]["code"]) == (403, "forbidden")
    assert getattr(root, method)(path, **options).status_code == status


def test_an_account_is_created_with_a_given_password_or_a_generated_one_that_is_shown_once(
    root: Caller, served: Services
) -> None:
    made = root.post("/users", json={"name": "new", "role": "viewer"})
    assert made.status_code == 201
    password = made.json["password"]
    with transaction(served.sessions) as session:
        assert accounts.check_password(session, "new", password).role is Role.VIEWER
    here = made.headers["Location"].removeprefix("/api/v1")
    assert root.get(here).json == {name: value for name, value in made.json.items() if name != "password"}
    assert password not in root.get("/audit").text
    typed = root.post("/users", json={"name": "typed", "password": "a typed password"})
    assert (typed.json["password"], typed.json["role"]) == (None, "editor")
    assert root.post("/users", json={"name": "NEW"}).status_code == 409
    for body in ({"name": "a b"}, {"name": "x", "password": "short"}, {"name": "x", "role": "king"}, {}):
        assert root.post("/users", json=body).status_code == 422


def test_accounts_are_paged_and_show_the_number_of_their_collections(root: Caller, ada: Caller, birds: str) -> None:
    first = root.get("/users?limit=1").json
    second = root.get(f"/users?limit=1&after={first['next']}").json
    assert {first["users"][0]["name"], second["users"][0]["name"]} == {"ada", "root"}
    assert second["next"] is None
    (found,) = root.get("/users?q=AD").json["users"]
    assert (found["name"], found["collections"], found["disabled"]) == ("ada", 1, False)


def test_changes_of_role_and_lock_apply_to_the_next_request_and_are_logged(root: Caller, ada: Caller) -> None:
    here = f"/users/{ada.user.id}"
    assert root.patch(here, json={"role": "viewer"}).json["role"] == "viewer"
    assert ada.post("/collections", json={"name": "x"}).status_code == 403
    assert root.patch(here, json={"disabled": True}).json["disabled"] is True
    assert ada.get("/me").status_code == 401
    assert root.patch(here, json={"disabled": False, "role": "editor"}).status_code == 200
    assert ada.post("/collections", json={"name": "x"}).status_code == 201
    # changes without effect are not recorded
    assert root.patch(here, json={"role": "editor", "disabled": False}).status_code == 200
    changes = [one["detail"] for one in root.get("/audit?action=user%20changed").json["entries"]]
    assert changes == [
        {"locked_out": False},
        {"role": {"from": "viewer", "to": "editor"}},
        {"locked_out": True},
        {"role": {"from": "editor", "to": "viewer"}},
    ]


def test_the_last_administrator_cannot_be_demoted_or_locked(root: Caller, ada: Caller) -> None:
    here = f"/users/{root.user.id}"
    for body in ({"role": "editor"}, {"disabled": True}, {"role": "viewer", "disabled": True}):
        assert root.patch(here, json=body).status_code == 409
    assert (root.get(here).json["role"], root.get(here).json["disabled"]) == ("admin", False)
    assert _audit_entries(root, action="user changed") == []
    root.patch(f"/users/{ada.user.id}", json={"role": "admin"})
    assert root.patch(here, json={"role": "editor"}).status_code == 200
    assert root.get("/users").status_code == 403


def test_an_administrator_can_replace_the_password_of_an_account(root: Caller, ada: Caller, served: Services) -> None:
    made_up = root.post(f"/users/{ada.user.id}/password", json={}).json["password"]
    with transaction(served.sessions) as session:
        assert accounts.check_password(session, "ada", made_up)
    answer = root.post(f"/users/{ada.user.id}/password", json={"password": "typed by root"})
    assert answer.json["password"] is None
    with transaction(served.sessions) as session:
        assert accounts.check_password(session, "ada", "typed by root")
    assert root.post(f"/users/{ada.user.id}/password", json={"password": "short"}).status_code == 422
    assert _audit_entries(root, action="password changed") == [("root", "password changed", "ada")] * 2


def test_only_managers_of_a_collection_add_change_and_remove_members(
    ada: Caller, bob: Caller, root: Caller, birds: str
) -> None:
    here = f"/collections/{birds}"
    assert bob.get(here).status_code == 404
    made = ada.post(f"{here}/members", json={"name": "bob"})
    assert (made.status_code, made.json["role"]) == (200, "viewer")
    assert bob.get(here).status_code == 200
    assert bob.patch(here, json={"description": "by bob"}).status_code == 403
    for refused in (
        bob.get(f"{here}/members"),
        bob.post(f"{here}/members", json={"name": "bob", "role": "editor"}),
        bob.put(f"{here}/visibility", json={"visibility": "everyone"}),
        bob.delete(f"{here}/members/{root.user.id}"),
    ):
        assert refused.status_code == 403
    assert ada.post(f"{here}/members", json={"name": "BOB", "role": "editor"}).json["role"] == "editor"
    assert bob.patch(here, json={"description": "by bob"}).status_code == 200
    listed = root.get(f"{here}/members").json
    assert [(one["name"], one["role"]) for one in listed["members"]] == [("bob", "editor")]
    assert ada.delete(f"{here}/members/{bob.user.id}").status_code == 204
    assert bob.get(here).status_code == 404
    assert ada.delete(f"{here}/members/{bob.user.id}").status_code == 404
    details = [one["detail"]["role"] for one in root.get("/audit?action=member%20changed").json["entries"]]
    assert details == ["none", "editor", "viewer"]
    assert _audit_entries(root, collection_id=birds, action="member changed")[0] == ("ada", "member changed", "bob")


def test_members_can_leave_and_owners_and_unknown_names_cannot_be_added(ada: Caller, bob: Caller, birds: str) -> None:
    members = f"/collections/{birds}/members"
    assert ada.post(members, json={"name": "ada"}).status_code == 409
    assert ada.post(members, json={"name": "nobody"}).status_code == 404
    ada.post(members, json={"name": "bob"})
    assert bob.delete(f"{members}/{bob.user.id}").status_code == 204
    assert bob.delete(f"{members}/{bob.user.id}").status_code == 404


def test_other_accounts_can_see_but_not_delete_an_open_collection(
    ada: Caller, bob: Caller, root: Caller, birds: str
) -> None:
    here = f"/collections/{birds}"
    assert ada.put(f"{here}/visibility", json={"visibility": "everyone"}).json == {"visibility": "everyone"}
    assert bob.get(here).status_code == 200
    assert bob.delete(here).status_code == 403
    assert ada.put(f"{here}/visibility", json={"visibility": "everyone"}).status_code == 200
    assert ada.put(f"{here}/visibility", json={"visibility": "private"}).status_code == 200
    assert bob.get(here).status_code == 404
    seen = [one["detail"].get("visibility") for one in root.get("/audit?action=collection%20changed").json["entries"]]
    assert [one for one in seen if one] == ["private", "everyone"]


def test_the_audit_log_names_tokens_without_their_secrets(ada: Caller, root: Caller) -> None:
    made = ada.post("/tokens", json={"name": "laptop"}).json
    ada.delete(f"/tokens/{made['id']}")
    assert _audit_entries(root, user_name="ada") == [
        ("ada", "token revoked", "laptop"),
        ("ada", "token created", "laptop"),
    ]
    assert made["token"] not in root.get("/audit").text


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "since=0",
        "action=nothing",
        "collection_id=x",
        "limit=0",
        "after=x",
        "other=1",
        "user_name=%00",
    ],
)
def test_an_invalid_audit_filter_is_rejected(root: Caller, query: str) -> None:
    assert root.get(f"/audit?{query}").status_code == 422


def test_the_audit_log_is_filtered_by_time(root: Caller, client: FlaskClient) -> None:
    root.post("/users", json={"name": "new"})
    assert len(_audit_entries(root, since="2026-01-01T00:00:00Z")) == 1
    assert _audit_entries(root, until="2026-01-01T00:00:00+14:00") == []
    assert _audit_entries(root, since="9999-12-31T23:59:59-12:00") == []
