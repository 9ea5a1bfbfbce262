"""No page has a barrier that axe can find, in both colour modes, and none scrolls sideways on a phone (WCAG 2.2 AA)."""

from __future__ import annotations

from collections.abc import Iterator
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

pytestmark = IN_A_BROWSER

# a label points at the first element of its id, whatever that is
_IDS_TWICE = """() => {
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    return ids.filter((id, index) => ids.indexOf(id) !== index);
}"""
# one change from each to the next, since a change costs as much as a rule
LOOKS = [("light", 1280), ("light", 390), ("dark", 390), ("dark", 1280)]
# in dark mode the same elements are shown in other colours
RULES = {
    "light": {
        "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
        "resultTypes": ["violations"],
    },
    "dark": {
        "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
        "resultTypes": ["violations"],
    },
}


@pytest.fixture(scope="module")
def furnished(stack: LocalStack, api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Furnished:
    """A server that people have worked on."""
    return furnish(stack, api, tmp_path_factory.mktemp("furniture"))


@pytest.fixture(scope="module")
def paths(stack: LocalStack, furnished: Furnished) -> list[str]:
    """The address of every page, and of some views of them."""
    settings = Settings(home=stack.home, database_url=stack.database_url, redis_url=stack.redis_url)
    return addresses(create_app(settings), furnished.keys()) + furnished.views()


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe, which checks a page from within."""
    base = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    return str(base.AXE_SCRIPT)


def _faults(page: Page, colours: Any, width: int) -> Iterator[str]:
    """What is wrong with the open page in one of its looks."""
    page.emulate_media(color_scheme=colours, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 844})
    expect(page.locator("html")).to_have_attribute("data-bs-theme", colours)
    assert page.evaluate("innerWidth") == width
    for one in page.evaluate("async (options) => (await axe.run(options)).violations", RULES[colours]):
        yield f"{one['id']}: {[node['target'] for node in one['nodes']][:5]}"
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        yield f"{wide} pixels wide"


def test_no_page_has_a_barrier_or_scrolls_sideways(visit: Visits, paths: list[str], axe: str) -> None:
    page: Page = visit(reduced_motion="reduce")
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
        twice = page.evaluate(_IDS_TWICE)
        if twice:
            faults.append(f"{path}: {twice} name more than one element each")
        page.evaluate(axe)
        for colours, width in LOOKS:
            faults += [f"{path}, {colours}, {width} pixels: {fault}" for fault in _faults(page, colours, width)]
    assert not faults, "\n".join(faults)
    assert seen > 30
