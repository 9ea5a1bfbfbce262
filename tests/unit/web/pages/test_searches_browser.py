"""The search form with its script, in a real browser."""

from __future__ import annotations

import base64
from typing import Any

import sqlalchemy as sa
from playwright.sync_api import Page, expect
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.in_browser import BROWSER_MARKS, page
from tests.unit.web.pictures import picture

from retllm.db.searches import Search
from retllm_web.http.services import Services

pytestmark = BROWSER_MARKS
__all__ = ["page"]

# a file as the browser provides it on drop or paste
CREATE_DATA_TRANSFER = """([bytes, name, type]) => {
    const held = new DataTransfer();
    held.items.add(new File([Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0))], name, { type }));
    return held;
}"""


def _data_transfer(page: Page, content: bytes, name: str, media_type: str = "image/png") -> Any:
    return page.evaluate_handle(CREATE_DATA_TRANSFER, [base64.b64encode(content).decode(), name, media_type])


def _chosen_picture(page: Page) -> Any:
    return page.locator("[data-chosen]")


def _selected_files(page: Page) -> list[str]:
    found: list[str] = page.get_by_label("Query picture (alone").evaluate(
        "one => [...one.files].map((file) => file.name)"
    )
    return found


def _searches(served: Services) -> list[Search]:
    with served.sessions() as session:
        return list(session.scalars(sa.select(Search).order_by(Search.id)))


def test_a_picture_can_be_dropped_previewed_and_removed(page: Page, indexed: str) -> None:
    page.goto("/search")
    held = _data_transfer(page, picture("red"), "red.png")
    page.locator("form[data-search]").dispatch_event("drop", {"dataTransfer": held})
    expect(_chosen_picture(page)).to_contain_text("red.png")
    expect(page.get_by_alt_text("Selected picture")).to_be_visible()
    assert _selected_files(page) == ["red.png"]
    page.get_by_role("button", name="Remove picture").click()
    expect(_chosen_picture(page)).to_be_hidden()
    expect(page.locator("[data-picture-said]")).to_have_text("Picture removed.")
    assert _selected_files(page) == []


def test_a_dropped_file_that_is_not_a_picture_is_rejected_with_a_message(page: Page, indexed: str) -> None:
    page.goto("/search")
    held = _data_transfer(page, b"words", "notes.txt", "text/plain")
    page.locator("form[data-search]").dispatch_event("drop", {"dataTransfer": held})
    expect(page.locator("[data-picture-said]")).to_contain_text("notes.txt is not a picture")
    assert _selected_files(page) == []


def test_a_pasted_picture_is_used_unless_it_comes_with_text(page: Page, indexed: str) -> None:
    page.goto("/search")
    paste = """(held) => document.activeElement.dispatchEvent(
        new ClipboardEvent("paste", { clipboardData: held, bubbles: true, cancelable: true }))"""
    with_words = _data_transfer(page, picture("red"), "words.png")
    with_words.evaluate("(held) => held.items.add('some words', 'text/plain')")
    with_words.evaluate(paste)
    assert _selected_files(page) == []
    _data_transfer(page, picture("red"), "image.png").evaluate(paste)
    expect(_chosen_picture(page)).to_contain_text("image.png")
    assert _selected_files(page) == ["image.png"]


def test_a_rejected_form_keeps_its_picture_and_can_be_corrected(page: Page, indexed: str, served: Services) -> None:
    page.goto(f"/search?collection={indexed}")
    page.get_by_label("Query picture (alone").set_input_files(
        {"name": "red.png", "mimeType": "image/png", "buffer": picture("red")}
    )
    page.get_by_text("Advanced").click()
    page.get_by_label("Re-injection", exact=True).last.select_option("fixed")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#fixed_layer-problem")).to_be_visible()
    expect(page.get_by_label("Layer", exact=True)).to_be_focused()
    expect(_chosen_picture(page)).to_contain_text("red.png")
    assert "Choose it again" not in page.content()
    page.get_by_label("Layer", exact=True).fill("2")
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url("**/jobs/*")
    (search,) = _searches(served)
    assert search.query_picture_sha256 is not None
    assert search.injection["fixed_layer"] == 2


def test_a_picture_rejected_by_the_server_is_removed_from_the_form(page: Page, indexed: str) -> None:
    page.goto(f"/collections/{indexed}")
    page.get_by_label("Query picture (alone").set_input_files(
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.get_by_label("Query text").fill("a wren")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#picture-problem")).to_be_visible()
    expect(page.get_by_label("Query text")).to_have_value("a wren")
    assert _selected_files(page) == []


def test_an_invalid_field_in_a_collapsed_section_is_focused(page: Page, indexed: str) -> None:
    page.goto(f"/search?collection={indexed}&alpha=3&text=x")
    page.get_by_text("Advanced").click()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_label("Strength (alpha)")).to_be_focused()
    page.get_by_role("button", name="Reset to defaults").click()
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url("**/jobs/*")


def test_an_invalid_hidden_field_does_not_block_the_search(page: Page, indexed: str, served: Services) -> None:
    page.goto(f"/search?collection={indexed}&text=x&first=0")
    expect(page.get_by_label("First wave")).to_be_hidden()
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url("**/jobs/*")
    (search,) = _searches(served)
    assert search.adaptive is None


def test_the_query_text_and_the_collection_are_carried_over_to_all_options(page: Page, indexed: str) -> None:
    page.goto(f"/collections/{indexed}")
    page.get_by_label("Query text").fill("a wren & more")
    page.get_by_role("link", name="All options").click()
    expect(page.get_by_label("Query text")).to_have_value("a wren & more")
    expect(page.get_by_label("Collection")).to_have_value(indexed)


def test_the_selected_collection_is_in_the_url(page: Page, indexed: str, ada: Caller) -> None:
    other = ada.post("/collections", json={"name": "Other"}).json["id"]
    page.goto("/search")
    page.get_by_label("Collection").select_option(other)
    assert page.url.endswith(f"/search?collection={other}")
