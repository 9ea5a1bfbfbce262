"""Every response has the security headers, for every route, method and outcome."""

from __future__ import annotations

import io
import re
from collections import Counter
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller, RecordingNotifier
from werkzeug.test import TestResponse

from retllm.settings import Settings
from retllm_web.app import create_app

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# where the address itself is a secret
SECRET = {"Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex, nofollow, noarchive"}
# of pages and of uploaded pictures, in full: one additional source would weaken the policy
POLICIES = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "default-src 'none'; sandbox",
)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
HTTPS = {"wsgi.url_scheme": "https"}


def check_headers(answer: TestResponse, where: str) -> None:
    """Check the headers of a response."""
    headers = answer.headers
    for name, value in (ALWAYS | (SECRET if answer.request.path.startswith("/s/") else {})).items():
        assert headers.getlist(name) == [value], (where, name)
    [policy] = headers.getlist("Content-Security-Policy")
    assert policy in POLICIES, where
    assert headers.get("Cache-Control"), where
    assert headers["X-Request-ID"], where
    assert "Access-Control-Allow-Origin" not in headers, where
    assert "public" not in headers["Cache-Control"], where


def _paths(app: OpenAPI) -> set[str]:
    def filled(path: str) -> str:
        path = re.sub(r"<uuid:\w+>", str(uuid4()), path)
        path = re.sub(r"<path:filename>", "site.css", path)
        return re.sub(r"<[^>]*>", "name", path)

    return {filled(rule.rule) for rule in app.url_map.iter_rules()}


@pytest.mark.slow
def test_every_route_and_method_has_the_security_headers(app: OpenAPI, client: FlaskClient, root: Caller) -> None:
    """Without an account and as an administrator, over plain HTTP."""
    seen: Counter[int] = Counter()
    for path in sorted(_paths(app)):
        for method in METHODS:
            for who in (client, root):
                if isinstance(who, Caller):
                    authorization = {"Authorization": f"Bearer {who.token}"}
                    answer = who.client.open(path, method=method, headers=authorization)
                else:
                    answer = who.open(path, method=method)
                seen[answer.status_code] += 1
                check_headers(answer, f"{method} {path} {answer.status_code}")
                assert "Strict-Transport-Security" not in answer.headers
                answer.close()
    # responses of all kinds were checked
    assert {200, 302, 401, 403, 404, 405, 422} <= set(seen), seen


def test_only_static_files_may_be_cached(app: OpenAPI, client: FlaskClient, root: Caller) -> None:
    for path in sorted(_paths(app)):
        answer = client.get(path)
        if not path.startswith("/static/") and not path.startswith("/bootstrap/"):
            assert "no-store" in answer.headers["Cache-Control"], (path, answer.status_code)
        answer.close()
    assert "no-store" in root.get("/me").headers["Cache-Control"]


def test_responses_of_every_status_have_the_security_headers(settings: Settings, notified: RecordingNotifier) -> None:
    app = create_app(settings.model_copy(update={"max_request_bytes": 1000}), notifier=notified)

    @app.get("/crash")
    def crash() -> str:
        raise RuntimeError("on purpose")

    client = app.test_client()
    outcomes = {
        404: client.get("/no/such/page"),
        405: client.put("/healthz"),
        413: client.post("/login", data={"file": (io.BytesIO(b"x" * 5000), "a.bin")}),
        500: client.get("/crash"),
        401: client.get("/api/v1/me"),
        302: client.get("/"),
        403: client.post("/login", data={"name": "a"}),
    }
    first = client.get("/static/site.css")
    outcomes[200] = first
    outcomes[304] = client.get("/static/site.css", headers={"If-None-Match": first.headers["ETag"]})
    outcomes[206] = client.get("/static/site.css", headers={"Range": "bytes=0-9"})
    outcomes[416] = client.get("/static/site.css", headers={"Range": "bytes=99999999-"})
    for status, answer in outcomes.items():
        assert answer.status_code == status
        check_headers(answer, str(status))
    head = client.head("/static/site.css")
    check_headers(head, "HEAD")
    assert head.data == b""


@pytest.mark.parametrize("path", ["/login", "/api/v1/me", "/static/site.css", "/no/such/page"])
def test_strict_transport_security_is_sent_over_https_only(client: FlaskClient, path: str) -> None:
    answer = client.get(path, environ_overrides=HTTPS)
    assert answer.headers.getlist("Strict-Transport-Security") == ["max-age=31536000"]
    assert "Strict-Transport-Security" not in client.get(path).headers


def test_x_forwarded_proto_is_ignored_without_a_proxy(client: FlaskClient) -> None:
    answer = client.get("/login", headers={"X-Forwarded-Proto": "https"})
    assert "Strict-Transport-Security" not in answer.headers


def test_x_forwarded_proto_is_trusted_behind_a_proxy(settings: Settings, notified: RecordingNotifier) -> None:
    client = create_app(settings.model_copy(update={"proxies": 1}), notifier=notified).test_client()
    answer = client.get("/login", headers={"X-Forwarded-Proto": "https"})
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
