"""A link is made on a page and opened on a phone by somebody without an account, until it is revoked."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, Request, expect
from tests.functional.browsing import BROWSER_MARKS, Scenes, Visits
from tests.functional.sample_data import wait_for

pytestmark = BROWSER_MARKS

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def phones(visit: Visits) -> Iterator[list[Page]]:
    """A phone with JavaScript and one without, neither logged in; at the end none of their pages is too wide."""
    pages = [visit(logged_in=False, viewport=PHONE, java_script_enabled=scripts) for scripts in (True, False)]
    yield pages
    assert pages[0].evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def noted_requests(page: Page) -> list[Request]:
    """Return the list of the requests that the page is about to send."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        requests.append(request)

    page.on("request", note)
    return requests


def make_link(page: Page, purpose: str) -> str:
    """Make a link on the open page and return its path."""
    page.get_by_label("What it is for").fill(purpose)
    page.get_by_role("button", name="Create link").click()
    address = page.get_by_label("Address of the new link").input_value()
    return httpx.URL(address).path


def test_a_collection_is_shared_with_a_phone_and_taken_back(
    visit: Visits, scenes: Scenes, indexed: Page, phones: list[Page]
) -> None:
    owner = visit()
    owner.goto(f"{scenes.path}/people")
    link = make_link(owner, "The school")
    for phone in phones:
        requests = noted_requests(phone)
        answer = phone.goto(link)
        assert answer is not None
        assert answer.ok
        expect(phone.get_by_role("heading", name="Scenes of the pages")).to_be_visible()
        expect(phone.locator("li.tile")).to_have_count(len(scenes.queries))
        expect(phone.get_by_role("navigation", name="Main")).to_have_count(0)
        # a row of pictures that were loaded
        assert phone.locator("li.tile img").first.evaluate("one => one.decode().then(() => one.naturalWidth > 0)")
        phone.locator("li.tile a").first.click()
        picture = phone.locator("img.large")
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth > 0)")
        phone.get_by_role("link", name="Next item").click()
        expect(phone.get_by_role("link", name="Previous item")).to_be_visible()
        assert phone.context.cookies() == []
        # no request tells the address of the page that it comes from
        assert len(requests) > len(scenes.queries)
        assert not [one for one in requests if link in one.headers.get("referer", "")]
    owner.goto(f"{scenes.path}/people")
    expect(owner.locator("#links")).to_contain_text("2 times")
    owner.get_by_role("button", name="Revoke The school").click()
    expect(owner.get_by_role("status")).to_contain_text("It opens nothing any more")
    for phone in phones:
        phone.reload()
        expect(phone.get_by_role("alert")).to_contain_text("does not exist, or has ended")


def test_a_result_is_shared_with_a_phone_and_walked_through_by_keys(
    visit: Visits, api: httpx.Client, scenes: Scenes, indexed: Page, phones: list[Page]
) -> None:
    asked = {"text": scenes.queries[0].query, "k": 4}
    search = api.post(f"/collections/{scenes.id}/searches", json=asked).raise_for_status().json()["id"]
    wait_for(api, [search])
    best = api.get(f"/searches/{search}").json()["candidates"][0]
    owner = visit()
    owner.goto(f"/jobs/{search}")
    owner.get_by_text("Share by link").click()
    link = make_link(owner, "A friend")
    for phone in phones:
        phone.goto(link)
        expect(phone.locator("li.result")).to_have_count(4)
        first = phone.locator("li.result").first
        expect(first).to_contain_text(best["name"])
        expect(first.locator("dl")).to_be_hidden()
        first.get_by_text("Scores").click()
        expect(first.locator("dl")).to_contain_text(f"{best['score']:.4f}")
    phone = phones[0]
    phone.reload()
    phone.keyboard.press("j")
    phone.keyboard.press("Enter")
    expect(phone.get_by_role("heading", name=best["name"])).to_be_visible()
    phone.get_by_role("link", name="Next result").click()
    phone.get_by_role("link", name="Results").click()
    expect(phone.locator("li.result")).to_have_count(4)
