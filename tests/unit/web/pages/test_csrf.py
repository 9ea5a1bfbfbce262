"""Every route that changes something rejects requests without the CSRF token of the session."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.uploads import begin
from werkzeug.routing import Rule

from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.settings import Settings
from retllm_web.app import create_app
from retllm_web.http.services import Services

pytestmark = pytest.mark.slow

UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"


def _routes() -> list[tuple[Rule, str]]:
    """Return every route that changes something for a browser, including the API's, which accept a session."""
    unused = Settings(
        home=Path("unused"),
        secret_key=secrets.token_hex(),
        database_url="postgresql://unused",
        redis_url="redis://unused",
    )
    rules = sorted(create_app(unused).url_map.iter_rules(), key=lambda rule: rule.rule)
    return [(one, method) for one in rules for method in (one.methods or set()) - {"GET", "HEAD", "OPTIONS"}]


def _address(app: OpenAPI, rule: Rule, known: Mapping[str, str]) -> str:
    values = {name: known.get(name, UNKNOWN_ID) for name in rule.arguments}
    return app.url_map.bind("localhost").build(rule.endpoint, values, method=next(iter(rule.methods or {"POST"})))


@pytest.fixture
def admin(app: OpenAPI, root: Caller) -> Visitor:
    """An administrator in a browser, who may do everything."""
    visitor = Visitor(app.test_client())
    assert visitor.log_in("root").status == 200
    return visitor


def _count_audit_entries(served: Services) -> int:
    with transaction(served.sessions) as session:
        return session.scalar(sa.select(sa.func.count(AuditEntry.id))) or 0


def test_every_route_rejects_forms_without_a_valid_csrf_token(
    app: OpenAPI, admin: Visitor, root: Caller, served: Services
) -> None:
    routes = _routes()
    collection = str(root.post("/collections", json={"name": "Birds"}).json["id"])
    known = {"queue": "embed", "collection_id": collection, "upload_id": begin(root, collection)}
    assert len(routes) > 60
    admin.get("/account")
    stranger = Visitor(app.test_client())
    stranger.get("/login")
    tokens = {"none": "", "nonsense": "nonsense", "of another session": stranger.token()}
    before = _count_audit_entries(served)
    wrong = {}
    for rule, method in routes:
        for kind, token in tokens.items():
            answer = admin.client.open(
                _address(app, rule, known),
                method=method,
                data={"csrf_token": token} if token else {},
                headers={"X-CSRFToken": token},
            )
            if answer.status_code != 403 or "CSRF" not in answer.get_data(as_text=True):
                wrong[f"{method} {rule.endpoint}, {kind}"] = answer.status_code
    assert not wrong
    assert _count_audit_entries(served) == before
    # and the session stays valid
    assert admin.get("/account").path == "/account"


def test_the_login_form_requires_a_csrf_token(app: OpenAPI, ada: Caller) -> None:
    client = app.test_client()
    assert client.post("/login", data={"name": "ada", "password": PASSWORD}).status_code == 403
    assert client.get("/api/v1/me").status_code == 401


def test_forms_over_https_require_a_referrer_from_this_site(app: OpenAPI, admin: Visitor) -> None:
    admin.get("/account")
    data = {"csrf_token": admin.token(), "name": "Birds"}

    def status(referrer: str | None) -> int:
        headers = {"Referer": referrer} if referrer else {}
        return admin.client.post("/collections", base_url="https://localhost", data=data, headers=headers).status_code

    assert status(None) == 403
    assert status("https://elsewhere.example/") == 403
    assert status("https://localhost/collections") == 302
