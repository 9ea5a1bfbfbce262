"""The list of the files of an upload, in a real browser."""

from __future__ import annotations

import io
import re

import pytest
from playwright.sync_api import Page, expect
from tests.functional.browsing import CHROMIUM
from tests.unit.media.samples import zipped
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.test_searches_browser import page as page
from tests.unit.web.pictures import picture

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]

_LINES = """(cell) => {
    const text = document.createRange();
    text.selectNodeContents(cell);
    return new Set([...text.getClientRects()].map((line) => line.top)).size;
}"""
FOLDER = "Takeout/Google Photos/Sommerurlaub an der Ostsee"


@pytest.fixture
def job(ada: Caller) -> str:
    """The job of an upload of files with long names, of all outcomes."""
    collection = ada.post("/collections", json={"name": "Files"}).json["id"]
    archive = {
        f"{FOLDER}/IMG_20190701_120000.png": picture("red"),
        f"{FOLDER}/IMG_20190701_120001.png": b"",
        f"{FOLDER}/captions.csv": b"file,caption\nIMG_20190701_120000.png,the sea\nnothing.png,the port\n",
        f"{FOLDER}/note.txt": "Grüße".encode("cp1252"),
        f"{FOLDER}/Thumbs.db": b"x",
    }
    parts = [(io.BytesIO(zipped(archive)), "all.zip"), (io.BytesIO(bytes(600)), "Sommerurlaub_2019_Ostsee.dat")]
    answer = ada.post(f"/collections/{collection}/items", data={"file": parts}, content_type="multipart/form-data")
    return str(answer.json["job_id"])


def test_names_have_room_beside_long_reasons(page: Page, job: str) -> None:
    for width, least in ((1200, 400), (390, 300)):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"/jobs/{job}")
        name = page.get_by_role("rowheader", name="Sommerurlaub_2019_Ostsee.dat")
        box = name.bounding_box()
        assert box is not None
        assert box["width"] >= least
        assert name.locator(".path-file").evaluate(_LINES) == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_cell_without_a_value_is_left_out_on_a_phone(page: Page, job: str) -> None:
    page.goto(f"/jobs/{job}")
    row = page.locator("tr[data-status=read]").filter(has_text="captions.csv").first
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 900})
        expect(row.locator("td[data-label=Outcome]")).to_be_visible()
        expect(row.locator("td[data-label=Details]")).to_be_visible(visible=width == 1200)


def test_a_row_names_its_archive_and_what_an_item_is_stands_apart_from_the_remark(page: Page, job: str) -> None:
    page.goto(f"/jobs/{job}")
    rows = page.locator("tr[data-status]")
    row = rows.filter(has_text="captions.csv, row 3").locator("th")
    expect(row).to_have_text(f"{FOLDER}/captions.csv, row 3in all.zip")
    text = rows.filter(has_text="note.txt").get_by_role("cell").last
    expect(text).to_contain_text(re.compile(r"^text · The file is not UTF-8\."))
