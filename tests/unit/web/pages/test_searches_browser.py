"""The search form with its script, in a real browser."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect
from tests.functional.upload_page import drop_paths
from tests.unit.media.samples import zipped
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


DROPS = {
    "a folder": (["Nachlass Größl"], {"Nachlass Größl/a.jpg": picture("red")}),
    "two pictures": (["a.jpg", "b.jpg"], {"a.jpg": picture("red"), "b.jpg": picture("blue")}),
    "an archive": (["all.zip"], {"all.zip": zipped({"a.jpg": picture("red")})}),
    "a sheet": (["list.csv"], {"list.csv": b"file,caption\na.jpg,a wren\n"}),
}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("what", DROPS)
def test_what_is_dropped_on_the_search_form_and_is_no_single_picture_is_uploaded(
    page: Page, indexed: str, ada: Caller, tmp_path: Path, what: str
) -> None:
    dropped, files = DROPS[what]
    _write(tmp_path, files)
    page.goto(f"/collections/{indexed}")
    drop_paths(page, *(tmp_path / name for name in dropped), on="form[data-search] [data-picture]")
    said = f"{len(files)} file{'s' if len(files) > 1 else ''} arrived."
    expect(page.locator("form[data-upload] [data-said]")).to_have_text(said)
    expect(page.locator("[data-picture-said]")).to_contain_text("What you dropped is uploaded.")
    expect(page.locator(".over")).to_have_count(0)
    assert _selected_files(page) == []
    job = ada.get(f"/jobs?collection={indexed}&kind=upload").json["jobs"][0]
    listed = ada.get(f"/uploads/{job['id']}/files").json["files"]
    assert {file["name"] for file in listed if not file["within"]} == set(files)


@pytest.mark.parametrize("name", ["red.PNG", "scan.TIF", "photo.cr2"])
def test_a_single_picture_that_is_dropped_on_the_search_form_is_the_query(
    page: Page, indexed: str, tmp_path: Path, name: str
) -> None:
    _write(tmp_path, {name: picture("red")})
    page.goto(f"/collections/{indexed}")
    page.locator("form[data-search] [data-picture]").scroll_into_view_if_needed()
    drop_paths(page, tmp_path / name, on="form[data-search] [data-picture]")
    expect(_chosen_picture(page)).to_contain_text(name)
    assert _selected_files(page) == [name]
    expect(page.locator("form[data-upload] [data-said]")).to_have_text("")


@pytest.mark.parametrize("what", ["a folder", "two pictures"])
def test_where_nothing_can_be_uploaded_a_drop_of_no_single_picture_is_refused(
    page: Page, indexed: str, tmp_path: Path, what: str
) -> None:
    dropped, files = DROPS[what]
    _write(tmp_path, files)
    page.goto("/search")
    drop_paths(page, *(tmp_path / name for name in dropped), on="form[data-search] [data-picture]")
    refusal = "Drop a single picture." if len(dropped) > 1 else f"{dropped[0]} is not a picture"
    expect(page.locator("[data-picture-said]")).to_contain_text(refusal)
    assert _selected_files(page) == []


def test_a_picture_that_was_moved_after_it_was_chosen_is_named(page: Page, indexed: str, tmp_path: Path) -> None:
    _write(tmp_path, {"red.png": picture("red")})
    page.goto(f"/collections/{indexed}")
    page.get_by_label("Query picture (alone").set_input_files(tmp_path / "red.png")
    (tmp_path / "red.png").unlink()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("[data-search-said]")).to_have_text(
        "The browser cannot read red.png. Choose the picture again."
    )


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
