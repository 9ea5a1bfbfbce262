"""Links on the pages of a collection's members and of a search, and their visitors who are logged in as well."""

from __future__ import annotations

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller, start_session
from tests.unit.web.pages.conftest import Page, Searched, Visitor


def address(page: Page) -> str:
    """Return the path of the link that was just made."""
    return "/s/" + str(page.one("input", id="made").attributes["value"]).rpartition("/s/")[2]


def test_a_link_to_a_collection_is_made_shown_once_and_revoked(reader: Visitor, visitor: Visitor, texts: str) -> None:
    people, make = f"/collections/{texts}/people", f"/collections/{texts}/links#links"
    assert "No links yet" in reader.get(people).text
    page = reader.send(make, purpose="the family", days="7", downloads="1")
    link = address(page)
    assert "in 7 days" in page.text
    assert visitor.get(link).status == 200
    page = reader.get(people)
    assert "the family" in page.text
    assert "with downloads" in page.text
    assert "once" in page.text
    assert link not in page.html
    [revoke] = [form for form in page.all("form") if "Revoke" in form.text]
    page = reader.send(str(revoke.attributes["action"]), back=f"{people}#links")
    assert page.path == people
    assert "Revoked “the family”" in page.text
    assert visitor.get(link).status == 404


@pytest.mark.parametrize(
    ("sent", "field", "told"),
    [
        ({"purpose": "", "days": "7"}, "purpose", "Say what the link is for"),
        ({"purpose": "p", "days": "366"}, "days", "1 to 365 days"),
        ({"purpose": "p", "days": "many"}, "days", "integer"),
    ],
)
def test_an_invalid_link_is_refused_next_to_the_field(
    reader: Visitor, texts: str, sent: dict[str, str], field: str, told: str
) -> None:
    reader.get(f"/collections/{texts}/people")
    page = reader.send(f"/collections/{texts}/links#links", **sent)
    assert page.status == 422
    assert told in page.one("div", id=f"{field}-problem").text
    assert page.one("input", id="days").attributes["value"] == sent["days"]
    assert not page.all("input", id="made")


def test_a_link_to_a_result_is_made_on_its_page(
    reader: Visitor, visitor: Visitor, searched: Searched, texts: str
) -> None:
    here = f"/jobs/{searched.id}"
    assert "Share by link" in reader.get(here).text
    link = address(reader.send(f"{here}/links#links", purpose="a friend", days="1"))
    page = visitor.get(link)
    assert next(item.text for item in page.all("li", class_="result")).startswith("Rank 1")
    assert "provisional" in page.text
    # the page of members lists it too
    assert "a result" in reader.get(f"/collections/{texts}/people").text


def test_who_may_not_share_a_result_sees_no_form(
    app: OpenAPI, ada: Caller, bob: Caller, searched: Searched, texts: str
) -> None:
    ada.post(f"/collections/{texts}/members", json={"name": "bob", "role": "editor"})
    guest = Visitor(app.test_client())
    start_session(app, guest.client, bob.user)
    page = guest.get(f"/jobs/{searched.id}")
    assert page.status == 200
    assert "Share by link" not in page.text


def test_a_link_in_a_logged_in_browser_shows_what_anyone_sees_and_leaves_the_session_alone(
    reader: Visitor, visitor: Visitor, texts: str
) -> None:
    reader.get(f"/collections/{texts}/people")
    link = address(reader.send(f"/collections/{texts}/links#links", purpose="me", days="7"))
    revoked = link.replace("/s/", "/s/x")
    # a message that waits for the next page of the account
    reader.send(f"/collections/{texts}/visibility", follow=False, visibility="private")
    for path in (link, revoked):
        mine = reader.client.get(path)
        assert "Set-Cookie" not in mine.headers
        assert mine.text == visitor.client.get(path).text
        assert "Log out" not in mine.text
    assert "Private: only the owner" in reader.get(f"/collections/{texts}/people").text


def test_nothing_behind_a_link_is_sent_a_form(visitor: Visitor, reader: Visitor, texts: str) -> None:
    reader.get(f"/collections/{texts}/people")
    link = address(reader.send(f"/collections/{texts}/links#links", purpose="me", days="7"))
    assert not visitor.get(link).all("form", method="post")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert visitor.client.open(link, method=method).status_code == 405
