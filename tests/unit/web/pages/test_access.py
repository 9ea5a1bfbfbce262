"""Login, logout and redirects."""

from __future__ import annotations

import pytest
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.pages.search_requests import filled_form

SCRIPT = {"X-Requested-With": "fetch"}
UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"
PAGES = ["/", f"/collections/{UNKNOWN_ID}", f"/items/{UNKNOWN_ID}", "/jobs", f"/jobs/{UNKNOWN_ID}", "/account"]


def test_pages_redirect_to_the_login_page_without_a_session(visitor: Visitor) -> None:
    for path in PAGES:
        page = visitor.get(path)
        assert (page.path, page.status) == ("/login", 200)
        assert page.one("input", name="next").attributes["value"] == path


def test_scripts_without_a_session_get_401_instead_of_the_login_page(visitor: Visitor) -> None:
    for path in (f"/collections/{UNKNOWN_ID}/live", f"/jobs/{UNKNOWN_ID}/live"):
        page = visitor.get(path, headers=SCRIPT)
        assert (page.status, page.path) == (401, path)
        assert "<form" not in page.html


def test_a_failed_login_shows_an_error_and_keeps_the_name(visitor: Visitor, ada: Caller) -> None:
    page = visitor.log_in("ada", "wrong wrong wrong")
    assert page.status == 401
    assert "Wrong name or password" in page.one("div", role="alert").text
    assert page.one("input", id="name").attributes["value"] == "ada"
    assert "value" not in page.one("input", id="password").attributes
    assert visitor.get("/").path == "/login"


def test_an_unknown_name_gives_the_same_error_as_a_wrong_password(visitor: Visitor, ada: Caller) -> None:
    wrong = visitor.log_in("ada", "wrong wrong wrong").one("div", role="alert").text
    assert visitor.log_in("nobody", "wrong wrong wrong").one("div", role="alert").text == wrong
    assert visitor.log_in("no\0body", "wrong wrong wrong").one("div", role="alert").text == wrong


def test_login_redirects_to_the_requested_page(visitor: Visitor, ada: Caller) -> None:
    visitor.get("/jobs?state=failed")
    answer = visitor.send("/login", follow=False, name="ada", password=PASSWORD, next="/jobs?state=failed")
    assert answer.headers["Location"] == "/jobs?state=failed"


def test_login_does_not_redirect_to_other_sites(visitor: Visitor, ada: Caller) -> None:
    visitor.get("/login")
    for target in (
        "https://elsewhere.example/",
        "//elsewhere.example",
        "/\\elsewhere.example",
        "javascript:alert(1)",
        "x",
    ):
        answer = visitor.send("/login", follow=False, name="ada", password=PASSWORD, next=target)
        assert (answer.status, answer.headers["Location"]) == (302, "/"), target
        visitor.client.delete_cookie("retllm_session")
        visitor.get("/login")


def test_the_login_page_redirects_if_already_logged_in(reader: Visitor) -> None:
    assert reader.get("/login").path == "/"


def test_logging_out_ends_the_session(reader: Visitor) -> None:
    reader.get("/")
    assert "logged out" in reader.send("/logout").text
    assert reader.get("/").path == "/login"


def test_pages_are_not_cached(reader: Visitor) -> None:
    assert reader.get("/").headers["Cache-Control"] == "private, no-store"


def test_a_form_without_a_csrf_token_is_rejected_with_advice(reader: Visitor) -> None:
    reader.get("/")
    answer = reader.client.post("/collections", data={"name": "Forged"})
    assert answer.status_code == 403
    assert "reload the page" in answer.get_data(as_text=True)
    assert "Forged" not in reader.get("/").text


def test_too_many_failed_logins_are_blocked_and_the_waiting_time_is_shown(visitor: Visitor, ada: Caller) -> None:
    pages = [visitor.log_in("ada", "wrong wrong wrong") for _ in range(20)]
    assert {page.status for page in pages} == {401}
    page = visitor.log_in("ada")
    assert page.status == 429
    assert 0 < int(page.headers["Retry-After"]) <= 15 * 60
    assert "Try again in 15 minutes" in page.one("div", role="alert").text
    assert visitor.get("/").path == "/login"


def test_an_unknown_path_shows_a_404_page_with_a_link_home(visitor: Visitor) -> None:
    page = visitor.get("/nothing/here")
    assert page.status == 404
    assert page.one("h1").text == "Not found"
    assert [link.attributes["href"] for link in page.all("a", class_="btn-primary")] == ["/"]


def test_a_get_request_to_a_form_action_redirects_to_its_page(reader: Visitor, texts: str) -> None:
    assert reader.get(f"/collections/{texts}/upload").path == f"/collections/{texts}"
    assert reader.get("/account/tokens/018f0000-0000-7000-8000-000000000000/revoke").path == "/account"
    # a script gets 405
    answer = reader.client.get(f"/collections/{texts}/upload", headers={"Accept": "application/json"})
    assert answer.status_code == 405


def test_a_form_sent_after_the_session_ended_redirects_to_the_login_page_and_changes_nothing(
    reader: Visitor, texts: str
) -> None:
    page = f"/collections/{texts}"
    reader.get(page)
    form = {"csrf_token": reader.token(), "text": "an owl"}
    with reader.client.session_transaction() as session:
        session.pop("_user_id")

    def sent_from(address: str) -> Page:
        answer = reader.client.post(f"{page}/texts", data=form, headers={"Referer": address}, follow_redirects=True)
        return Page(answer)

    refused = sent_from(f"http://localhost{page}?kind=text")
    assert refused.path == "/login"
    assert "Nothing was changed" in refused.one("div", role="status").text
    assert refused.one("input", name="next").attributes["value"] == f"{page}?kind=text"
    # a referrer of another site is ignored, and so is one that can't be read
    for address in ("http://elsewhere.example/account", "http://["):
        refused = sent_from(address)
        assert refused.path == "/login"
        assert not refused.all("input", name="next")


def test_a_form_with_the_csrf_token_of_an_ended_session_redirects_to_the_login_page(
    reader: Visitor, texts: str
) -> None:
    """The session has changed since then, and the form has the token of the old one."""
    page = f"/collections/{texts}"
    reader.get(page)
    form = {"csrf_token": reader.token(), "text": "an owl"}
    reader.send("/logout")
    answer = reader.client.post(
        f"{page}/texts", data=form, headers={"Referer": f"http://localhost{page}"}, follow_redirects=True
    )
    refused = Page(answer)
    assert refused.path == "/login"
    assert "Nothing was changed" in refused.one("div", role="status").text
    assert refused.one("input", name="next").attributes["value"] == page


def test_the_log_in_page_has_no_longer_address_than_servers_take(visitor: Visitor) -> None:
    for text, kept in (("ä" * 300, True), ("ä" * 600, False)):
        shown = visitor.client.get("/search", query_string={"text": text})
        sent = visitor.client.post("/search", data={"text": text})
        for answer in (shown, sent):
            assert answer.status_code == 302
            address = answer.headers["Location"]
            assert len(address) < 4094
            assert address.startswith("/login?next=") if kept else address == "/login"


@pytest.mark.parametrize("whole", [True, False])
def test_a_question_that_was_typed_before_the_session_ended_comes_back(
    reader: Visitor, indexed: str, whole: bool
) -> None:
    action = "/search" if whole else f"/collections/{indexed}/search"
    page = reader.get(f"/search?collection={indexed}" if whole else f"/collections/{indexed}")
    form = filled_form(page) | {"csrf_token": reader.token(), "text": "a red & a blue owl", "k": "3"}
    assert not whole or len(form) > 10
    with reader.client.session_transaction() as session:
        account = session.pop("_user_id")
    refused = Page(reader.client.post(action, data=form, content_type="multipart/form-data", follow_redirects=True))
    assert refused.path == "/login"
    assert "the question is there again" in refused.one("div", role="status").text
    with reader.client.session_transaction() as session:
        session["_user_id"] = account
    again = reader.get(refused.one("input", name="next").attributes["value"] or "")
    found = filled_form(again)
    assert (found["text"], found["k"], found["collection"]) == ("a red & a blue owl", "3", indexed)


@pytest.mark.parametrize("text", ["x" * 5_000, "x" * 70_000, "  "])
def test_what_no_address_can_hold_does_not_come_back(reader: Visitor, indexed: str, text: str) -> None:
    reader.get("/search")
    form = {"csrf_token": reader.token(), "text": text}
    with reader.client.session_transaction() as session:
        session.pop("_user_id")
    address = f"/collections/{indexed}/search"
    refused = Page(reader.client.post(address, data=form, content_type="multipart/form-data", follow_redirects=True))
    assert refused.path == "/login"
    assert "Nothing was changed" in refused.one("div", role="status").text
