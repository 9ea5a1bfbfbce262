"""No page violates a rule of axe in either colour mode, or scrolls horizontally on a phone (WCAG 2.2 AA)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Error, Page, expect
from tests.functional.browsing import BROWSER_MARKS, Visits
from tests.functional.pages import addresses
from tests.functional.sample_data import SampleData, create_sample_data
from tests.functional.sample_forms import sample_forms
from tests.soak import scaled

from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm_web.app import create_app

pytestmark = BROWSER_MARKS

# a label refers to the first element with its ID, so IDs must be unique
_DUPLICATE_IDS = """() => {
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    return ids.filter((id, index) => ids.indexOf(id) !== index);
}"""
# the rules about colours take most of the time
_COLOURS = ("color-contrast", "link-in-text-block")
_ALL = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
# in dark mode only the colours of the elements differ
_DARK = {"runOnly": {"type": "rule", "values": _COLOURS}, "resultTypes": ["violations"]}
_PHONE = _ALL | {"rules": {name: {"enabled": False} for name in _COLOURS}}
PHONE, SCREEN = 390, 1280
Look = tuple[str, int, dict[str, Any]]
# the colours of the phone are checked on one page, and on every page with `make soak`
ONE_PAGE: list[Look] = [
    ("light", PHONE, _ALL),
    ("light", SCREEN, _ALL),
    ("dark", SCREEN, _DARK),
    ("dark", PHONE, _DARK),
]
LOOKS: list[Look] = scaled([("light", PHONE, _PHONE), ("light", SCREEN, _ALL), ("dark", SCREEN, _DARK)], ONE_PAGE)


@pytest.fixture(scope="module")
def sample_data(stack: LocalStack, api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> SampleData:
    """A server with sample data."""
    return create_sample_data(stack, api, tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def paths(stack: LocalStack, sample_data: SampleData) -> list[str]:
    """The path of every page, and of some views of them."""
    settings = Settings(home=stack.home, database_url=stack.database_url, redis_url=stack.redis_url)
    return addresses(create_app(settings), sample_data.keys()) + sample_data.views()


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe, which checks a page inside the browser."""
    base = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    return str(base.AXE_SCRIPT)


def _problems(page: Page, colours: Any, width: int, rules: dict[str, Any]) -> Iterator[str]:
    """Find the problems of the open page in one of its looks."""
    page.emulate_media(color_scheme=colours, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 844})
    expect(page.locator("html")).to_have_attribute("data-bs-theme", colours)
    assert page.evaluate("innerWidth") == width
    for one in page.evaluate("async (options) => (await axe.run(options)).violations", rules):
        yield f"{one['id']}: {[node['target'] for node in one['nodes']][:5]}"
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        yield f"{wide} pixels wide"


def _open(page: Page, path: str) -> bool:
    """Open a path; return whether it is a page, rather than a fragment or a download."""
    try:
        page.goto(path)
    except Error as error:
        if "Download is starting" not in error.message and "ERR_ABORTED" not in error.message:
            raise
        return False
    return bool(page.evaluate("document.doctype !== null"))


def _looked_at(page: Page, name: str, axe: str, looks: list[Look] = LOOKS) -> Iterator[str]:
    """Find the problems of the open page in all of its looks."""
    # check collapsed content too
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    duplicates = page.evaluate(_DUPLICATE_IDS)
    if duplicates:
        yield f"{name}: {duplicates} are IDs of several elements"
    page.evaluate(axe)
    for colours, width, rules in looks:
        yield from (f"{name}, {colours}, {width} pixels: {one}" for one in _problems(page, colours, width, rules))


@pytest.mark.timeout(1800)
def test_no_page_violates_an_axe_rule_or_scrolls_horizontally(visit: Visits, paths: list[str], axe: str) -> None:
    page: Page = visit(reduced_motion="reduce")
    problems = []
    seen = 0
    for path in paths:
        if _open(page, path):
            seen += 1
            problems += _looked_at(page, path, axe, ONE_PAGE if path == "/" else LOOKS)
    assert not problems, "\n".join(problems)
    assert seen > 30


def test_neither_does_the_answer_to_a_form(visit: Visits, sample_data: SampleData, axe: str) -> None:
    page: Page = visit(reduced_motion="reduce")
    problems = []
    for name, form in sample_forms(sample_data).items():
        form.send(page)
        problems += _looked_at(page, name, axe)
        if name == "undo":
            page.get_by_role("button", name="Undo").click()
            expect(page.locator(".alert-success")).to_contain_text("were restored")
            assert "filter=" in page.url
    assert not problems, "\n".join(problems)


def test_neither_does_the_log_in(visit: Visits, axe: str) -> None:
    page: Page = visit(logged_in=False, reduced_motion="reduce")
    page.goto("/jobs")
    assert not list(_looked_at(page, "the log-in", axe))
