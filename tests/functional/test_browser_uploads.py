"""Uploads that are interrupted, stopped and left behind, in a real browser with real servers and workers."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect
from tests.functional.browsing import BROWSER_MARKS, Visits, paused

from retllm.media.streams import LARGE
from retllm.stack import LocalStack

pytestmark = BROWSER_MARKS

_DROP = """([first, last]) => {
    const held = new DataTransfer();
    for (let n = first; n < last; n += 1) held.items.add(new File([`text number ${n}`], `note ${n}.txt`));
    return held;
}"""


@pytest.fixture
def empty(api: httpx.Client, request: pytest.FixtureRequest) -> str:
    """A new collection."""
    name = f"Of {request.node.name}"[:200]
    return str(api.post("/collections", json={"name": name}).raise_for_status().json()["id"])


@pytest.fixture
def page(visit: Visits, empty: str) -> Page:
    """The page of the new collection."""
    opened = visit()
    opened.goto(f"/collections/{empty}")
    return opened


def _drop(page: Page, first: int, last: int) -> None:
    """Drop the texts with these numbers, as one drop."""
    page.locator("[data-drop]").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(_DROP, [first, last])})


def _names(api: httpx.Client, collection: str) -> Counter[str]:
    items = api.get(f"/collections/{collection}/items?limit=200").raise_for_status().json()["items"]
    return Counter(item["name"] for item in items)


def _numbered(first: int, last: int) -> Counter[str]:
    return Counter(f"note {n}.txt" for n in range(first, last))


def _jobs(api: httpx.Client, collection: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/jobs?collection={collection}").raise_for_status().json()["jobs"]
    return found


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
        _drop(page, 0, 45)
    said = page.locator("[data-said]")
    expect(said).to_have_text(re.compile(r"^Connection lost\. Trying again in \d+ s\.$"))
    expect(page.get_by_role("button", name="Try now")).to_be_visible()
    # more files join the same upload
    _drop(page, 45, 50)
    expect(page.locator("[data-sent]")).to_contain_text("of 50 files")
    page.context.set_offline(False)
    expect(said).to_have_text("50 files arrived.")
    expect(page.locator("[data-summary]")).to_have_text("50 added.")
    expect(page.locator("[data-unsent]")).to_be_hidden()
    assert _names(api, empty) == _numbered(0, 50)
    assert [job["kind"] for job in _jobs(api, empty)] == ["upload"]
    # the 20 files of the first request were not sent again
    assert len(sent) == 4
    expect(page.locator(".tile").first).to_be_visible()


PART = 256 << 10


def _send_in_parts(page: Page) -> None:
    """Make the page send files in smaller parts than those of the server's pages."""
    form = page.locator("form[data-upload]")
    expect(form).to_have_attribute("data-large", str(LARGE))
    form.evaluate("(form, size) => { form.dataset.large = size; }", PART)


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
    _send_in_parts(page)
    page.get_by_label("Files").set_input_files([file, small])
    with page.expect_event("requestfailed", lambda request: request.method == "PATCH" and len(offsets) == 3):
        page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-said]")).to_have_text(re.compile(r"^Connection lost\. Trying again in \d+ s\.$"))
    page.context.set_offline(False)
    expect(page.locator("[data-said]")).to_have_text("2 files arrived.")
    expect(page.locator("[data-summary]")).to_have_text("2 added.")
    parts = range(0, len(content), PART)
    assert offsets == sorted([*parts, 2 * PART])
    items = api.get(f"/collections/{empty}/items").raise_for_status().json()["items"]
    (item,) = (item for item in items if item["name"] == file.name)
    original = api.get(f"/items/{item['id']}/picture").raise_for_status().content
    assert hashlib.sha256(original).digest() == hashlib.sha256(content).digest()


def test_the_rest_of_a_large_file_is_sent_after_a_reload(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    file = tmp_path / "large.png"
    Image.effect_noise((1100, 1000), 90).save(file)
    offsets: list[int] = []

    def answer(route: Route) -> None:
        if route.request.method == "PATCH":
            offsets.append(int(route.request.headers["upload-offset"]))
            if len(offsets) == 3:
                # it stays on its way until the page is left
                return
        route.continue_()

    page.route("**/uploads/*/tus/*", answer)
    _send_in_parts(page)
    page.get_by_label("Files").set_input_files([file])
    with page.expect_request(lambda request: request.headers.get("upload-offset") == str(2 * PART)):
        page.get_by_role("button", name="Upload", exact=True).click()
    page.reload()
    expect(page.locator("[data-summary]")).to_have_text("1 rejected.")
    expect(page.locator("tr[data-status=rejected]")).to_contain_text("send the file again within a day")
    del offsets[:]
    offsets += [0, 0, 0]
    _send_in_parts(page)
    page.get_by_label("Files").set_input_files([file])
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
    expect(page.locator("[data-summary]")).to_have_text("1 added.")
    assert offsets[3:] == list(range(2 * PART, file.stat().st_size, PART))
    assert _names(api, empty) == Counter([file.name])


def test_try_now_goes_on_at_once(page: Page, api: httpx.Client, empty: str) -> None:
    cut = True
    page.route("**/uploads/*/files", lambda route: route.fulfill(status=503) if cut else route.continue_())
    _drop(page, 0, 1)
    # the pauses grow
    expect(page.locator("[data-said]")).to_have_text("The server is not available. Trying again in 4 s.")
    cut = False
    now = page.get_by_role("button", name="Try now")
    now.focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
    # the focus was in the part that is hidden now
    expect(page.get_by_role("heading", name="Your last upload")).to_be_focused()
    expect(page.locator("[data-summary]")).to_have_text("1 added.")
    assert _names(api, empty) == _numbered(0, 1)


def test_stop_tells_what_arrived_and_that_is_indexed(page: Page, api: httpx.Client, empty: str) -> None:
    sent: list[Route] = []

    def answer(route: Route) -> None:
        sent.append(route)
        if len(sent) == 1:
            route.continue_()
        else:
            # the whole request arrives, but the answer never comes
            route.fetch()

    page.route("**/uploads/*/files", answer)
    with page.expect_request_finished(lambda request: request.url.endswith("/files")):
        _drop(page, 0, 50)
    expect(page.locator("[data-sent]")).to_contain_text("20 of 50 files")
    # the server has the second request, of which the page knows nothing
    expect(page.locator("[data-summary]")).to_have_text("40 waiting.")
    with page.expect_request(re.compile("/close$")):
        page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-said]")).to_have_text("Stopped. 40 of 50 files arrived. 10 files were not sent.")
    expect(page.locator("[data-summary]")).to_have_text("40 added, 10 rejected.")
    unsent = page.locator("tr[data-status=rejected]")
    expect(unsent).to_have_count(10)
    expect(unsent.first).to_contain_text("Not sent: the upload was stopped; send the rest")
    expect(page.locator("[data-unsent] li")).to_have_text([*(f"note {n}.txt" for n in range(40, 45)), "and 5 more"])
    assert _names(api, empty) == _numbered(0, 40)
    expect(page.locator("#index-state")).to_contain_text("All 40 items are indexed")
    page.unroute("**/uploads/*/files")
    page.get_by_role("button", name="Send the rest").click()
    expect(page.locator("[data-said]")).to_have_text("10 files arrived.")
    expect(page.locator("[data-summary]")).to_have_text("10 added.")
    assert _names(api, empty) == _numbered(0, 50)


def test_the_rest_gets_the_captions_that_arrived_before_it(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    """Also if the upload was stopped without a connection, and so was still open."""
    files = _pictures(tmp_path, [f"{n}.png" for n in range(22)])
    rows = "".join(f"{n}.png,picture {n}\n" for n in range(21))
    (tmp_path / "rows.csv").write_text(f"file,caption\n{rows}")
    (tmp_path / "21.txt").write_text("picture 21")
    sent: list[Route] = []

    def answer(route: Route) -> None:
        # the table and the text, then 20 pictures, then nothing
        sent.append(route)
        if len(sent) <= 2:
            route.continue_()

    page.route("**/uploads/*/files", answer)
    page.locator("input[type=file]").first.set_input_files([*files, tmp_path / "rows.csv", tmp_path / "21.txt"])
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-sent]")).to_contain_text("22 of 24 files")
    page.route(re.compile("/(close|unsent)$"), lambda route: route.abort())
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-said]")).to_contain_text("2 files were not sent.")
    (first,) = _jobs(api, empty)
    assert api.get(f"/uploads/{first['id']}").raise_for_status().json()["closed_at"] is None
    page.unroute("**/uploads/*/files")
    page.unroute(re.compile("/(close|unsent)$"))
    page.get_by_role("button", name="Send the rest").click()
    expect(page.locator("[data-said]")).to_have_text("4 files arrived.")
    expect(page.locator("#outcomes [data-summary]")).to_contain_text("2 added")
    assert api.get(f"/uploads/{first['id']}").raise_for_status().json()["closed_at"] is not None
    expect(page.locator("#index-state")).to_contain_text("All 22 items are indexed")
    items = api.get(f"/collections/{empty}/items?limit=200").raise_for_status().json()["items"]
    assert {item["name"]: item["text"] for item in items} == {f"{n}.png": f"picture {n}" for n in range(22)}


def test_a_reload_lists_what_was_not_sent(page: Page, api: httpx.Client, empty: str) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    sent: list[Route] = []

    def answer(route: Route) -> None:
        sent.append(route)
        if len(sent) == 1:
            route.continue_()

    page.route("**/uploads/*/files", answer)
    # whatever else a page sends that is left may come or not
    page.route(re.compile("/unsent$"), lambda route: route.abort())
    _drop(page, 0, 30)
    expect(page.locator("[data-sent]")).to_contain_text("20 of 30 files")
    _drop(page, 30, 32)
    expect(page.locator("[data-sent]")).to_contain_text("20 of 32 files")
    page.reload()
    # the page that was left closed its upload
    expect(page.locator("#outcomes [data-summary]")).to_have_text("20 added, 12 rejected.")
    expect(page.locator("tr[data-status=rejected]").first).to_contain_text("Not sent: the page was left; choose")
    page.get_by_role("link", name="All outcomes of this upload").click()
    expect(page.get_by_role("heading", name="Upload", level=1)).to_be_visible()
    expect(page.locator("tr[data-status=rejected]")).to_contain_text([f"note {n}.txt" for n in range(20, 32)])
    expect(page.locator("#job")).to_have_attribute("data-over", "true")
    (job,) = _jobs(api, empty)
    assert job["state"] == "succeeded"
    assert _names(api, empty) == _numbered(0, 20)
    expect(page.locator(".timeline")).to_contain_text("20 of 20")


def _pictures(folder: Path, names: Iterable[str]) -> list[Path]:
    """Write small pictures with these names, each of a colour of its own."""
    for n, name in enumerate(names):
        Image.new("RGB", (24, 16), (9 * n, 50, 50)).save(folder / name)
    return sorted(folder.iterdir())


def test_a_cancelled_job_ends_the_upload_and_lists_the_rest(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    sent: list[Route] = []

    def answer(route: Route) -> None:
        sent.append(route)
        if len(sent) == 1:
            route.continue_()

    page.route("**/uploads/*/files", answer)
    expect(page.get_by_text("No items yet", exact=True)).to_be_visible()
    page.get_by_label("Files").set_input_files(_pictures(tmp_path, [f"{n:02}.png" for n in range(24)]))
    page.get_by_role("button", name="Upload", exact=True).click()
    # the page shows what is there while more is sent
    expect(page.locator(".tile")).to_have_count(20)
    expect(page.get_by_label("Query text")).to_be_visible()
    expect(page.locator("[data-sent]")).to_contain_text("20 of 24 files")
    (job,) = _jobs(api, empty)
    api.post(f"/jobs/{job['id']}/cancel").raise_for_status()
    sent[1].continue_()
    expect(page.locator("[data-said]")).to_have_text(
        "The job of this upload was cancelled. Resume it for what arrived, and upload the rest again. "
        "20 of 24 files arrived. 4 files were not sent."
    )
    expect(page.locator("[data-summary]")).to_have_text("20 added, 4 rejected.")
    expect(page.locator("tr[data-status=rejected]")).to_contain_text(["Not sent: the upload was cancelled."] * 4)
    page.get_by_role("link", name="All outcomes of this upload").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_role("button", name="Try rejected files again")).to_be_hidden()


def test_names_are_the_same_whether_sent_or_known(page: Page, api: httpx.Client, empty: str, tmp_path: Path) -> None:
    names = ['5" disk.png', "5%22 disk.png", "50%.png", "a #1.png", "a%0Ab.png", "back\\slash.png"]
    files = _pictures(tmp_path, names)
    shown = {name.replace("\\", "/") for name in names}
    for status in ("added", "duplicate"):
        page.reload()
        page.get_by_label("Files").set_input_files(files)
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.locator("[data-said]")).to_have_text("6 files arrived.")
        expect(page.locator("[data-summary]")).to_have_text(f"6 {status}.")
        job = _jobs(api, empty)[0]["id"]
        rows = api.get(f"/uploads/{job}/files").raise_for_status().json()["files"]
        assert {row["name"] for row in rows} == shown
        # also when indexing is over
        expect(page.locator("#outcomes")).to_contain_text(f"6 {status}. Processed. All outcomes")
    assert set(_names(api, empty)) == shown


def test_the_state_of_the_last_upload_follows_its_job_to_the_end(page: Page, stack: LocalStack) -> None:
    with paused(stack, "embed"):
        _drop(page, 0, 1)
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
    assert _names(api, empty) == Counter([first.name, second.name])


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


def test_a_refusal_ends_the_upload_with_its_reason(page: Page, api: httpx.Client, empty: str) -> None:
    def answer(route: Route) -> None:
        api.delete(f"/collections/{empty}").raise_for_status()
        route.continue_()

    page.route("**/uploads/*/known", answer)
    _drop(page, 0, 2)
    expect(page.locator("[data-said]")).to_contain_text("0 of 2 files arrived. 2 files were not sent.")
    expect(page.locator("[data-said]")).to_contain_text("There is no such")
