"""Items of a collection are selected, changed and deleted in a real browser, also by keys alone."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.functional.browsing import BROWSER_MARKS, Visits

pytestmark = BROWSER_MARKS


@pytest.fixture
def texts(api: httpx.Client, empty: str) -> list[str]:
    """A collection of six texts, which are not indexed; return their keys."""
    body = {"items": [{"text": f"a bird {n}", "name": f"bird {n}"} for n in range(6)]}
    api.post(f"/collections/{empty}/items?index=false", json=body).raise_for_status()
    return [one["id"] for one in api.get(f"/collections/{empty}/items").json()["items"]]


@pytest.fixture
def listed(visit: Visits, empty: str, texts: list[str]) -> Page:
    """The page of that collection."""
    page = visit()
    page.goto(f"/collections/{empty}")
    expect(page.locator(".tile")).to_have_count(len(texts))
    return page


def names(api: httpx.Client, collection: str) -> list[str]:
    return [one["name"] for one in api.get(f"/collections/{collection}/items").raise_for_status().json()["items"]]


def boxes(page: Page) -> list[bool]:
    found: list[bool] = page.locator(".tile-check").evaluate_all("all => all.map((one) => one.checked)")
    return found


def test_items_are_selected_and_deleted_by_keys_alone(listed: Page, empty: str, api: httpx.Client) -> None:
    bar = listed.get_by_role("form", name="Selected items")
    delete = bar.get_by_role("button", name="Delete")
    expect(delete).to_be_hidden()
    for key in ("j", "j", "x"):
        listed.keyboard.press(key)
    expect(bar.get_by_role("status")).to_have_text("1 selected")
    expect(delete).to_be_visible()
    for key in ("j", "j", "Shift+X"):
        listed.keyboard.press(key)
    expect(bar.get_by_role("status")).to_have_text("3 selected")
    assert boxes(listed) == [False, True, True, True, False, False]
    listed.keyboard.press("k")
    listed.keyboard.press("x")
    assert boxes(listed) == [False, True, False, True, False, False]
    delete.focus()
    listed.keyboard.press("Enter")
    expect(listed.get_by_role("heading", level=1)).to_have_text("Delete 2 items?")
    listed.get_by_role("button", name="Delete 2 items").focus()
    listed.keyboard.press("Enter")
    expect(listed.locator(".alert-success")).to_contain_text("2 items were moved to the trash.")
    expect(listed.locator(".tile")).to_have_count(4)
    assert names(api, empty) == ["bird 0", "bird 2", "bird 4", "bird 5"]


def test_a_range_is_selected_with_shift_and_all_or_none_with_one_click(listed: Page) -> None:
    bar = listed.get_by_role("form", name="Selected items")
    listed.get_by_role("checkbox", name="Select bird 4").check()
    listed.get_by_role("checkbox", name="Select bird 1").click(modifiers=["Shift"])
    assert boxes(listed) == [False, True, True, True, True, False]
    here = listed.get_by_role("checkbox", name="All shown")
    assert here.evaluate("one => one.indeterminate")
    bar.get_by_role("button", name="Select none").click()
    assert not any(boxes(listed))
    here.check()
    assert all(boxes(listed))
    expect(bar.get_by_role("status")).to_have_text("6 selected")


def test_a_tag_is_added_with_enter(listed: Page, texts: list[str], api: httpx.Client) -> None:
    listed.get_by_role("checkbox", name="Select bird 2").check()
    listed.get_by_label("Tag", exact=True).fill("garden")
    listed.keyboard.press("Enter")
    expect(listed.locator(".alert-success")).to_have_text("1 item was tagged.")
    assert api.get(f"/items/{texts[2]}").json()["tags"] == ["garden"]


def test_captions_are_changed_with_enter_after_a_confirmation(
    listed: Page, texts: list[str], api: httpx.Client
) -> None:
    for number in (2, 3):
        listed.get_by_role("checkbox", name=f"Select bird {number}").check()
    # what is left in another field plays no part
    listed.get_by_label("Tag", exact=True).fill("garden")
    listed.get_by_text("Captions…").click()
    listed.get_by_label("Find in captions").fill("bird ")
    listed.get_by_label("replace with").fill("robin ")
    listed.keyboard.press("Enter")
    expect(listed.get_by_role("heading", level=1)).to_have_text("Change the captions of 2 items?")
    listed.get_by_role("button", name="Change the captions of 2 items").click()
    expect(listed.locator(".alert-success")).to_have_text("2 items were changed.")
    found = [api.get(f"/items/{key}").json() for key in texts[2:4]]
    assert [(one["text"], one["tags"]) for one in found] == [("a robin 2", []), ("a robin 3", [])]


def test_the_bar_stays_in_view_and_fits_a_phone(visit: Visits, empty: str, texts: list[str]) -> None:
    page = visit(viewport={"width": 390, "height": 844})
    page.goto(f"/collections/{empty}")
    page.get_by_role("checkbox", name="Select bird 0").check()
    bar = page.get_by_role("form", name="Selected items")
    box = bar.bounding_box()
    assert box is not None
    assert (box["x"], box["width"], box["y"] + box["height"]) == (0, 390, 844)
    assert box["height"] < 844 / 2
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    # what has the focus is not behind it
    last = page.get_by_role("checkbox", name="Select bird 5")
    last.focus()
    last.scroll_into_view_if_needed()
    place = last.bounding_box()
    assert place is not None
    assert place["y"] + place["height"] <= box["y"]


def test_a_field_of_the_item_is_corrected_where_it_is_wrong(visit: Visits, texts: list[str], api: httpx.Client) -> None:
    page = visit()
    page.goto(f"/items/{texts[0]}")
    page.get_by_text("Change this item").click()
    page.get_by_label("Title").fill("My bird")
    page.get_by_label("Taken").fill("in winter")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Taken")).to_be_focused()
    expect(page.get_by_label("Taken")).to_have_value("in winter")
    expect(page.locator("#taken-problem")).to_contain_text("is no time")
    page.get_by_label("Taken").fill("1998-05")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url(re.compile(r"/items/[0-9a-f-]{36}$"))
    expect(page.locator(".alert-success")).to_have_text("Saved.")
    found = api.get(f"/items/{texts[0]}").json()
    assert (found["title"], found["taken"]) == ("My bird", "1998-05")


def test_items_are_deleted_without_javascript(visit: Visits, empty: str, texts: list[str], api: httpx.Client) -> None:
    page = visit(java_script_enabled=False)
    page.goto(f"/collections/{empty}")
    page.get_by_role("checkbox", name="Select bird 3").check()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete 1 item").click()
    expect(page.locator(".alert-success")).to_contain_text("1 item was moved to the trash.")
    assert "bird 3" not in names(api, empty)
