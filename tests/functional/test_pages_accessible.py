"""No page has a barrier that axe can find, in both colour modes, and none scrolls sideways on a phone (WCAG 2.2 AA)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.functional.browsing import IN_A_BROWSER, Visits
from tests.functional.furnished import Furnished, furnish
from tests.functional.pages import addresses

from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm_web.app import create_app

pytestmark = [*IN_A_BROWSER, pytest.mark.timeout(900)]

# a label points at the first element of its id, whatever that is
_IDS_TWICE = """() => {
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    return ids.filter((id, index) => ids.indexOf(id) !== index);
}"""
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def furnished(stack: LocalStack, api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Furnished:
    """A server that people have worked on."""
    return furnish(stack, api, tmp_path_factory.mktemp("furniture"))


@pytest.fixture(scope="module")
def paths(stack: LocalStack, furnished: Furnished) -> list[str]:
    """The address of every page, and of some views of them."""
    settings = Settings(home=stack.home, database_url=stack.database_url, redis_url=stack.redis_url)
    return addresses(create_app(settings), furnished.keys()) + furnished.views()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_no_page_has_a_barrier_or_scrolls_sideways(visit: Visits, paths: list[str], width: int, colours: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page: Page = visit(viewport={"width": width, "height": 844}, color_scheme=colours, reduced_motion="reduce")
    faults = []
    seen = 0
    for path in paths:
        # pieces of pages and files to be saved are no pages of their own
        if not page.request.get(path).text().lstrip().startswith("<!doctype html>"):
            continue
        page.goto(path)
        seen += 1
        # what is folded away is looked at too
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        expect(page.locator("html")).to_have_attribute("data-bs-theme", colours)
        found = axe.Axe().run(page, options=RULES).response["violations"]
        faults += [f"{path}: {one['id']}: {[node['target'] for node in one['nodes']][:5]}" for one in found]
        twice = page.evaluate(_IDS_TWICE)
        if twice:
            faults.append(f"{path}: {twice} name more than one element each")
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            faults.append(f"{path}: {wide} pixels wide")
    assert not faults, "\n".join(faults)
    assert seen > 30
