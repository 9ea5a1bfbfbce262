"""Tokens for programs, sessions for pages, CSRF protection for sessions only."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from flask import Response
from flask.testing import FlaskClient
from flask_openapi.openapi import OpenAPI
from flask_wtf.csrf import generate_csrf
from tests.databases import EmptiedDatabase
from tests.unit.web.conftest import PASSWORD, Caller, SharedApp, make_shared

from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.identity import accounts
from retllm_web.http import auth
from retllm_web.http.services import Services


@pytest.fixture(scope="module")
def shared_app(
    emptied_database: EmptiedDatabase, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> SharedApp:
    """An app with minimal routes: a login that returns a CSRF token, and a logout."""
    shared = make_shared(emptied_database, redis_url, tmp_path_factory.mktemp("app"))

    @shared.app.post("/test-login")
    @auth.csrf.exempt
    def enter() -> Response:
        from flask import request

        auth.log_in(request.form["name"], request.form["password"])
        return Response(generate_csrf())

    @shared.app.post("/test-logout")
    @auth.csrf.exempt
    def leave() -> Response:
        auth.log_out()
        return Response("")

    return shared


def _log_in(client: FlaskClient, name: str = "ada", password: str = PASSWORD) -> str:
    answer = client.post("/test-login", data={"name": name, "password": password})
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_token_authenticates_its_account(ada: Caller) -> None:
    answer = ada.get("/me")
    assert answer.status_code == 200
    assert (answer.json["name"], answer.json["role"]) == ("ada", "editor")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer nonsense", "Basic YTpi", "bearer", "Token rlm_x", "Bearer \xff"]
)
def test_an_invalid_authorization_header_gives_401(client: FlaskClient, ada: Caller, header: str) -> None:
    answer = client.get("/api/v1/me", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json is not None
    assert answer.json["error"]["code"] == "unauthorized"


def test_the_bearer_scheme_is_case_insensitive(client: FlaskClient, ada: Caller) -> None:
    assert client.get("/api/v1/me", headers={"Authorization": f"bEARER {ada.token}"}).status_code == 200


def test_a_token_is_shown_only_at_creation_and_invalid_once_revoked(ada: Caller, client: FlaskClient) -> None:
    made = ada.post("/tokens", json={"name": "laptop"})
    assert made.status_code == 201
    header = {"Authorization": f"Bearer {made.json['token']}"}
    assert client.get("/api/v1/me", headers=header).status_code == 200
    listed = ada.get("/tokens").json["tokens"]
    assert [token["name"] for token in listed] == ["test", "laptop"]
    assert listed[1]["id"] == made.json["id"]
    assert made.json["token"] not in ada.get("/tokens").text
    assert ada.delete(f"/tokens/{made.json['id']}").status_code == 204
    assert client.get("/api/v1/me", headers=header).status_code == 401
    assert ada.delete(f"/tokens/{made.json['id']}").status_code == 404


def test_an_account_cannot_revoke_the_token_of_another_account(ada: Caller, bob: Caller) -> None:
    other = ada.get("/tokens").json["tokens"][0]["id"]
    assert bob.delete(f"/tokens/{other}").status_code == 404
    assert ada.get("/me").status_code == 200


def test_a_session_can_read_the_api_without_a_token(client: FlaskClient, ada: Caller) -> None:
    _log_in(client)
    answer = client.get("/api/v1/me")
    assert answer.json is not None
    assert answer.json["name"] == "ada"


def test_changes_with_a_session_require_a_valid_csrf_header(client: FlaskClient, ada: Caller) -> None:
    token = _log_in(client)
    refused = client.post("/api/v1/collections", json={"name": "forged"})
    assert refused.status_code == 403
    assert refused.json is not None
    assert refused.json["error"]["code"] == "csrf"
    wrong = client.post("/api/v1/collections", json={"name": "forged"}, headers={"X-CSRFToken": token + "x"})
    assert wrong.status_code == 403
    assert ada.get("/collections").json["collections"] == []
    meant = client.post("/api/v1/collections", json={"name": "meant"}, headers={"X-CSRFToken": token})
    assert meant.status_code == 201


def test_a_token_needs_no_csrf_header_even_with_a_session(client: FlaskClient, ada: Caller) -> None:
    _log_in(client)
    made = client.post(
        "/api/v1/collections", json={"name": "by program"}, headers={"Authorization": f"Bearer {ada.token}"}
    )
    assert made.status_code == 201


def test_an_invalid_token_is_rejected_even_with_a_valid_session(client: FlaskClient, ada: Caller) -> None:
    _log_in(client)
    assert client.get("/api/v1/me", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_logging_out_ends_the_session(client: FlaskClient, ada: Caller) -> None:
    _log_in(client)
    client.post("/test-logout")
    assert client.get("/api/v1/me").status_code == 401


def test_a_new_password_ends_existing_sessions(client: FlaskClient, ada: Caller, served: Services) -> None:
    _log_in(client)
    with transaction(served.sessions) as session:
        accounts.set_password(session, accounts.find_user(session, "ada"), "another password")
    assert client.get("/api/v1/me").status_code == 401


def test_sessions_and_tokens_of_a_disabled_account_are_rejected(
    client: FlaskClient, ada: Caller, served: Services
) -> None:
    _log_in(client)
    with transaction(served.sessions) as session:
        session.get_one(User, ada.user.id).disabled_at = datetime.now(UTC)
    assert client.get("/api/v1/me").status_code == 401
    assert ada.get("/me").status_code == 401


def test_a_session_cookie_with_an_invalid_user_id_is_rejected(app: OpenAPI, ada: Caller) -> None:
    client = app.test_client()
    for forged in (f"{uuid.uuid4()}.0123456789abcdef", "nonsense", ""):
        with client.session_transaction() as cookie:
            cookie["_user_id"] = forged
        assert client.get("/api/v1/me").status_code == 401
