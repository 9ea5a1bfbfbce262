"""The choice of several collections, and a result from several, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.in_browser import BROWSER_MARKS, page
from tests.unit.web.test_searches_of_several import filled, finished

from retllm.settings import Settings
from retllm_web.http.services import Services

pytestmark = BROWSER_MARKS
__all__ = ["page"]


@pytest.fixture
def two(ada: Caller, served: Services, settings: Settings) -> list[str]:
    """Two collections that can be searched."""
    return filled(ada, served, settings, Birds=["a robin", "a wren"], Boats=["a dinghy"])


def test_the_chosen_collections_are_in_the_address(page: Page, two: list[str]) -> None:
    page.goto(f"/search?collection={two[0]}")
    page.get_by_text("Search other collections too").click()
    page.get_by_label("Boats", exact=True).check()
    assert page.url.endswith(f"/search?collection={two[0]}&also={two[1]}")
    page.reload()
    expect(page.get_by_label("Boats", exact=True)).to_be_checked()
    page.get_by_label("Boats", exact=True).uncheck()
    assert page.url.endswith(f"/search?collection={two[0]}")
    page.locator("#collection").select_option("all")
    assert page.url.endswith("/search?collection=all")


def test_the_pages_are_accessible_and_fit_on_a_phone(page: Page, two: list[str], ada: Caller, served: Services) -> None:
    base = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
    job, other = finished(served, ada, two), finished(served, ada, two)
    addresses = (f"/search?collection={two[0]}&also={two[1]}", f"/jobs/{job}", f"/jobs/{job}?view=table", "/jobs")
    problems = []
    page.emulate_media(reduced_motion="reduce")
    for address in (*addresses, f"/compare?of={job}&of={other}"):
        page.goto(address)
        page.evaluate(str(base.AXE_SCRIPT))
        for colours in ("light", "dark"):
            for width in (390, 1440):
                page.emulate_media(color_scheme=colours, reduced_motion="reduce")
                page.set_viewport_size({"width": width, "height": 844})
                expect(page.locator("html")).to_have_attribute("data-bs-theme", colours)
                found = page.evaluate("async (options) => (await axe.run(options)).violations", rules)
                problems += [(address, colours, width, one["id"], one["nodes"][0]["target"]) for one in found]
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    problems.append((address, colours, width, "scrolls"))
    assert problems == []
