"""The factory: health, request ids, security headers, cookies."""

from __future__ import annotations

import dataclasses
from io import BytesIO
from pathlib import Path

import pytest
import structlog
from flask import request
from flask.testing import FlaskClient
from flask_openapi.openapi import OpenAPI

from retllm.errors import StackError
from retllm.settings import Settings
from retllm_web.app import create_app


def test_healthz_reports_a_live_app_without_authentication(client: FlaskClient) -> None:
    assert client.get("/healthz").json == {"alive": True}


def test_readyz_reports_ready_if_the_database_and_redis_are_reachable(client: FlaskClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json == {"ready": True, "checks": {"database": {"ok": True}, "redis": {"ok": True}}}


def test_readyz_reports_an_unreachable_redis_without_its_address(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://:secret@127.0.0.1:1/7"})
    answer = create_app(away).test_client().get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["checks"] == {"database": {"ok": True}, "redis": {"ok": False, "reason": "unreachable"}}
    for word in ("secret", "127.0.0.1"):
        assert word not in answer.text


def test_an_unreachable_database_gives_503_without_its_address(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": "postgresql://nobody:secret@127.0.0.1:1/none"})
    client = create_app(away).test_client()
    assert client.get("/readyz").status_code == 503
    answer = client.get("/api/v1/me", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"]["code"] == "stack"
    for word in ("secret", "127.0.0.1"):
        assert word not in answer.text


def test_create_app_rejects_settings_without_a_database_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(StackError, match="DATABASE_URL"):
        create_app(Settings(home=tmp_path, database_url=None))


def test_a_valid_request_id_is_echoed_and_an_invalid_one_is_replaced(client: FlaskClient) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"}).headers["X-Request-ID"] == "abc-1.2_3"
    for foreign in ("a b", "x" * 101, "<script>"):
        given = client.get("/healthz", headers={"X-Request-ID": foreign}).headers["X-Request-ID"]
        assert given != foreign
        assert len(given) == 32


def test_the_request_id_is_in_the_log_context_only_during_the_request(own_app: OpenAPI) -> None:
    seen = {}

    @own_app.get("/seen")
    def look() -> str:
        seen.update(structlog.contextvars.get_contextvars())
        return ""

    own_app.test_client().get("/seen", headers={"X-Request-ID": "mine"})
    assert seen == {"request_id": "mine"}
    assert structlog.contextvars.get_contextvars() == {}


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/me", "/nowhere", "/api/v1/openapi.json"])
def test_responses_have_the_security_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("key", ["", "changeme", "x" * 64, "please-change-me-in-production-1234"])
def test_create_app_rejects_a_guessable_secret_key(settings: Settings, key: str) -> None:
    with pytest.raises(StackError, match="RETLLM_SECRET_KEY"):
        create_app(settings.model_copy(update={"secret_key": key}))


def test_session_cookies_are_httponly_and_samesite_and_secure_if_configured(settings: Settings) -> None:
    plain = create_app(settings).config
    assert plain["SESSION_COOKIE_HTTPONLY"] is True
    assert plain["SESSION_COOKIE_SAMESITE"] == "Lax"
    assert plain["SESSION_COOKIE_SECURE"] is False
    assert create_app(settings.model_copy(update={"secure_cookies": True})).config["SESSION_COOKIE_SECURE"] is True


def test_large_uploads_are_spooled_to_disk(own_app: OpenAPI) -> None:
    @own_app.post("/api/where")
    def where() -> dict[str, bool]:
        stream = request.files["file"].stream
        return {"on_disk": bool(getattr(stream, "_rolled", False))}

    own_app.extensions["csrf"].exempt(where)
    client = own_app.test_client()
    for size, on_disk in ((1_000, False), (2_000_000, True)):
        answer = client.post("/api/where", data={"file": (BytesIO(b"x" * size), "a.bin")})
        assert answer.json == {"on_disk": on_disk}


def test_services_are_frozen(served: object) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        served.settings = None  # type: ignore[attr-defined]
