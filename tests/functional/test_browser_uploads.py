"""Uploads that are interrupted and repeated, in a real browser with real servers and workers."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect
from tests.functional.browsing import BROWSER_MARKS, Visits, paused
from tests.functional.upload_page import PART, drop, drop_paths, jobs, names, numbered, pictures, send_in_parts

from retllm.stack import LocalStack

pytestmark = BROWSER_MARKS


@pytest.mark.parametrize("hashed", [True, False])
def test_a_lost_network_is_waited_for_and_every_file_arrives_once(
    page: Page, api: httpx.Client, empty: str, hashed: bool
) -> None:
    if not hashed:
        # as on a page that does not come over HTTPS
        page.evaluate("Object.defineProperty(crypto, 'subtle', { value: undefined })")
    sent: list[Request] = []

    def answer(route: Route) -> None:
        sent.append(route.request)
        if len(sent) == 1:
            # it arrives, but its answer does not
            route.fetch()
            route.abort()
        elif len(sent) == 2:
            page.context.set_offline(True)
            route.abort()
        else:
            route.continue_()

    page.route("**/uploads/*/files", answer)
    # the network is away only from the second request on
    with page.expect_event("requestfailed", lambda request: len(sent) == 2 and request.url == sent[1].url):
        drop(page, 0, 45)
    said = page.locator("[data-said]")
    expect(said).to_have_text(re.compile(r"^Connection lost\. Retrying in \d+ s\.$"))
    expect(page.get_by_role("button", name="Retry now")).to_be_visible()
    # more files join the same upload
    drop(page, 45, 50)
    expect(page.locator("[data-sent]")).to_contain_text("of 50 files")
    page.context.set_offline(False)
    expect(said).to_have_text("50 files arrived.")
    expect(page.locator("[data-summary]")).to_have_text("50 added.")
    expect(page.locator("[data-unsent]")).to_be_hidden()
    assert names(api, empty) == numbered(0, 50)
    assert [job["kind"] for job in jobs(api, empty)] == ["upload"]
    # the 20 files of the first request were not sent again
    assert len(sent) == 4
    expect(page.locator(".tile").first).to_be_visible()


@pytest.mark.parametrize("hashed", [True, False])
def test_a_large_file_goes_on_from_the_last_part_after_a_lost_network(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path, hashed: bool
) -> None:
    if not hashed:
        page.evaluate("Object.defineProperty(crypto, 'subtle', { value: undefined })")
    file = tmp_path / "größe.png"
    Image.effect_noise((1100, 1000), 90).save(file)
    content = file.read_bytes()
    assert 3 * PART < len(content) < 5 * PART
    small = tmp_path / "small.txt"
    small.write_text("a robin")
    offsets: list[int] = []

    def answer(route: Route) -> None:
        if route.request.method != "PATCH":
            route.continue_()
            return
        offsets.append(int(route.request.headers["upload-offset"]))
        if len(offsets) == 2:
            # the part arrives, but its answer does not
            route.fetch()
            route.abort()
        elif len(offsets) == 3:
            page.context.set_offline(True)
            route.abort()
        else:
            route.continue_()

    page.route("**/uploads/*/tus/*", answer)
    send_in_parts(page)
    page.get_by_label("Files").set_input_files([file, small])
    with page.expect_event("requestfailed", lambda request: request.method == "PATCH" and len(offsets) == 3):
        page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-said]")).to_have_text(re.compile(r"^Connection lost\. Retrying in \d+ s\.$"))
    page.context.set_offline(False)
    expect(page.locator("[data-said]")).to_have_text("2 files arrived.")
    expect(page.locator("[data-summary]")).to_have_text("2 added.")
    parts = range(0, len(content), PART)
    assert offsets == sorted([*parts, 2 * PART])
    items = api.get(f"/collections/{empty}/items").raise_for_status().json()["items"]
    (item,) = (item for item in items if item["name"] == file.name)
    original = api.get(f"/items/{item['id']}/picture").raise_for_status().content
    assert hashlib.sha256(original).digest() == hashlib.sha256(content).digest()


def test_try_now_goes_on_at_once(page: Page, api: httpx.Client, empty: str) -> None:
    cut = True
    page.route("**/uploads/*/files", lambda route: route.fulfill(status=503) if cut else route.continue_())
    drop(page, 0, 1)
    # the pauses grow
    expect(page.locator("[data-said]")).to_have_text("The server is not available. Retrying in 4 s.")
    cut = False
    now = page.get_by_role("button", name="Retry now")
    now.focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
    # the focus was in the part that is hidden now
    expect(page.get_by_role("heading", name="Your last upload")).to_be_focused()
    expect(page.locator("[data-summary]")).to_have_text("1 added.")
    assert names(api, empty) == numbered(0, 1)


def test_a_corrected_sheet_that_is_dropped_meanwhile_is_sent_in_an_upload_of_its_own(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path, stack: LocalStack
) -> None:
    files = pictures(tmp_path / "all", [f"{n}.png" for n in range(22)])
    sheet = tmp_path / "all" / "captions.csv"
    sheet.write_text("file,caption\n0.png,a wrogn word\n1.png,another picture\n99.png,no picture\n")
    held: list[Route] = []

    def answer(route: Route) -> None:
        # the third request has the last pictures
        held.append(route)
        if len(held) != 3:
            route.continue_()

    page.route("**/uploads/*/files", answer)
    with paused(stack, "media"):
        page.get_by_label("Files").set_input_files([*files, sheet])
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.locator("[data-sent]")).to_contain_text("21 of 23 files")
        sheet.write_text("file,caption\n0.png,a right word\n")
        drop_paths(page, sheet)
        said = page.locator("[data-said]")
        expect(said).to_have_text("Sending 23 files… 1 file that may correct captions follows in an upload of its own.")
        held[2].continue_()
        # all pictures are there, and none is processed
        expect(said).to_have_text("1 file arrived. Captions are applied when your upload before this one is processed.")
    expect(said).to_have_text("1 file arrived.")
    expect(page.locator("#outcomes [data-summary]")).to_have_text("1 updated.")
    before = page.locator("#outcomes [data-before]")
    expect(before).to_have_text(re.compile(r"^ *Upload of “0\.png”, .+: 1 row rejected\.$"))
    second, first = jobs(api, empty)
    counts = [api.get(f"/uploads/{job['id']}").raise_for_status().json()["counts"] for job in (first, second)]
    assert counts == [{"added": 22, "read": 1, "updated": 2, "rejected": 1}, {"read": 1, "updated": 1}]
    items = api.get(f"/collections/{empty}/items?limit=200").raise_for_status().json()["items"]
    texts = {item["name"].rpartition("/")[2]: item["text"] for item in items if item["text"]}
    assert texts == {"0.png": "a right word", "1.png": "another picture"}
    before.get_by_role("link").click()
    expect(page.locator("tr[data-status=rejected]")).to_contain_text("99.png")


def test_files_can_be_dropped_anywhere_on_the_page(page: Page, api: httpx.Client, empty: str, tmp_path: Path) -> None:
    """Except for a picture to search by, and a picture of the page itself."""
    first, second, third = pictures(tmp_path, ["1.png", "2.png", "3.png"])
    drop_paths(page, first, on="h1")
    expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
    expect(page.locator(".over")).to_have_count(0)
    expect(page.locator(".tile")).to_have_count(1)
    drop_paths(page, second, on="form[data-search] [data-picture]")
    expect(page.locator("[data-chosen]")).to_contain_text("2.png")
    page.locator(".tile img").first.dispatch_event("dragstart")
    drop(page, 0, 1)
    page.locator(".tile img").first.dispatch_event("dragend")
    drop_paths(page, third, on="#items-title")
    expect(page.locator(".tile")).to_have_count(2)
    assert len(jobs(api, empty)) == 2
    assert names(api, empty) == Counter(["1.png", "3.png"])


def test_names_are_the_same_whether_sent_or_known(page: Page, api: httpx.Client, empty: str, tmp_path: Path) -> None:
    given = ['5" disk.png', "5%22 disk.png", "50%.png", "a #1.png", "a%0Ab.png", "back\\slash.png"]
    files = pictures(tmp_path, given)
    shown = {name.replace("\\", "/") for name in given}
    for status in ("added", "duplicate"):
        page.reload()
        page.get_by_label("Files").set_input_files(files)
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.locator("[data-said]")).to_have_text("6 files arrived.")
        expect(page.locator("[data-summary]")).to_have_text(f"6 {status}.")
        job = jobs(api, empty)[0]["id"]
        rows = api.get(f"/uploads/{job}/files").raise_for_status().json()["files"]
        assert {row["name"] for row in rows} == shown
        # also when indexing is over
        expect(page.locator("#outcomes")).to_contain_text(f"6 {status}. Processed. All outcomes")
    assert set(names(api, empty)) == shown


def test_the_state_of_the_last_upload_follows_its_job_to_the_end(page: Page, stack: LocalStack) -> None:
    with paused(stack, "embed"):
        drop(page, 0, 1)
        expect(page.locator("#outcomes")).to_contain_text("Processed; new items are being indexed.")
        expect(page.locator(".tile")).to_have_count(1)
    expect(page.locator("#outcomes")).to_contain_text("1 added. Processed. All outcomes")


def test_pictures_that_arrived_before_are_not_sent_again(
    visit: Visits, scenes: Any, api: httpx.Client, empty: str, stack: LocalStack
) -> None:
    page = visit()
    page.goto(f"/collections/{empty}")
    first, second = (scenes.folder / query.file for query in scenes.queries[:2])
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/files") else None)
    with paused(stack, "media"):
        page.get_by_label("Files").set_input_files([first])
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
        expect(page.locator("[data-summary]")).to_have_text("1 waiting.")
        page.reload()
        expect(page.locator("[data-summary]")).to_have_text("1 waiting.")
        page.get_by_label("Files").set_input_files([first])
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
    expect(page.locator("[data-summary]")).to_have_text(re.compile(r"^1 (added|duplicate)\.$"))
    expect(page.locator("#index-state")).to_contain_text("The one item is indexed")
    page.get_by_label("Files").set_input_files([first, second])
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-summary]")).to_have_text("1 added, 1 duplicate.")
    assert len(sent) == 2
    assert names(api, empty) == Counter([first.name, second.name])


def test_a_file_that_cannot_be_read_any_more_is_rejected_by_name(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    for name in ("stays.txt", "goes.txt"):
        (tmp_path / name).write_text(f"the text of {name}")
    page.get_by_label("Files").set_input_files(sorted(tmp_path.iterdir()))
    (tmp_path / "goes.txt").unlink()
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-said]")).to_have_text("1 of 2 files arrived. 1 file could not be read.")
    expect(page.locator("[data-summary]")).to_have_text("1 added, 1 rejected.")
    expect(page.locator("tr[data-status=rejected]")).to_contain_text("The browser cannot read this file.")


def test_a_link_to_nothing_that_is_dropped_is_rejected_by_name(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    """Of links inside a folder that is dropped Chromium says nothing."""
    (tmp_path / "gone.png").symlink_to("nowhere")
    (stays,) = pictures(tmp_path / "folder", ["stays.png"])
    drop_paths(page, tmp_path / "gone.png", stays.parent)
    expect(page.locator("[data-said]")).to_have_text("1 of 2 files arrived. 1 file could not be read.")
    expect(page.locator("[data-summary]")).to_have_text("1 added, 1 rejected.")
    expect(page.locator("tr[data-status=rejected]")).to_contain_text("if it is a link, what it leads to")
    assert names(api, empty) == Counter(["folder/stays.png"])
