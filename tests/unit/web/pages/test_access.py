"""Log-in, log-out and redirects."""

from __future__ import annotations

from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Page, Visitor

SCRIPT = {"X-Requested-With": "fetch"}
NOBODY = "018f0000-0000-7000-8000-000000000000"
PAGES = ["/", f"/collections/{NOBODY}", f"/items/{NOBODY}", "/jobs", f"/jobs/{NOBODY}", "/account"]


def test_a_stranger_is_sent_to_the_login(visitor: Visitor) -> None:
    for path in PAGES:
        page = visitor.get(path)
        assert (page.path, page.status) == ("/login", 200)
        assert page.one("input", name="next").attributes["value"] == path


def test_a_script_of_a_stranger_gets_401_and_no_login_page(visitor: Visitor) -> None:
    for path in (f"/collections/{NOBODY}/live", f"/jobs/{NOBODY}/live"):
        page = visitor.get(path, headers=SCRIPT)
        assert (page.status, page.path) == (401, path)
        assert "<form" not in page.html


def test_a_wrong_password_is_told_in_place_and_keeps_the_name(visitor: Visitor, ada: Caller) -> None:
    page = visitor.log_in("ada", "wrong wrong wrong")
    assert page.status == 401
    assert "Wrong name or password" in page.one("div", role="alert").text
    assert page.one("input", id="name").attributes["value"] == "ada"
    assert "value" not in page.one("input", id="password").attributes
    assert visitor.get("/").path == "/login"


def test_an_unknown_name_reads_the_same_as_a_wrong_password(visitor: Visitor, ada: Caller) -> None:
    wrong = visitor.log_in("ada", "wrong wrong wrong").one("div", role="alert").text
    assert visitor.log_in("nobody", "wrong wrong wrong").one("div", role="alert").text == wrong
    assert visitor.log_in("no\0body", "wrong wrong wrong").one("div", role="alert").text == wrong


def test_after_the_login_the_page_that_was_asked_for_comes(visitor: Visitor, ada: Caller) -> None:
    visitor.get("/jobs?state=failed")
    answer = visitor.send("/login", follow=False, name="ada", password=PASSWORD, next="/jobs?state=failed")
    assert answer.headers["Location"] == "/jobs?state=failed"


def test_the_login_leads_nowhere_else(visitor: Visitor, ada: Caller) -> None:
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


def test_who_is_logged_in_does_not_see_the_login_again(reader: Visitor) -> None:
    assert reader.get("/login").path == "/"


def test_after_the_logout_nothing_is_seen(reader: Visitor) -> None:
    reader.get("/")
    assert "logged out" in reader.send("/logout").text
    assert reader.get("/").path == "/login"


def test_pages_stay_out_of_the_cache(reader: Visitor) -> None:
    assert reader.get("/").headers["Cache-Control"] == "private, no-store"


def test_a_form_without_its_token_does_nothing_and_says_what_to_do(reader: Visitor) -> None:
    reader.get("/")
    answer = reader.client.post("/collections", data={"name": "Forged"})
    assert answer.status_code == 403
    assert "reload the page" in answer.get_data(as_text=True)
    assert "Forged" not in reader.get("/").text


def test_many_guesses_are_stopped_with_advice(visitor: Visitor, ada: Caller) -> None:
    pages = [visitor.log_in("ada", "wrong wrong wrong") for _ in range(20)]
    assert {page.status for page in pages} == {401}
    page = visitor.log_in("ada")
    assert page.status == 429
    assert 0 < int(page.headers["Retry-After"]) <= 15 * 60
    assert "Try again in 15 minutes" in page.one("div", role="alert").text
    assert visitor.get("/").path == "/login"


def test_an_unknown_address_has_a_page_that_leads_back(visitor: Visitor) -> None:
    page = visitor.get("/nothing/here")
    assert page.status == 404
    assert page.one("h1").text == "Not found"
    assert [link.attributes["href"] for link in page.all("a", class_="btn-primary")] == ["/"]


def test_an_address_that_only_takes_forms_leads_to_the_page_above_it(reader: Visitor, texts: str) -> None:
    assert reader.get(f"/collections/{texts}/upload").path == f"/collections/{texts}"
    assert reader.get("/account/tokens/018f0000-0000-7000-8000-000000000000/revoke").path == "/account"
    # a script gets 401
    answer = reader.client.get(f"/collections/{texts}/upload", headers={"Accept": "application/json"})
    assert answer.status_code == 405


def test_a_form_that_comes_after_the_logout_says_so_and_leads_back(reader: Visitor, texts: str) -> None:
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
    # a referrer of another site is ignored
    assert not sent_from("http://elsewhere.example/account").all("input", name="next")


def test_a_form_that_comes_after_the_logout_in_another_tab_says_so_as_well(reader: Visitor, texts: str) -> None:
    """The session is new by then, and the form's token is of the old one."""
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
