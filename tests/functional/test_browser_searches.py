"""Searches in a real browser, with real servers and workers."""

from __future__ import annotations

import re

import httpx
from playwright.sync_api import Page, expect
from tests.functional.browsing import BROWSER_MARKS, K, Scenes, Visits, keys, log_in, paused, ranking, search

from retllm.cli.up import Admin
from retllm.stack import LocalStack

pytestmark = BROWSER_MARKS


def test_candidates_appear_at_once_and_end_in_the_order_of_the_api(
    indexed: Page, scenes: Scenes, stack: LocalStack, api: httpx.Client
) -> None:
    page = indexed
    with paused(stack, "score"):
        job = search(page, scenes.queries[5].query)
        expect(page.locator("[data-order=provisional]")).to_be_visible()
        expect(page.locator("li.result")).to_have_count(K)
        coarse = [one["item_id"] for one in sorted(ranking(api, job)["candidates"], key=lambda c: c["coarse_rank"])]
        assert keys(page) == coarse
        expect(page.locator(".change")).to_have_count(0)
        page.evaluate("window.sameDocument = true")
        kept = page.locator("li.result").first.element_handle()
    expect(page.locator("[data-order=final]")).to_be_visible()
    result = ranking(api, job)
    assert not result["provisional"]
    final = [one["item_id"] for one in result["candidates"]]
    assert keys(page) == final
    assert page.locator(".rank").evaluate_all("all => all.map(one => one.lastChild.data)") == [
        str(rank) for rank in range(1, K + 1)
    ]
    # the same elements were moved, without a reload
    assert page.evaluate("window.sameDocument")
    assert kept.evaluate("one => one.isConnected && one.dataset.key") == coarse[0]
    for one in result["candidates"]:
        row = page.locator(f'li.result[data-key="{one["item_id"]}"]')
        rise = one["coarse_rank"] - one["final_rank"]
        sign = "▲" if rise > 0 else "▼" if rise < 0 else "="
        expect(row.locator(".change")).to_contain_text(sign)
        expect(row.locator(".measures")).to_contain_text(f"{one['score']:.4f}")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_a_search_by_picture_finds_that_picture_and_shows_its_settings(
    indexed: Page, scenes: Scenes, api: httpx.Client
) -> None:
    page = indexed
    wanted = scenes.queries[2].file
    page.get_by_label("Query picture (alone or with text)").set_input_files(scenes.folder / wanted)
    job = search(page, "")
    expect(page.locator("[data-order=final]")).to_be_visible()
    expect(page.get_by_alt_text("Query picture")).to_be_visible()
    best = min(ranking(api, job)["candidates"], key=lambda one: one["coarse_rank"])
    assert best["name"] == wanted
    page.get_by_role("heading", name="Settings and models of this search").click()
    for fact in (ranking(api, job)["embedder_revision"], ranking(api, job)["scorer_version"]):
        expect(page.locator("[data-part=why]")).to_contain_text(fact)
    # again, with the same picture and fewer candidates
    page.get_by_role("heading", name="Search again").click()
    expect(page.get_by_label("Use the same picture")).to_be_checked()
    again = search(page, "", k=3)
    assert again != job
    expect(page.locator("li.result")).to_have_count(3)
    assert ranking(api, again)["has_picture"]


def test_a_cancelled_search_can_be_retried(indexed: Page, scenes: Scenes, stack: LocalStack, api: httpx.Client) -> None:
    page = indexed
    with paused(stack, "score"):
        job = search(page, scenes.queries[7].query)
        expect(page.locator("[data-order=provisional]")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".progress-state")).to_contain_text(re.compile("cancelled|cancel requested"))
    expect(page.locator("#job")).to_have_attribute("data-over", "true")
    expect(page.locator(".progress-state")).to_contain_text("cancelled")
    assert api.get(f"/jobs/{job}").json()["state"] == "cancelled"
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator("[data-order=final]")).to_be_visible()
    assert api.get(f"/jobs/{job}").json()["state"] == "succeeded"


def test_a_lost_connection_is_reported_until_it_is_restored(indexed: Page, scenes: Scenes, stack: LocalStack) -> None:
    page = indexed
    with paused(stack, "score"):
        search(page, scenes.queries[9].query)
        expect(page.locator("li.result")).to_have_count(K)
        page.route("**/live?view=*", lambda route: route.abort())
        expect(page.locator("#job [data-lost]")).to_contain_text("Connection lost")
        page.unroute("**/live?view=*")
        expect(page.locator("#job [data-lost]")).to_be_hidden()
    expect(page.locator("[data-order=final]")).to_be_visible()


def test_live_updates_keep_the_focus_on_unchanged_elements(indexed: Page, scenes: Scenes, stack: LocalStack) -> None:
    page = indexed
    with paused(stack, "score"):
        search(page, scenes.queries[10].query)
        expect(page.locator("li.result")).to_have_count(K)
        page.get_by_role("button", name="Cancel").focus()
        for _ in range(3):
            with page.expect_response("**/live?view=*"):
                pass
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()


def test_a_hidden_tab_sends_no_requests_and_updates_when_it_is_shown_again(
    indexed: Page, scenes: Scenes, stack: LocalStack
) -> None:
    page = indexed
    page.clock.install()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "/live" in request.url else None)
    with paused(stack, "score"):
        search(page, scenes.queries[11].query)
        expect(page.locator("li.result")).to_have_count(K)
        _hide(page, True)
        before = len(requests)
        for _ in range(5):
            page.clock.run_for(5_000)
            # by then a response would have arrived and the next request been scheduled
            page.evaluate("fetch('/healthz').then((answer) => answer.text())")
        assert len(requests) <= before + 1  # one may have been in flight
    _hide(page, False)
    expect(page.locator("[data-order=final]")).to_be_visible()


def _hide(page: Page, hidden: bool) -> None:
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_pressing_enter_repeatedly_submits_one_search(indexed: Page, scenes: Scenes, api: httpx.Client) -> None:
    page = indexed
    text = "only one of these"
    page.get_by_label("Query text").fill(text)
    page.evaluate(
        """() => {
            const enter = () => new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true });
            const press = () => document.querySelector("#text")?.dispatchEvent(enter());
            for (let n = 0; n < 3; n += 1) setTimeout(press, 5 * n);
        }"""
    )
    page.wait_for_url("**/jobs/*")
    expect(page.locator("[data-order=final]")).to_be_visible()
    jobs = api.get("/jobs", params={"collection": scenes.id, "kind": "search"}).json()["jobs"]
    assert len([job for job in jobs if job["params"].get("text") == text]) == 1


def test_an_invalid_field_shows_its_error(indexed: Page) -> None:
    page = indexed
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#text-problem")).to_contain_text("query is empty")
    expect(page.get_by_label("Query text")).to_have_attribute("aria-invalid", "true")


def test_the_selected_picture_is_shown_again_after_going_back(indexed: Page, scenes: Scenes) -> None:
    page = indexed
    page.goto(f"/search?collection={scenes.id}")
    page.get_by_label("Query picture (alone or with text)").set_input_files(scenes.folder / scenes.queries[1].file)
    expect(page.get_by_alt_text("Selected picture")).to_be_visible()
    search(page, "")
    page.go_back()
    expect(page.get_by_alt_text("Selected picture")).to_be_visible()


def test_a_logout_in_another_tab_is_reported_and_the_login_returns_to_the_page(
    indexed: Page, scenes: Scenes, visit: Visits, admin: Admin, stack: LocalStack
) -> None:
    # a separate session, since the logout ends it
    page = visit(logged_in=False)
    log_in(page, admin)
    expect(page.get_by_role("heading", name="Overview", exact=True)).to_be_visible()
    page.goto(scenes.path)
    with paused(stack, "score"):
        job = search(page, scenes.queries[3].query)
        expect(page.locator("li.result")).to_have_count(K)
        other = page.context.new_page()
        other.goto("/")
        other.get_by_role("button", name="Log out").click()
        expect(other.get_by_role("heading", name="Log in")).to_be_visible()
        expect(page.locator("[data-lost]")).to_contain_text("You are logged out")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status")).to_contain_text("Nothing was changed")
        page.get_by_label("Name").fill(admin.name)
        page.get_by_label("Password").fill(str(admin.password))
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{stack.url}/jobs/{job}")
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()


def test_a_column_is_chosen_in_the_form_without_losing_what_was_typed(
    visit: Visits, empty: str, api: httpx.Client
) -> None:
    texts = [{"text": f"a bird of {name} in {year}"} for name, year in (("Ann", 1), ("Ann", 2), ("Bo", 3), ("Bo", 4))]
    api.post(f"/collections/{empty}/items?index=false", json={"items": texts}).raise_for_status()
    for item in api.get(f"/collections/{empty}/items").json()["items"]:
        columns = {"Photographer": "Ann" if "Ann" in item["text"] else "Bo"}
        api.patch(f"/items/{item['id']}", json={"columns": columns}).raise_for_status()
    page = visit()
    page.goto(f"/search?collection={empty}")
    page.get_by_label("Query text").fill("a bird")
    page.get_by_text("Advanced").click()
    page.get_by_text("Choose by time, camera").press("Enter")
    column = page.get_by_role("region", name="Photographer")
    expect(column.get_by_role("link")).to_have_count(2)
    column.get_by_role("link", name="Bo").press("Enter")
    expect(column.get_by_role("link")).to_have_count(1)
    expect(page.get_by_label("Filter", exact=True)).to_have_value("column.Photographer = Bo")
    expect(page.get_by_label("Query text")).to_have_value("a bird")
    # what comes from elsewhere, or back to this address, has the same filter
    assert page.url.endswith("&facets=1&filter=column.Photographer+%3D+Bo")
    page.reload()
    expect(page.get_by_label("Filter", exact=True)).to_have_value("column.Photographer = Bo")
    column.get_by_role("link", name="Bo").click()
    expect(column.get_by_role("link")).to_have_count(2)
    expect(page.get_by_label("Filter", exact=True)).to_have_value("")
    page.get_by_label("Collection", exact=True).select_option("all")
    expect(page.get_by_text("Choose by time, camera")).to_be_hidden()
