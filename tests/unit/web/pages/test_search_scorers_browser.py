"""The choice of a scorer with the script of the search form, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect
from tests.unit.web.pages.in_browser import BROWSER_MARKS, page

from retllm.settings import Settings
from retllm_web.http.services import Services

from .search_requests import newest_search

pytestmark = BROWSER_MARKS
__all__ = ["page"]

RANKER = "rerank:Qwen/Qwen3-VL-Reranker-8B"
BESIDE_A_LEGEND = """[...document.querySelectorAll('legend')].filter(legend =>
    [...legend.parentElement.children].some(other => other !== legend && other.getClientRects().length
        && other.getBoundingClientRect().top < legend.getBoundingClientRect().bottom)
    ).map(legend => legend.textContent)"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The main scorer is a model in a worker, asked in the mode choice."""
    extras = ["rerank+http://gpu:2#Qwen/Qwen3-VL-Reranker-8B", "/models/other"]
    given = settings.model_dump(exclude_unset=True)
    return Settings.model_validate(given | {"mode": "choice", "extra_scorers": extras})


def test_the_fields_follow_the_scorer_and_keep_what_was_chosen(page: Page, indexed: str, served: Services) -> None:
    page.goto(f"/search?collection={indexed}")
    page.locator("summary", has_text="Advanced").click()
    mode, trigger, note = (
        page.get_by_label("Mode"),
        page.get_by_label("Re-injection", exact=True),
        page.locator("p[data-on-server]"),
    )
    expect(mode).to_have_value("choice")
    expect(note).to_be_hidden()
    # the legends stand above their fields, also where the first of what follows is hidden
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 900})
        trigger.select_option("off")
        assert page.evaluate(BESIDE_A_LEGEND) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        trigger.select_option("entropy")
    page.get_by_label("Scorer").select_option(RANKER)
    expect(mode).to_have_value("true_false")
    expect(trigger).to_have_value("off")
    expect(note).to_be_visible()
    expect(page.locator("#mode-hint")).to_contain_text("Default: true or false")
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("Scorer").select_option("other")
    expect(mode).to_have_value("choice")
    expect(trigger).to_have_value("entropy")
    expect(note).to_be_hidden()
    mode.select_option("verbalized")
    trigger.select_option("off")
    page.get_by_label("Scorer").select_option(RANKER)
    expect(mode).to_have_value("verbalized")
    page.get_by_role("button", name="Reset to defaults").click()
    expect(page.get_by_label("Scorer")).to_have_value(served.settings.scorer_names[0])
    expect(mode).to_have_value("choice")
    expect(trigger).to_have_value("entropy")


def test_the_scorer_of_the_short_form_goes_along_to_all_options_and_with_the_search(
    page: Page, indexed: str, served: Services
) -> None:
    page.goto(f"/collections/{indexed}")
    page.get_by_label("Query text").fill("a bird")
    page.get_by_label("Scorer").select_option(RANKER)
    page.get_by_role("link", name="All options").click()
    expect(page.get_by_label("Scorer")).to_have_value(RANKER)
    expect(page.get_by_label("Mode")).to_have_value("true_false")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page).to_have_url(re.compile("/jobs/"))
    assert (newest_search(served).scorer, newest_search(served).mode) == (RANKER, "true_false")
