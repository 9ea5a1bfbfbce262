"""The pages in a real browser, against real servers and workers."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, Route, expect, sync_playwright

from retllm.cli.up import Admin
from retllm.demo.world import DemoQuery, write_collection
from retllm.stack import LocalStack

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
FAMILIES = 2
SEED = 4712
K = 8

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser; each visit has a profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page of a fresh profile, and all that its console complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)


Visits = Callable[..., Page]


@pytest.fixture
def visit(chromium: Browser, stack: LocalStack, session_of_admin: dict[str, Any]) -> Iterator[Visits]:
    """Opens pages, logged in unless told otherwise; at the end none of them may have complained."""
    visits: list[Visit] = []
    contexts: list[BrowserContext] = []

    def opened(*, logged_in: bool = True, **options: Any) -> Page:
        if logged_in:
            options["storage_state"] = session_of_admin
        context = chromium.new_context(base_url=stack.url, viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        made = Visit(context.new_page())
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on("console", lambda said: _note(made, said.type, said.text))
        visits.append(made)
        return made.page

    yield opened
    for context in contexts:
        context.close()
    # errors of scripts, and whatever the policy of the server refused
    assert [complaint for one in visits for complaint in one.complaints] == []


def _note(made: Visit, kind: str, text: str) -> None:
    # Chromium tells of every answer of 400 and more; tests that provoke one look at the page itself
    if kind in ("error", "warning") and "Failed to load resource" not in text:
        made.complaints.append(text)


def _log_in(page: Page, admin: Admin, password: str | None = None) -> None:
    page.goto("/login")
    page.get_by_label("Name").fill(admin.name)
    page.get_by_label("Password").fill(password or str(admin.password))
    page.get_by_role("button", name="Log in").click()


@pytest.fixture(scope="module")
def session_of_admin(chromium: Browser, stack: LocalStack, admin: Admin) -> Any:
    """The cookies of somebody who logged in."""
    context = chromium.new_context(base_url=stack.url)
    page = context.new_page()
    _log_in(page, admin)
    expect(page.get_by_role("heading", name="Collections", exact=True)).to_be_visible()
    state = context.storage_state()
    context.close()
    return state


@dataclass(frozen=True)
class Scenes:
    """A collection of generated scenes that is indexed."""

    id: str
    queries: list[DemoQuery]
    folder: Path

    @property
    def path(self) -> str:
        return f"/collections/{self.id}"


@pytest.fixture(scope="module")
def scenes(stack: LocalStack, api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Sixteen pictures, uploaded and indexed through the API."""
    folder = tmp_path_factory.mktemp("scenes")
    queries = write_collection(folder, FAMILIES, SEED)
    key = api.post("/collections", json={"name": "Scenes of the pages"}).raise_for_status().json()["id"]
    files = [("file", (one.file, (folder / one.file).read_bytes())) for one in queries]
    api.post(f"/collections/{key}/items", files=files).raise_for_status()
    return Scenes(str(key), queries, folder)


@pytest.fixture
def indexed(scenes: Scenes, visit: Visits) -> Page:
    """The page of the scenes once they are indexed."""
    page = visit()
    page.goto(scenes.path)
    expect(page.locator("#index-state")).to_contain_text("All 16 items are indexed")
    return page


@contextmanager
def paused(stack: LocalStack, name: str) -> Iterator[None]:
    """While a worker takes nothing on, whatever waits for it can be looked at."""
    stack.kill(name, signal.SIGSTOP)
    try:
        yield
    finally:
        stack.kill(name, signal.SIGCONT)


def _search(page: Page, text: str, k: int = K) -> str:
    """Search from the open page; the id of the job."""
    page.get_by_label("What do you look for?").fill(text)
    page.get_by_label("Candidates (k)").fill(str(k))
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    return page.url.rpartition("/")[2]


def _keys(page: Page) -> list[str]:
    """The items of the result in the order that is shown."""
    found: list[str] = page.locator("li.result").evaluate_all("all => all.map(one => one.dataset.key)")
    return found


def _ranking(api: httpx.Client, job: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/searches/{job}").raise_for_status().json()
    return found


# in and out


def test_a_wrong_password_is_told_and_the_right_one_lets_in_and_out(visit: Visits, admin: Admin) -> None:
    page = visit(logged_in=False)
    page.goto("/jobs")
    _log_in(page, admin, "certainly wrong")
    expect(page.get_by_role("alert")).to_contain_text("do not fit")
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


# collections and uploads


def test_files_are_uploaded_with_their_outcomes_and_can_be_searched_at_once(
    visit: Visits, scenes: Scenes, tmp_path: Path
) -> None:
    """From nothing to the search form without loading the page again."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    first, second = scenes.queries[:2]
    (tmp_path / "captions.csv").write_text(f'file,caption\n{first.file},"{first.query}"\n', encoding="utf-8")
    page = visit()
    page.goto("/")
    page.get_by_label("Name").fill("Made by hand")
    page.get_by_role("button", name="Make collection").click()
    expect(page.locator(".area-search")).to_contain_text("Upload something first")
    page.evaluate("window.sameDocument = true")
    chosen = [scenes.folder / first.file, scenes.folder / second.file, *sorted(tmp_path.iterdir())]
    page.get_by_label("Files").set_input_files(chosen)
    page.get_by_role("button", name="Upload").click()
    outcomes = page.locator("[data-outcomes] tr")
    expect(outcomes).to_have_count(4)
    expect(page.locator("[data-said]")).to_have_text("2 added, 1 updated, 1 rejected.")
    # what needs a person comes first
    expect(outcomes.first).to_contain_text("broken.png")
    expect(outcomes.first).to_contain_text("holds no such picture")
    expect(page.locator(".tile")).to_have_count(2)
    expect(page.locator("#index-state")).to_contain_text("All 2 items are indexed")
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_visible()
    expect(page.get_by_text("not indexed yet")).to_have_count(0)
    assert page.evaluate("window.sameDocument")
    loaded = page.locator(".tile img").evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)")
    assert loaded == [True, True]


def test_dropped_files_are_sent_in_parts_and_a_part_that_is_lost_is_told(visit: Visits, api: httpx.Client) -> None:
    key = api.post("/collections", json={"name": "Dropped"}).raise_for_status().json()["id"]
    page = visit()
    page.goto(f"/collections/{key}")
    sent: list[Request] = []

    def answer(route: Route) -> None:
        sent.append(route.request)
        # the first of the two parts does not arrive
        route.abort() if len(sent) == 1 else route.continue_()

    page.route("**/upload", answer)
    files = page.evaluate_handle(
        """() => {
            const held = new DataTransfer();
            for (let n = 0; n < 25; n += 1) held.items.add(new File([`text number ${n}`], `note ${n}.txt`));
            return held;
        }"""
    )
    page.locator("[data-drop]").dispatch_event("drop", {"dataTransfer": files})
    expect(page.locator("[data-said]")).to_have_text("5 added, 20 rejected.")
    assert len(sent) == 2
    expect(page.locator("[data-outcomes] tr").first).to_contain_text("connection was lost")
    expect(page.locator(".tile")).to_have_count(5)


def test_items_are_filtered_and_shown_large(indexed: Page, scenes: Scenes) -> None:
    name = scenes.queries[3].file
    indexed.get_by_label("Name has").fill(name)
    indexed.get_by_role("button", name="Filter").click()
    expect(indexed.locator(".tile")).to_have_count(1)
    indexed.locator(".tile a").click()
    expect(indexed.get_by_role("heading", level=1)).to_have_text(name)
    expect(indexed.locator("dl")).to_contain_text("256 × 256 pixels")


def test_a_collection_goes_only_when_its_name_is_typed(visit: Visits, api: httpx.Client) -> None:
    key = api.post("/collections", json={"name": "Short-lived"}).raise_for_status().json()["id"]
    page = visit()
    page.goto(f"/collections/{key}")
    page.get_by_role("heading", name="Rename or delete").click()
    page.get_by_label("To confirm, type the name").fill("something else")
    page.get_by_role("button", name="Delete the collection").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was deleted")
    page.get_by_role("heading", name="Rename or delete").click()
    page.get_by_label("To confirm, type the name").fill("Short-lived")
    page.get_by_role("button", name="Delete the collection").click()
    expect(page.get_by_role("status").first).to_contain_text("is deleted")
    assert api.get(f"/collections/{key}").status_code == 404


# searches


def test_candidates_appear_at_once_and_settle_in_the_order_that_the_api_tells(
    indexed: Page, scenes: Scenes, stack: LocalStack, api: httpx.Client
) -> None:
    page = indexed
    with paused(stack, "score"):
        job = _search(page, scenes.queries[5].query)
        expect(page.locator("[data-order=provisional]")).to_be_visible()
        expect(page.locator("li.result")).to_have_count(K)
        coarse = [one["item_id"] for one in sorted(_ranking(api, job)["candidates"], key=lambda c: c["coarse_rank"])]
        assert _keys(page) == coarse
        expect(page.locator(".change")).to_have_count(0)
        page.evaluate("window.sameDocument = true")
        kept = page.locator("li.result").first.element_handle()
    expect(page.locator("[data-order=final]")).to_be_visible()
    result = _ranking(api, job)
    assert not result["provisional"]
    final = [one["item_id"] for one in result["candidates"]]
    assert _keys(page) == final
    assert page.locator(".rank").evaluate_all("all => all.map(one => one.lastChild.data)") == [
        str(rank) for rank in range(1, K + 1)
    ]
    # the same elements, moved: nothing was loaded again
    assert page.evaluate("window.sameDocument")
    assert kept.evaluate("one => one.isConnected && one.dataset.key") == coarse[0]
    for one in result["candidates"]:
        row = page.locator(f'li.result[data-key="{one["item_id"]}"]')
        rise = one["coarse_rank"] - one["final_rank"]
        sign = "▲" if rise > 0 else "▼" if rise < 0 else "="
        expect(row.locator(".change")).to_contain_text(sign)
        expect(row.locator(".measures")).to_contain_text(f"{one['score']:.4f}")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_a_search_by_picture_finds_that_picture_and_explains_itself(
    indexed: Page, scenes: Scenes, api: httpx.Client
) -> None:
    page = indexed
    wanted = scenes.queries[2].file
    page.get_by_label("Picture (alone, or with the words)").set_input_files(scenes.folder / wanted)
    job = _search(page, "")
    expect(page.locator("[data-order=final]")).to_be_visible()
    expect(page.get_by_alt_text("The picture that was searched with")).to_be_visible()
    best = min(_ranking(api, job)["candidates"], key=lambda one: one["coarse_rank"])
    assert best["name"] == wanted
    page.get_by_role("heading", name="What explains this result").click()
    for fact in (_ranking(api, job)["embedder_revision"], _ranking(api, job)["scorer_version"]):
        expect(page.locator("[data-part=why]")).to_contain_text(fact)
    # again, with the same picture and fewer candidates
    page.get_by_role("heading", name="Search again").click()
    expect(page.get_by_label("Use the same picture again")).to_be_checked()
    again = _search(page, "", k=3)
    assert again != job
    expect(page.locator("li.result")).to_have_count(3)
    assert _ranking(api, again)["has_picture"]


def test_a_search_is_cancelled_and_taken_up_again(
    indexed: Page, scenes: Scenes, stack: LocalStack, api: httpx.Client
) -> None:
    page = indexed
    with paused(stack, "score"):
        job = _search(page, scenes.queries[7].query)
        expect(page.locator("[data-order=provisional]")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".standing")).to_contain_text(re.compile("cancelled|stopping"))
    expect(page.locator("#job")).to_have_attribute("data-over", "true")
    expect(page.locator(".standing")).to_contain_text("cancelled")
    assert api.get(f"/jobs/{job}").json()["state"] == "cancelled"
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("[data-order=final]")).to_be_visible()
    assert api.get(f"/jobs/{job}").json()["state"] == "succeeded"


def test_a_lost_connection_is_told_and_found_again(indexed: Page, scenes: Scenes, stack: LocalStack) -> None:
    page = indexed
    with paused(stack, "score"):
        _search(page, scenes.queries[9].query)
        expect(page.locator("li.result")).to_have_count(K)
        page.route("**/live", lambda route: route.abort())
        expect(page.locator("#job [data-lost]")).to_contain_text("Connection lost")
        page.unroute("**/live")
        expect(page.locator("#job [data-lost]")).to_be_hidden()
    expect(page.locator("[data-order=final]")).to_be_visible()


def test_what_did_not_change_keeps_the_focus_while_the_page_is_live(
    indexed: Page, scenes: Scenes, stack: LocalStack
) -> None:
    page = indexed
    with paused(stack, "score"):
        _search(page, scenes.queries[10].query)
        expect(page.locator("li.result")).to_have_count(K)
        page.get_by_role("button", name="Cancel").focus()
        for _ in range(3):
            with page.expect_response("**/live"):
                pass
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()


def test_a_hidden_tab_asks_for_nothing_and_is_current_when_it_is_seen_again(
    indexed: Page, scenes: Scenes, stack: LocalStack
) -> None:
    page = indexed
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/live") else None)
    with paused(stack, "score"):
        _search(page, scenes.queries[11].query)
        expect(page.locator("li.result")).to_have_count(K)
        _hide(page, True)
        before = len(asked)
        for _ in range(5):
            page.clock.run_for(5_000)
            # by then an answer would be here, and the next request planned
            page.evaluate("fetch('/healthz').then((answer) => answer.text())")
        assert len(asked) <= before + 1  # one may have been under way
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


def test_enter_searches_once_however_often_it_is_pressed(indexed: Page, scenes: Scenes, api: httpx.Client) -> None:
    page = indexed
    text = "only one of these"
    page.get_by_label("What do you look for?").fill(text)
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


def test_a_field_that_is_wrong_is_told_beside_it(indexed: Page) -> None:
    page = indexed
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#text-problem")).to_contain_text("query is empty")
    expect(page.get_by_label("What do you look for?")).to_have_attribute("aria-invalid", "true")


# for everybody


def test_without_scripts_all_of_it_works(
    visit: Visits, admin: Admin, api: httpx.Client, scenes: Scenes, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page = visit(logged_in=False, java_script_enabled=False)
    _log_in(page, admin)
    page.get_by_label("Name").fill("Without scripts")
    page.get_by_role("button", name="Make collection").click()
    names = [one.file for one in scenes.queries[:3]]
    page.get_by_label("Files").set_input_files([*(scenes.folder / name for name in names), tmp_path / "broken.png"])
    page.get_by_role("button", name="Upload").click()
    outcomes = page.locator("[data-outcomes] tr")
    expect(outcomes).to_have_count(4)
    expect(outcomes.first).to_contain_text("broken.png")
    key = re.search(r"/collections/([0-9a-f-]{36})", page.url)
    assert key is not None
    _wait_for_index(page, key[1])
    _search(page, scenes.queries[0].query, k=3)
    # the page comes again by itself until the job is over
    expect(page.locator("[data-order=final]")).to_be_visible()
    assert _keys(page) == [one["item_id"] for one in _ranking(api, page.url.rpartition("/")[2])["candidates"]]


def _wait_for_index(page: Page, key: str) -> None:
    """Look again, as a person would, until the search form is open."""
    form: Locator = page.get_by_role("button", name="Search", exact=True)
    for _ in range(60):
        page.goto(f"/collections/{key}")
        if form.count() and "All 3 items are indexed" in page.locator("#index-state").inner_text():
            return
        # one second of the browser's own clock
        page.wait_for_timeout(1000)
    raise AssertionError("the collection was not indexed in a minute")


def test_the_keyboard_reaches_the_content_first(visit: Visits, scenes: Scenes) -> None:
    page = visit()
    page.goto(scenes.path)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_no_page_has_a_barrier_or_scrolls_sideways(
    indexed: Page, scenes: Scenes, api: httpx.Client, width: int, colours: Any
) -> None:
    """WCAG 2.2 AA as far as axe can tell."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    page = indexed
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=colours, reduced_motion="reduce")
    item = api.get(f"{scenes.path}/items").json()["items"][0]["id"]
    _search(page, scenes.queries[1].query)
    expect(page.locator("[data-order=final]")).to_be_visible()
    for path in (None, "/", scenes.path, f"/items/{item}", "/jobs", "/account", "/nothing-here"):
        if path is not None:
            page.goto(path)
        # what is folded away is looked at too
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        expect(page.locator("html")).to_have_attribute("data-bs-theme", colours)
        found = axe.Axe().run(page, options=rules).response["violations"]
        assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
