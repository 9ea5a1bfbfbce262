"""Login, collections and uploads in a real browser, with real servers and workers."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from playwright.sync_api import Locator, Page, expect
from tests.functional.browsing import BROWSER_MARKS, Scenes, Visits, keys, log_in, ranking, search
from tests.waiting import wait_until

from retllm.cli.up import Admin

pytestmark = BROWSER_MARKS


def test_a_wrong_password_shows_an_error_and_the_right_one_logs_in_and_out(visit: Visits, admin: Admin) -> None:
    page = visit(logged_in=False)
    page.goto("/jobs")
    log_in(page, admin, "certainly wrong")
    expect(page.get_by_role("alert")).to_contain_text("Wrong name or password")
    expect(page.get_by_label("Password")).to_be_focused()
    page.goto("/jobs?kind=search")
    page.get_by_label("Name").fill(admin.name)
    page.get_by_label("Password").fill(str(admin.password))
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs?kind=search")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("status")).to_contain_text("logged out")
    page.goto("/account")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_an_upload_lists_the_outcome_of_each_file_and_opens_the_search_form(
    visit: Visits, scenes: Scenes, tmp_path: Path
) -> None:
    """The page changes from an empty collection to the search form without a reload."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    first, second = scenes.queries[:2]
    (tmp_path / "captions.csv").write_text(f'file,caption\n{first.file},"{first.query}"\n', encoding="utf-8")
    page = visit()
    page.goto("/collections")
    page.get_by_label("Name").fill("Made by hand")
    page.get_by_role("button", name="Create collection").click()
    expect(page.locator(".area-search")).to_contain_text("Upload items to search them")
    page.evaluate("window.sameDocument = true")
    chosen = [scenes.folder / first.file, scenes.folder / second.file, *sorted(tmp_path.iterdir())]
    page.get_by_label("Files").set_input_files(chosen)
    page.get_by_role("button", name="Upload").click()
    outcomes = page.locator("[data-outcomes] tr")
    # the sheet has an entry beside that of its row
    expect(outcomes).to_have_count(5)
    expect(page.locator("[data-said]")).to_have_text("4 files arrived.")
    expect(page.locator("[data-summary]")).to_have_text("2 added, 1 updated, 1 rejected.")
    # outcomes that need attention are listed first
    expect(outcomes.first).to_contain_text("broken.png")
    expect(outcomes.first).to_contain_text("is not such a picture")
    expect(page.locator(".tile")).to_have_count(2)
    expect(page.locator("#index-state")).to_contain_text("All 2 items are indexed")
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_visible()
    expect(page.get_by_text("not indexed yet")).to_have_count(0)
    assert page.evaluate("window.sameDocument")
    wait_until(
        lambda: page.evaluate(
            "() => { const all = [...document.querySelectorAll('.tile img')];"
            " return all.length === 2 && all.every((one) => one.complete && one.naturalWidth > 0); }"
        )
    )


def test_items_can_be_filtered_and_opened(indexed: Page, scenes: Scenes) -> None:
    name = scenes.queries[3].file
    indexed.get_by_label("Name or text contains").fill(name)
    indexed.get_by_role("button", name="Filter").click()
    expect(indexed.locator(".tile")).to_have_count(1)
    indexed.locator(".tile a").click()
    expect(indexed.get_by_role("heading", level=1)).to_have_text(name)
    expect(indexed.locator("dl.item-facts")).to_contain_text("256 × 256 pixels")


def test_a_collection_is_deleted_only_after_its_name_is_typed(visit: Visits, api: httpx.Client) -> None:
    key = api.post("/collections", json={"name": "Short-lived"}).raise_for_status().json()["id"]
    page = visit()
    page.goto(f"/collections/{key}")
    page.get_by_role("heading", name="Change or delete").click()
    page.get_by_label("To confirm, type the name").fill("something else")
    page.get_by_role("button", name="Delete collection").click()
    expect(page.get_by_role("alert")).to_contain_text("Not deleted.")
    page.get_by_role("heading", name="Change or delete").click()
    page.get_by_label("To confirm, type the name").fill("Short-lived")
    page.get_by_role("button", name="Delete collection").click()
    expect(page.get_by_role("status").first).to_contain_text("” moved to the trash.")
    assert api.get(f"/collections/{key}").status_code == 404


def test_login_upload_and_search_work_without_javascript(
    visit: Visits, admin: Admin, api: httpx.Client, scenes: Scenes, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page = visit(logged_in=False, java_script_enabled=False)
    log_in(page, admin)
    page.get_by_role("link", name="Collections", exact=True).click()
    page.get_by_label("Name").fill("Without scripts")
    page.get_by_role("button", name="Create collection").click()
    names = [one.file for one in scenes.queries[:3]]
    page.get_by_label("Files").set_input_files([*(scenes.folder / name for name in names), tmp_path / "broken.png"])
    page.get_by_role("button", name="Upload").click()
    outcomes = page.locator("[data-outcomes] tr")
    expect(outcomes).to_have_count(4)
    expect(outcomes.first).to_contain_text("broken.png")
    key = re.search(r"/collections/([0-9a-f-]{36})", page.url)
    assert key is not None
    _wait_for_index(page, key[1])
    search(page, scenes.queries[0].query, k=3)
    # the page reloads itself until the job is over
    expect(page.locator("[data-order=final]")).to_be_visible()
    assert keys(page) == [one["item_id"] for one in ranking(api, page.url.rpartition("/")[2])["candidates"]]


def _wait_for_index(page: Page, key: str) -> None:
    """Reload the page until it shows the search form."""
    form: Locator = page.get_by_role("button", name="Search", exact=True)
    for _ in range(180):
        page.goto(f"/collections/{key}")
        if form.count() and "All 3 items are indexed" in page.locator("#index-state").inner_text():
            return
        # one second of the browser's own clock
        page.wait_for_timeout(1000)
    raise AssertionError("the collection was not indexed in three minutes")


def test_the_first_tab_stop_skips_to_the_content(visit: Visits, scenes: Scenes) -> None:
    page = visit()
    page.goto(scenes.path)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
