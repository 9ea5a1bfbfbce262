"""Uploads that are stopped, left behind and cancelled, in a real browser with real servers and workers."""

from __future__ import annotations

import base64
import os
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect
from tests.functional.browsing import BROWSER_MARKS
from tests.functional.upload_page import PART, drop, drop_paths, jobs, names, numbered, pictures, send_in_parts
from tests.unit.media.fingerprints import fingerprint

import retllm_web
from retllm_web.pages.formats import LARGE

pytestmark = BROWSER_MARKS


def let_through(page: Page, count: int) -> list[Route]:
    """Let the first requests with files reach the server, and hold the others; return all in their order."""
    sent: list[Route] = []

    def answer(route: Route) -> None:
        sent.append(route)
        if len(sent) <= count:
            route.continue_()

    page.route("**/uploads/*/files", answer)
    return sent


def hold_the_third_part(page: Page) -> list[int]:
    """Return a list that gets the offsets of the parts that are sent; the third one stays on its way."""
    offsets: list[int] = []

    def answer(route: Route) -> None:
        if route.request.method == "PATCH":
            offsets.append(int(route.request.headers["upload-offset"]))
            if len(offsets) == 3:
                return
        route.continue_()

    page.route("**/uploads/*/tus/*", answer)
    return offsets


def test_the_rest_of_a_large_file_is_sent_after_a_reload(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    file = tmp_path / "large.png"
    Image.effect_noise((1100, 1000), 90).save(file)
    offsets = hold_the_third_part(page)
    send_in_parts(page)
    page.get_by_label("Files").set_input_files([file])
    with page.expect_request(lambda request: request.headers.get("upload-offset") == str(2 * PART)):
        page.get_by_role("button", name="Upload", exact=True).click()
    page.reload()
    expect(page.locator("[data-summary]")).to_have_text("1 not sent.")
    expect(page.locator("tr[data-status=not_sent]")).to_contain_text("Send it again within a day")
    del offsets[:]
    offsets += [0, 0, 0]
    send_in_parts(page)
    page.get_by_label("Files").set_input_files([file])
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
    expect(page.locator("[data-summary]")).to_have_text("1 added.")
    assert offsets[3:] == list(range(2 * PART, file.stat().st_size, PART))
    assert names(api, empty) == Counter([file.name])


def _larger_than_what_is_hashed_as_a_whole(page: Page, folder: Path) -> Path:
    """Return a file of seven slices, and let the page hash it in slices; else files up to 64 MiB are hashed whole."""
    script = (Path(retllm_web.__file__).parent / "static/upload_hashes.js").read_text("utf-8")
    changed = script.replace("const MAX_WHOLE = 64 * 1024 * 1024;", "const MAX_WHOLE = 16 * 1024 * 1024;")
    assert changed != script
    page.route("**/static/upload_hashes.js*", lambda route: route.fulfill(body=changed, content_type="text/javascript"))
    page.reload()
    Image.new("RGB", (24, 16)).save(folder / "red.png")
    file = folder / "all.tar"
    with tarfile.open(file, "w") as archive:
        archive.add(folder / "red.png", "red.png")
    # zeros may follow the end of an archive
    os.truncate(file, 26 << 20)
    return file


@pytest.mark.parametrize("reloaded", [False, True])
def test_only_the_rest_of_a_very_large_file_is_sent_after_stop(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path, reloaded: bool
) -> None:
    file = _larger_than_what_is_hashed_as_a_whole(page, tmp_path)
    offsets = hold_the_third_part(page)
    page.get_by_label("Files").set_input_files([file])
    with (
        page.expect_request(lambda request: request.headers.get("upload-offset") == str(2 * LARGE)),
        page.expect_request("**/uploads/*/tus") as announced,
    ):
        page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-said]")).to_have_text("Stopped. 0 of 1 file arrived. 1 file was not sent.")
    expect(page.locator("tr[data-status=not_sent]")).to_contain_text("within a day, and only the rest is sent")
    if reloaded:
        page.reload()
        page.get_by_label("Files").set_input_files([file])
        page.get_by_role("button", name="Upload", exact=True).click()
    else:
        page.get_by_role("button", name="Send the rest").click()
    expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
    expect(page.locator("[data-summary]")).to_have_text("1 added.")
    assert offsets[3:] == list(range(2 * LARGE, file.stat().st_size, LARGE))
    metadata = dict(pair.split(" ") for pair in announced.value.headers["upload-metadata"].split(","))
    assert metadata.keys() == {"filename", "slices"}
    assert base64.b64decode(metadata["slices"]).decode() == fingerprint(file.read_bytes())
    assert names(api, empty) == Counter(["red.png"])


def test_stop_ends_the_reading_of_a_very_large_file(page: Page, tmp_path: Path) -> None:
    file = _larger_than_what_is_hashed_as_a_whole(page, tmp_path)
    page.evaluate(
        """() => {
            const digest = crypto.subtle.digest.bind(crypto.subtle);
            window.digests = 0;
            crypto.subtle.digest = async (...data) => {
                window.digests += 1;
                if (window.digests === 3) await new Promise((resolve) => { window.goOn = resolve; });
                return digest(...data);
            };
        }"""
    )
    page.get_by_label("Files").set_input_files([file])
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-sent]")).to_have_text("Reading all.tar, 8.4 MB of 27.3 MB…")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-said]")).to_have_text("Stopped. 0 of 1 file arrived. 1 file was not sent.")
    page.evaluate("window.goOn()")
    page.get_by_role("button", name="Send the rest").click()
    expect(page.locator("[data-said]")).to_have_text("1 file arrived.")
    # 7 slices and their digests, after the three that were read in vain
    assert page.evaluate("window.digests") == 3 + 7 + 1


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
        drop(page, 0, 50)
    expect(page.locator("[data-sent]")).to_contain_text("20 of 50 files")
    # the server has the second request, of which the page knows nothing
    expect(page.locator("[data-summary]")).to_have_text("40 waiting.")
    with page.expect_request(re.compile("/close$")):
        page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-said]")).to_have_text("Stopped. 40 of 50 files arrived. 10 files were not sent.")
    expect(page.locator("[data-summary]")).to_have_text("40 added, 10 not sent.")
    unsent = page.locator("tr[data-status=not_sent]")
    expect(unsent).to_have_count(10)
    expect(unsent.first).to_contain_text("Not sent: the upload was stopped; choose the same files again")
    expect(page.locator("[data-unsent] li")).to_have_text([*(f"note {n}.txt" for n in range(40, 45)), "and 5 more"])
    assert names(api, empty) == numbered(0, 40)
    expect(page.locator("#index-state")).to_contain_text("All 40 items are indexed")
    page.unroute("**/uploads/*/files")
    page.get_by_role("button", name="Send the rest").click()
    expect(page.locator("[data-said]")).to_have_text("10 files arrived.")
    expect(page.locator("[data-summary]")).to_have_text("10 added.")
    assert names(api, empty) == numbered(0, 50)


def test_the_rest_gets_the_captions_that_arrived_before_it(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    """Also if the upload was stopped without a connection, and so was still open."""
    files = pictures(tmp_path, [f"{n}.png" for n in range(22)])
    rows = "".join(f"{n}.png,picture {n}\n" for n in range(21))
    (tmp_path / "rows.csv").write_text(f"file,caption\n{rows}")
    (tmp_path / "21.txt").write_text("picture 21")
    # the table and the text, then 20 pictures, then nothing
    let_through(page, 2)
    page.locator("input[type=file]").first.set_input_files([*files, tmp_path / "rows.csv", tmp_path / "21.txt"])
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-sent]")).to_contain_text("22 of 24 files")
    page.route(re.compile("/(close|unsent)$"), lambda route: route.abort())
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-said]")).to_contain_text("2 files were not sent.")
    (first,) = jobs(api, empty)
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


def test_stop_leaves_out_the_corrected_sheet_that_was_to_follow(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    files = pictures(tmp_path / "all", [f"{n}.png" for n in range(22)])
    sheet = tmp_path / "all" / "captions.csv"
    sheet.write_text("file,caption\n0.png,a wrogn word\n21.png,the last one\n")
    let_through(page, 2)
    page.get_by_label("Files").set_input_files([*files, sheet])
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-sent]")).to_contain_text("21 of 23 files")
    sheet.write_text("file,caption\n0.png,a right word\n21.png,the very last one\n")
    drop_paths(page, sheet)
    expect(page.locator("[data-said]")).to_contain_text("1 file that may correct captions follows")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-said]")).to_have_text("Stopped. 21 of 24 files arrived. 3 files were not sent.")
    page.unroute("**/uploads/*/files")
    page.get_by_role("button", name="Send the rest").click()
    expect(page.locator("[data-said]")).to_have_text("3 files arrived.")
    expect(page.locator("#outcomes [data-summary]")).to_have_text("2 added, 2 updated.")
    items = api.get(f"/collections/{empty}/items?limit=200").raise_for_status().json()["items"]
    texts = {item["name"].rpartition("/")[2]: item["text"] for item in items if item["text"]}
    assert texts == {"0.png": "a right word", "21.png": "the very last one"}


def test_a_reload_lists_what_was_not_sent(page: Page, api: httpx.Client, empty: str) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    let_through(page, 1)
    # whatever else a page sends that is left may come or not
    page.route(re.compile("/unsent$"), lambda route: route.abort())
    drop(page, 0, 30)
    expect(page.locator("[data-sent]")).to_contain_text("20 of 30 files")
    drop(page, 30, 32)
    expect(page.locator("[data-sent]")).to_contain_text("20 of 32 files")
    page.reload()
    # the page that was left closed its upload
    expect(page.locator("#outcomes [data-summary]")).to_have_text("20 added, 12 not sent.")
    expect(page.locator("tr[data-status=not_sent]").first).to_contain_text("Not sent: the page was left; choose")
    page.get_by_role("link", name="All outcomes of this upload").click()
    expect(page.get_by_role("heading", name="Upload", level=1)).to_be_visible()
    expect(page.locator("tr[data-status=not_sent]")).to_contain_text([f"note {n}.txt" for n in range(20, 32)])
    expect(page.locator("#job")).to_have_attribute("data-over", "true")
    (job,) = jobs(api, empty)
    assert job["state"] == "succeeded"
    assert names(api, empty) == numbered(0, 20)
    expect(page.locator(".timeline")).to_contain_text("20 of 20")
    page.unroute("**/uploads/*/files")
    page.get_by_role("link", name="choose the same files or folder again").click()
    # with its scripts
    page.wait_for_url("**/collections/*#upload-title")
    drop(page, 0, 32)
    expect(page.locator("[data-summary]")).to_have_text("12 added, 20 duplicate.")
    assert names(api, empty) == numbered(0, 32)


def test_a_cancelled_job_ends_the_upload_and_lists_the_rest(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    sent = let_through(page, 1)
    expect(page.get_by_text("No items yet", exact=True)).to_be_visible()
    page.get_by_label("Files").set_input_files(pictures(tmp_path, [f"{n:02}.png" for n in range(24)]))
    page.get_by_role("button", name="Upload", exact=True).click()
    # the page shows what is there while more is sent
    expect(page.locator(".tile")).to_have_count(20)
    expect(page.get_by_label("Query text")).to_be_visible()
    expect(page.locator("[data-sent]")).to_contain_text("20 of 24 files")
    (job,) = jobs(api, empty)
    api.post(f"/jobs/{job['id']}/cancel").raise_for_status()
    sent[1].continue_()
    expect(page.locator("[data-said]")).to_have_text(
        "The job of this upload was cancelled. Retry it for what arrived, and upload the rest again. "
        "20 of 24 files arrived. 4 files were not sent."
    )
    expect(page.locator("[data-summary]")).to_have_text("20 added, 4 not sent.")
    expect(page.locator("tr[data-status=not_sent]")).to_contain_text(["Not sent: the upload was cancelled."] * 4)
    page.get_by_role("link", name="Retry it on the page of its job.").click()
    expect(page.get_by_role("button", name="Retry", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Retry rejected files")).to_be_hidden()


def test_a_refusal_ends_the_upload_with_its_reason(page: Page, api: httpx.Client, empty: str) -> None:
    def answer(route: Route) -> None:
        api.delete(f"/collections/{empty}").raise_for_status()
        route.continue_()

    page.route("**/uploads/*/known", answer)
    drop(page, 0, 2)
    expect(page.locator("[data-said]")).to_contain_text("0 of 2 files arrived. 2 files were not sent.")
    expect(page.locator("[data-said]")).to_contain_text("There is no such")


def test_an_archive_that_is_stopped_arrived_in_part_and_was_not_taken(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    inside = pictures(tmp_path / "folder", [f"{n}.png" for n in range(3)])
    Image.effect_noise((1100, 1000), 90).save(tmp_path / "folder" / "noise.png")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in [*inside, tmp_path / "folder" / "noise.png"]:
            archive.write(file, file.name)

    def answer(route: Route) -> None:
        # the second part stays on its way until the upload is stopped
        if route.request.headers.get("upload-offset") != str(PART):
            route.continue_()

    page.route("**/uploads/*/tus/*", answer)
    send_in_parts(page)
    page.get_by_label("Files").set_input_files([tmp_path / "all.zip"])
    with page.expect_request(lambda request: request.headers.get("upload-offset") == str(PART)):
        page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-said]")).to_have_text("Stopped. 0 of 1 file arrived. 1 file was not sent.")
    expect(page.locator("[data-summary]")).to_have_text("1 not sent.")
    expect(page.locator("tr[data-status=not_sent]")).to_contain_text("so the file was not taken")
    page.get_by_role("link", name="All outcomes of this upload").click()
    expect(page.locator("[data-problem=not_sent]")).to_have_text("1 not sent")
    missing = page.locator("tr[data-status=not_sent]")
    expect(missing).to_contain_text("all.zip")
    expect(missing).to_contain_text(f"only {PART / 1000:.1f} kB of")
    assert names(api, empty) == Counter()
