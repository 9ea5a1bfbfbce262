"""Login sessions: new at each login, ended by the logout, listed and ended on the account page."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Page, Visitor

from retllm.db.enums import Role
from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import Login
from retllm.identity import accounts
from retllm_web.http.agents import browser_of
from retllm_web.http.services import Services

COOKIE = "retllm_session"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def _cookie(visitor: Visitor) -> str:
    cookie = visitor.client.get_cookie(COOKIE)
    assert cookie is not None
    return cookie.value


def _browser_with_cookie(app: OpenAPI, cookie: str) -> Visitor:
    """Somebody else's browser with a copy of a cookie."""
    visitor = Visitor(app.test_client())
    visitor.client.set_cookie(COOKIE, cookie)
    return visitor


def _second_browser(app: OpenAPI, agent: str = FIREFOX) -> Visitor:
    """Another browser of ada's."""
    visitor = Visitor(app.test_client())
    visitor.client.environ_base["HTTP_USER_AGENT"] = agent
    assert visitor.log_in("ada").status == 200
    return visitor


def test_cookies_and_csrf_tokens_from_before_the_login_are_invalid_after_it(
    app: OpenAPI, visitor: Visitor, ada: Caller
) -> None:
    # an attacker who put a session of their own into the browser knows its cookie and its CSRF token
    visitor.get("/login")
    before, token = _cookie(visitor), visitor.token()
    assert visitor.log_in("ada").status == 200
    assert _cookie(visitor) != before
    assert _browser_with_cookie(app, before).get("/").path == "/login"
    forged = visitor.client.post("/collections", data={"name": "Forged", "csrf_token": token})
    assert forged.status_code == 403


def test_each_login_creates_its_own_session(app: OpenAPI, visitor: Visitor, ada: Caller, served: Services) -> None:
    for _ in range(2):
        visitor.log_in("ada")
        visitor.client.delete_cookie(COOKIE)
    with transaction(served.sessions) as session:
        assert session.scalar(sa.select(sa.func.count(Login.id.distinct()))) == 2


def test_a_stolen_cookie_is_invalid_after_logout(app: OpenAPI, reader: Visitor) -> None:
    stolen = _cookie(reader)
    assert _browser_with_cookie(app, stolen).get("/").path == "/"
    reader.get("/")
    reader.send("/logout")
    assert _browser_with_cookie(app, stolen).get("/").path == "/login"
    assert _browser_with_cookie(app, stolen).client.get("/api/v1/me").status_code == 401


def test_a_password_change_ends_all_other_sessions_and_renews_the_current_one(app: OpenAPI, reader: Visitor) -> None:
    other, stolen = _second_browser(app), _cookie(reader)
    reader.get("/account")
    fields = {"old": PASSWORD, "new": "another good one", "again": "another good one"}
    assert "Password changed" in reader.send("/account/password", **fields).text
    assert reader.get("/account").path == "/account"
    assert other.get("/").path == "/login"
    assert _browser_with_cookie(app, stolen).get("/").path == "/login"


def test_locking_an_account_or_replacing_its_password_ends_its_sessions(
    app: OpenAPI, reader: Visitor, root: Caller, ada: Caller
) -> None:
    for change in (
        lambda: root.post(f"/users/{ada.user.id}/password", json={"password": PASSWORD}),
        lambda: root.patch(f"/users/{ada.user.id}", json={"disabled": True}),
    ):
        assert change().status_code == 200
        assert reader.get("/").path == "/login"
        root.patch(f"/users/{ada.user.id}", json={"disabled": False})
        # the cookie stays invalid, even after unlocking
        assert reader.get("/").path == "/login"
        assert reader.log_in("ada").path == "/"


def test_a_role_change_applies_to_existing_sessions(reader: Visitor, served: Services) -> None:
    with transaction(served.sessions) as session:
        accounts.set_role(session, accounts.find_user(session, "ada"), Role.ADMIN)
    assert reader.get("/people").status == 200
    with transaction(served.sessions) as session:
        accounts.create_user(session, "root", PASSWORD, Role.ADMIN)
        accounts.set_role(session, accounts.find_user(session, "ada"), Role.VIEWER)
    assert reader.get("/people").status == 403


def test_a_session_expires_after_14_days_without_use(reader: Visitor, served: Services) -> None:
    def age(days: float) -> None:
        with transaction(served.sessions) as session:
            session.execute(sa.update(Login).values(seen_at=sa.func.now() - sa.cast(f"{days} days", sa.Interval)))

    age(13.9)
    assert reader.get("/").path == "/"
    age(14.1)
    assert reader.get("/").path == "/login"


@pytest.mark.parametrize("forged", ["nonsense", "", "018f0000-0000-7000-8000-000000000000", "1", "\0"])
def test_a_session_cookie_with_an_invalid_session_id_is_rejected(app: OpenAPI, ada: Caller, forged: str) -> None:
    client = app.test_client()
    with client.session_transaction() as cookie:
        cookie["_user_id"] = forged
    assert client.get("/api/v1/me").status_code == 401


def test_the_account_page_lists_sessions_and_can_end_one(app: OpenAPI, reader: Visitor) -> None:
    other = _second_browser(app)
    page = reader.get("/account")
    assert "Firefox on Linux" in page.text
    assert "(this one)" in page.text
    ends = [form for form in page.all("form") if (form.attributes.get("action") or "").endswith("/end")]
    one, everyone = ends
    assert "all other sessions" in everyone.text
    assert "logged out" in reader.send(str(one.attributes["action"])).text
    assert other.get("/").path == "/login"
    page = reader.get("/account")
    assert page.path == "/account"
    assert "Firefox" not in page.text
    # ended again by a second click: 404
    answer = reader.client.post(str(one.attributes["action"]), data={"csrf_token": reader.token()})
    assert answer.status_code == 404


def test_all_other_sessions_are_ended_at_once_and_logged(app: OpenAPI, reader: Visitor, served: Services) -> None:
    others = [_second_browser(app) for _ in range(3)]
    reader.get("/account")
    assert "All other browsers" in reader.send("/account/browsers/end").text
    assert [other.get("/").path for other in others] == ["/login"] * 3
    assert reader.get("/account").path == "/account"
    with transaction(served.sessions) as session:
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "sessions ended")).one()
    assert (entry.user_name, entry.detail) == ("ada", {"sessions": 3})


def test_the_user_agent_is_escaped(app: OpenAPI, reader: Visitor) -> None:
    _second_browser(app, agent="<script>alert(1)</script>" + "x" * 1000)
    page: Page = reader.get("/account")
    assert "<script>alert" not in page.html
    assert "&lt;script&gt;alert" in page.html


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 15_0) Version/18.0 Safari/605.1.15", "Safari on Mac"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) CriOS/140.0 Mobile Safari/604.1", "Chrome on iPhone"),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Mobile", "Chrome on Android"),
        ("curl/8.14.1", "curl/8.14.1"),
        ("", "An unnamed browser"),
        (None, "An unnamed browser"),
    ],
)
def test_user_agents_are_shown_as_browser_and_system(agent: str | None, words: str) -> None:
    assert browser_of(agent) == words
