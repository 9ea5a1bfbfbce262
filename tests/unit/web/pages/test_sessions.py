"""Login sessions: new at each log-in, ended by the log-out, listed and ended on the account page."""

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


def _thief(app: OpenAPI, cookie: str) -> Visitor:
    """Somebody else's browser with a copy of a cookie."""
    visitor = Visitor(app.test_client())
    visitor.client.set_cookie(COOKIE, cookie)
    return visitor


def _another(app: OpenAPI, agent: str = FIREFOX) -> Visitor:
    """Another browser of ada's."""
    visitor = Visitor(app.test_client())
    visitor.client.environ_base["HTTP_USER_AGENT"] = agent
    assert visitor.log_in("ada").status == 200
    return visitor


def test_what_a_browser_held_before_the_log_in_is_worth_nothing_after_it(
    app: OpenAPI, visitor: Visitor, ada: Caller
) -> None:
    # an attacker who put a session of their own into the browser knows its cookie and its CSRF token
    visitor.get("/login")
    before, token = _cookie(visitor), visitor.token()
    assert visitor.log_in("ada").status == 200
    assert _cookie(visitor) != before
    assert _thief(app, before).get("/").path == "/login"
    forged = visitor.client.post("/collections", data={"name": "Forged", "csrf_token": token})
    assert forged.status_code == 403


def test_each_log_in_is_a_session_of_its_own(app: OpenAPI, visitor: Visitor, ada: Caller, served: Services) -> None:
    for _ in range(2):
        visitor.log_in("ada")
        visitor.client.delete_cookie(COOKIE)
    with transaction(served.sessions) as session:
        assert session.scalar(sa.select(sa.func.count(Login.id.distinct()))) == 2


def test_a_stolen_cookie_is_dead_after_the_log_out(app: OpenAPI, reader: Visitor) -> None:
    stolen = _cookie(reader)
    assert _thief(app, stolen).get("/").path == "/"
    reader.get("/")
    reader.send("/logout")
    assert _thief(app, stolen).get("/").path == "/login"
    assert _thief(app, stolen).client.get("/api/v1/me").status_code == 401


def test_a_new_password_logs_every_other_browser_out_and_renews_this_one(app: OpenAPI, reader: Visitor) -> None:
    other, stolen = _another(app), _cookie(reader)
    reader.get("/account")
    fields = {"old": PASSWORD, "new": "another good one", "again": "another good one"}
    assert "Password changed" in reader.send("/account/password", **fields).text
    assert reader.get("/account").path == "/account"
    assert other.get("/").path == "/login"
    assert _thief(app, stolen).get("/").path == "/login"


def test_who_is_locked_out_or_given_a_password_is_out_in_every_browser(
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


def test_a_new_role_counts_at_once_in_a_session_that_lasts(reader: Visitor, served: Services) -> None:
    with transaction(served.sessions) as session:
        accounts.set_role(session, accounts.find_user(session, "ada"), Role.ADMIN)
    assert reader.get("/people").status == 200
    with transaction(served.sessions) as session:
        accounts.create_user(session, "root", PASSWORD, Role.ADMIN)
        accounts.set_role(session, accounts.find_user(session, "ada"), Role.VIEWER)
    assert reader.get("/people").status == 403


def test_a_session_that_nobody_uses_is_over(reader: Visitor, served: Services) -> None:
    def age(days: float) -> None:
        with transaction(served.sessions) as session:
            session.execute(sa.update(Login).values(seen_at=sa.func.now() - sa.cast(f"{days} days", sa.Interval)))

    age(13.9)
    assert reader.get("/").path == "/"
    age(14.1)
    assert reader.get("/").path == "/login"


@pytest.mark.parametrize("forged", ["nonsense", "", "018f0000-0000-7000-8000-000000000000", "1", "\0"])
def test_a_cookie_that_names_no_session_is_no_session(app: OpenAPI, ada: Caller, forged: str) -> None:
    client = app.test_client()
    with client.session_transaction() as cookie:
        cookie["_user_id"] = forged
    assert client.get("/api/v1/me").status_code == 401


def test_the_account_page_lists_the_browsers_and_ends_one(app: OpenAPI, reader: Visitor) -> None:
    other = _another(app)
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


def test_every_other_browser_is_logged_out_at_once(app: OpenAPI, reader: Visitor, served: Services) -> None:
    others = [_another(app) for _ in range(3)]
    reader.get("/account")
    assert "All other browsers" in reader.send("/account/browsers/end").text
    assert [other.get("/").path for other in others] == ["/login"] * 3
    assert reader.get("/account").path == "/account"
    with transaction(served.sessions) as session:
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "sessions ended")).one()
    assert (entry.user_name, entry.detail) == ("ada", {"sessions": 3})


def test_what_a_browser_says_of_itself_is_text_and_no_markup(app: OpenAPI, reader: Visitor) -> None:
    _another(app, agent="<script>alert(1)</script>" + "x" * 1000)
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
def test_a_browser_is_named_so_that_its_owner_knows_it(agent: str | None, words: str) -> None:
    assert browser_of(agent) == words
