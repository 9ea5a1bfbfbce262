"""What the page of a collection says during an upload, in a real browser with real servers and workers."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect
from tests.functional.browsing import BROWSER_MARKS, paused
from tests.functional.upload_page import PART, drop, jobs, names, pictures, send_in_parts

from retllm.stack import LocalStack
from retllm_web.pages.formats import LARGE

pytestmark = BROWSER_MARKS


def test_the_loss_of_the_connection_is_forgotten_when_a_request_succeeds(page: Page, stack: LocalStack) -> None:
    lost = page.locator("#outcomes [data-lost]")
    with paused(stack, "media"):
        drop(page, 0, 1)
        expect(page.locator("[data-summary]")).to_have_text("1 waiting.")
        # any answer to another request would end the growing pauses
        page.route("**", lambda route: route.abort())
        # the pauses grow
        expect(lost).to_have_text(re.compile(r"Connection lost\. .* Retrying in 12 s\."))
        page.unroute("**")
        drop(page, 1, 2)
        # long before that time is over
        expect(lost).to_be_hidden(timeout=6000)
        expect(page.locator("[data-summary]")).to_have_text("1 waiting.")


def test_names_that_look_the_same_are_told_apart(page: Page, api: httpx.Client, empty: str, tmp_path: Path) -> None:
    """As in an archive and by the command line; a sidecar belongs to the picture with exactly its name."""
    given = ["Mo\u0308we.png", "M\u00f6we.png", "Brief.png", "Brief.png ", "Karte.png"]
    for n, file in enumerate(given):
        Image.new("RGB", (24, 16), (40 * n, 50, 50)).save(tmp_path / file, "PNG")
    (tmp_path / "Mo\u0308we.txt").write_text("the decomposed gull")
    page.get_by_label("Files").set_input_files(sorted(tmp_path.iterdir()))
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-said]")).to_have_text("6 files arrived.")
    expect(page.locator("[data-summary]")).to_have_text("5 added, 1 updated.")
    found = sorted(names(api, empty))
    coded = re.compile(r"(Brief|Möwe)~[0-9a-f]{12}\.png ?")
    assert [name for name in found if not coded.fullmatch(name)] == ["Brief.png", "Karte.png", "Möwe.png"]
    assert len(found) == 5
    items = api.get(f"/collections/{empty}/items?limit=50").raise_for_status().json()["items"]
    (captioned,) = (item for item in items if item["text"])
    assert coded.fullmatch(captioned["name"])
    # the names that the page lists
    for name in found:
        expect(page.locator("#outcomes").get_by_role("link", name=name, exact=True).first).to_be_visible()


def test_requests_are_small_so_that_a_slow_line_tells_what_arrived(page: Page, tmp_path: Path) -> None:
    sizes: list[tuple[str, int]] = []

    def note(request: Request) -> None:
        if request.method == "PATCH" or request.url.endswith("/files"):
            sizes.append((request.method, request.sizes()["requestBodySize"]))

    page.on("requestfinished", note)
    files = pictures(tmp_path / "small", [f"{n}.png" for n in range(3)])
    for file in files:
        # three of them are more than one request takes
        with file.open("ab") as stream:
            stream.write(bytes(LARGE // 3 + 1))
    large = tmp_path / "large.png"
    Image.new("RGB", (24, 16)).save(large)
    with large.open("ab") as stream:
        stream.write(bytes(2 * LARGE))
    page.get_by_label("Files").set_input_files([*files, large])
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-said]")).to_have_text("4 files arrived.")
    assert [method for method, _ in sizes] == ["POST", "POST", "PATCH", "PATCH", "PATCH"]
    # a form has some bytes more than its files
    assert all(size < LARGE + 2000 for _, size in sizes)
    assert LARGE <= 8 << 20


def test_a_large_file_ends_at_the_part_after_a_cancellation(
    page: Page, api: httpx.Client, empty: str, tmp_path: Path
) -> None:
    file = tmp_path / "large.png"
    Image.effect_noise((1100, 1000), 90).save(file)
    offsets: list[int] = []

    def answer(route: Route) -> None:
        if route.request.method == "PATCH":
            offsets.append(int(route.request.headers["upload-offset"]))
            if len(offsets) == 2:
                (job,) = jobs(api, empty)
                api.post(f"/jobs/{job['id']}/cancel").raise_for_status()
        route.continue_()

    page.route("**/uploads/*/tus/*", answer)
    send_in_parts(page)
    page.get_by_label("Files").set_input_files([file])
    page.get_by_role("button", name="Upload", exact=True).click()
    said = page.locator("[data-said]")
    expect(said).to_contain_text("The job of this upload was cancelled. Retry it for what arrived")
    expect(said).to_contain_text("0 of 1 file arrived. 1 file was not sent.")
    assert offsets == [0, PART]


def test_the_time_that_is_left_follows_the_speed_of_the_last_seconds(page: Page) -> None:
    """A connection that was lost, and files that the server has already, tell nothing of the rest."""
    shown = page.evaluate(
        """async () => {
            const { Progress } = await import("/static/upload_progress.js");
            const form = document.querySelector("form[data-upload]");
            const progress = new Progress(form);
            let now = 0;
            performance.now = () => now;
            const at = (seconds, megabytes) => {
                now = 1000 * seconds;
                progress.show({ arrived: 1, files: 4, bytes: 40e6 }, 1e6 * megabytes);
                return form.querySelector("[data-sent]").textContent;
            };
            progress.start();
            const shown = [at(0, 0), at(2, 2), at(10, 10)];
            progress.forget();
            shown.push(at(600, 10), at(604, 12));
            at(605, 30);
            for (let second = 606; second < 630; second += 1) at(second, 30 + (second - 605) / 1000);
            shown.push(at(630, 30.025), at(631, 20), at(641, 20.5));
            return shown;
        }"""
    )
    times = [text.partition(" of 40.0 MB")[2] for text in shown]
    assert times == [
        "",
        "",
        ", about 30 s left",
        "",
        ", about 56 s left",
        ", about 2 h 47 min left",
        "",
        ", about 7 min left",
    ]
