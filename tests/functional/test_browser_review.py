"""Reviews, comparisons and the history in a real browser, with real servers and workers."""

from __future__ import annotations

import csv
import io
import re

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.functional.browsing import BROWSER_MARKS, K, Scenes, Visits, keys, ranking, search

pytestmark = BROWSER_MARKS


@pytest.fixture
def finished_search(indexed: Page, scenes: Scenes) -> Page:
    """The page of a finished search."""
    search(indexed, scenes.queries[3].query)
    expect(indexed.locator("[data-order=final]")).to_be_visible()
    return indexed


def _pressed(page: Page, item: str, mark: str) -> str | None:
    return page.locator(f'form[data-mark="{item}"] [data-mark-as="{mark}"]').first.get_attribute("aria-pressed")


def test_marks_set_by_keys_and_clicks_update_the_measures(finished_search: Page, api: httpx.Client) -> None:
    page = finished_search
    job = page.url.rpartition("/")[2]
    order = keys(page)
    page.evaluate("window.sameDocument = true")
    page.keyboard.press("j")
    expect(page.locator(f'li.result[data-key="{order[0]}"]')).to_have_class(re.compile("current"))
    page.keyboard.press("x")
    expect(page.locator("[data-review]")).to_contain_text("A relevant item is first")
    page.keyboard.press("j")
    page.keyboard.press("n")
    expect(page.locator("[data-review]")).to_contain_text(f"2 of {K} candidates marked")
    assert _pressed(page, order[1], "not") == "true"
    # marking a second time removes the mark, with a click as with a key
    page.locator(f'form[data-mark="{order[1]}"]').get_by_role("button", name="Not relevant").click()
    expect(page.locator("[data-review]")).to_contain_text(f"1 of {K} candidates marked")
    assert page.evaluate("window.sameDocument")
    kept = api.get(f"/searches/{job}/judgments").raise_for_status().json()["judgments"]
    assert [(one["item_id"], one["relevant"]) for one in kept] == [(order[0], True)]
    page.reload()
    assert _pressed(page, order[0], "relevant") == "true"


def test_a_relevant_item_outside_the_candidates_is_shown_as_a_coarse_miss(
    indexed: Page, scenes: Scenes, api: httpx.Client
) -> None:
    page = indexed
    job = search(page, scenes.queries[12].query, k=1)
    expect(page.locator("[data-order=final]")).to_be_visible()
    found = {one["name"] for one in ranking(api, job)["candidates"]}
    other = next(one.file for one in scenes.queries if one.file not in found)
    page.get_by_text("Mark an item that is not listed").click()
    page.get_by_label("Name, text or ID").fill(other)
    page.get_by_role("button", name="Find").click()
    page.locator("[data-found]").get_by_role("button", name=f"Relevant: {other}", exact=True).click()
    expect(page.locator("[data-review] .badge").first).to_contain_text("coarse miss")
    expect(page.locator("[data-review]")).to_contain_text("Relevant items that are not candidates")


def test_two_searches_selected_in_the_history_are_compared(
    finished_search: Page, scenes: Scenes, api: httpx.Client
) -> None:
    page = finished_search
    first = page.url.rpartition("/")[2]
    body = {"text": scenes.queries[3].query, "k": 3}
    second = api.post(f"{scenes.path}/searches", json=body).raise_for_status().json()["id"]
    page.goto(f"/jobs?collection={scenes.id}&text=" + scenes.queries[3].query.replace(" ", "+"))
    for job in (first, second):
        page.locator(f'input[name=of][value="{job}"]').check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?*")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Compare 2 searches")
    expect(page.locator("main")).to_contain_text("Settings that differ")
    items = {one["item_id"] for job in (first, second) for one in ranking(api, job)["candidates"]}
    expect(page.locator("tbody[data-rows] tr[data-row]")).to_have_count(len(items))


def test_three_searches_are_compared_side_by_side_on_a_phone(
    finished_search: Page, scenes: Scenes, api: httpx.Client
) -> None:
    page = finished_search
    jobs = [page.url.rpartition("/")[2]]
    for _ in range(2):
        body = {"text": scenes.queries[3].query, "k": K}
        jobs.append(api.post(f"{scenes.path}/searches", json=body).raise_for_status().json()["id"])
        page.goto(f"/jobs/{jobs[-1]}")
        expect(page.locator("[data-order=final]")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("/compare?" + "&".join(f"of={job}" for job in jobs))
    expect(page.get_by_role("heading", level=1)).to_contain_text("Compare 3 searches")
    last = page.locator("tbody[data-rows] tr[data-row]").first.locator("td").last
    box = last.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 390
    expect(last).to_contain_text("score")


def test_an_export_contains_the_filtered_results(finished_search: Page, scenes: Scenes, api: httpx.Client) -> None:
    page = finished_search
    job = page.url.rpartition("/")[2]
    page.goto(f"/jobs?collection={scenes.id}&kind=search")
    page.locator("summary", has_text="Export").click()
    with page.expect_download() as begun:
        page.locator("details.export li").nth(1).get_by_role("link", name="CSV").click()
    text = begun.value.path().read_text("utf-8-sig")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if job in row.values()]
    candidates = ranking(api, job)["candidates"]
    assert len(rows) == len(candidates) == K
    assert {one["item_id"] for one in candidates} == {value for row in rows for value in row.values()} & {
        one["item_id"] for one in candidates
    }


def test_selected_jobs_are_deleted_after_their_number_is_confirmed(
    visit: Visits, scenes: Scenes, api: httpx.Client
) -> None:
    jobs = []
    for text in ("first to be deleted", "second to be deleted", "kept for good"):
        made = api.post(f"{scenes.path}/searches", json={"text": text, "k": 2}).raise_for_status().json()
        jobs.append(made["id"])
    page = visit()
    for job in jobs:
        page.goto(f"/jobs/{job}")
        expect(page.locator("#job")).to_have_attribute("data-over", "true")
    page.goto("/jobs?text=deleted")
    expect(page.locator("tbody [data-row]")).to_have_count(2)
    # with the keyboard: go to the first entry and select it, then the next one
    for key in ("j", "x", "j", "x"):
        page.keyboard.press(key)
    page.get_by_role("button", name=re.compile("Delete")).click()
    expect(page.get_by_role("button", name="Delete 2 jobs")).to_be_visible()
    page.get_by_role("button", name="Delete 2 jobs").click()
    expect(page.get_by_role("status").first).to_contain_text("2")
    assert [api.get(f"/jobs/{job}").status_code for job in jobs] == [404, 404, 200]


def test_a_filter_is_saved_under_a_name(visit: Visits, scenes: Scenes) -> None:
    page = visit()
    page.goto("/jobs")
    page.get_by_label("Kind").select_option("index")
    page.get_by_role("button", name="Filter").click()
    page.get_by_label("Save this filter as").fill("Only indexing")
    page.get_by_role("button", name="Save view").click()
    page.goto("/jobs")
    page.get_by_role("link", name="Only indexing").click()
    page.wait_for_url("**/jobs?*kind=index*")
    expect(page.get_by_label("Kind")).to_have_value("index")


def test_the_colour_mode_is_chosen_and_remembered(visit: Visits) -> None:
    page = visit(color_scheme="light")
    page.goto("/")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "light")
    page.get_by_role("button", name="System colours").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.goto("/collections")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    expect(page.get_by_role("button", name="Dark colours")).to_be_visible()


def test_keys_open_the_list_of_shortcuts_and_the_search_page(visit: Visits) -> None:
    page = visit()
    page.goto("/")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next or previous entry")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    page.wait_for_url("**/search")
