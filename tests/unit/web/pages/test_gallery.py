"""The items of a collection as rows of pictures."""

from __future__ import annotations

import io
import re
import uuid

import pytest
import sqlalchemy as sa
from flask import Flask
from playwright.sync_api import Browser, Page, expect
from tests.factories import make_picture, store
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pages.in_browser import BROWSER_MARKS, page
from tests.unit.web.pictures import picture
from tests.unit.web.vectors import embed_items
from tests.waiting import wait_until

from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.settings import Settings, public_name
from retllm_web.http.services import Services

__all__ = ["page"]
SCRIPT = {"X-Requested-With": "fetch"}
SIZES = [(300, 200), (200, 300), (250, 250), (320, 100), (101, 300), (320, 20)]


@pytest.fixture
def pictures(ada: Caller) -> str:
    """A collection of pictures of several shapes, and of one text."""
    key = str(ada.post("/collections", json={"name": "Shapes"}).json["id"])
    files = [(io.BytesIO(picture("teal", size=size)), f"{size[0]} by {size[1]}.png") for size in SIZES]
    sent = {"file": [*files, (io.BytesIO(b"a list of shapes"), "list.txt")]}
    ada.post(f"/collections/{key}/items?index=false", data=sent, content_type="multipart/form-data")
    return key


def test_the_place_of_each_picture_has_its_shape(reader: Visitor, pictures: str) -> None:
    tiles = reader.get(f"/collections/{pictures}").all("li", class_="tile")
    shapes = {tile.text.partition(".")[0]: str(tile.attributes["class"]).split()[1] for tile in tiles}
    assert shapes == {
        "300 by 200": "shape-150",
        "200 by 300": "shape-65",
        "250 by 250": "shape-100",
        "320 by 100": "shape-325",
        "101 by 300": "shape-40",
        "320 by 20": "shape-350",
        "a list of shapes list": "shape-100",
    }


def test_only_states_that_items_have_are_offered(reader: Visitor, pictures: str) -> None:
    def offered(query: str) -> list[str]:
        page = reader.get(f"/collections/{pictures}{query}")
        links = [
            link for link in page.all("a", class_="btn") if link.text.split(" ")[0] in ("All", "Indexed", "Failed")
        ]
        return [link.text for link in links]

    assert offered("") == ["All 7"]
    assert offered("?state=failed") == ["All 7", "Failed 0"], "what is chosen can be seen"


def test_the_size_is_in_the_address_of_all_views(reader: Visitor, pictures: str) -> None:
    here = f"/collections/{pictures}"
    for size, name in {"": "Medium", "size=s": "Small", "size=l": "Large", "size=huge": "Medium"}.items():
        page = reader.get(f"{here}?{size}")
        (current,) = [e.text for e in page.all("a", class_="page-link", aria_current="true")]
        assert current == name
    page = reader.get(f"{here}?size=l&kind=image&sort=-name")
    assert {e.attributes["value"] for e in page.all("input", type="hidden", name="size")} == {"l"}
    for link in page.all("a", class_="btn"):
        if "#items" in str(link.attributes["href"]) and link.text != "Show all":
            assert "size=l" in str(link.attributes["href"])


def test_large_rows_show_pictures_with_enough_pixels(reader: Visitor, birds: str, served: Services) -> None:
    with transaction(served.sessions) as session:
        store(session, *(make_picture(uuid.UUID(birds), width=side, height=side) for side in (320, 321)))

    def kinds(size: str) -> list[str]:
        images = reader.get(f"/collections/{birds}?size={size}").all("img")
        return [str(image.attributes["src"]).rpartition("/")[2] for image in images]

    assert kinds("m") == ["thumbnail", "thumbnail"]
    assert kinds("l") == ["thumbnail", "rendition"]


def test_only_items_that_are_not_indexed_have_a_mark(reader: Visitor, indexed: str, served: Services) -> None:
    assert not reader.get(f"/collections/{indexed}").all("span", class_="tile-state")
    with transaction(served.sessions) as session:
        session.execute(sa.update(Item).where(Item.name == "robin").values(version=2))
    assert [e.text for e in reader.get(f"/collections/{indexed}").all("span", class_="tile-state")] == [
        "Not indexed yet"
    ]


def test_who_may_change_a_collection_selects_its_items(
    app: Flask, reader: Visitor, texts: str, bob: Caller, ada: Caller
) -> None:
    boxes = [reader.get(f"/collections/{texts}", headers=how).all("input", name="item") for how in ({}, SCRIPT)]
    assert [one.attributes["value"] for one in boxes[0]] == [one.attributes["value"] for one in boxes[1]]
    assert {(one.attributes["form"], one.attributes["type"]) for one in boxes[0]} == {("chosen", "checkbox")}
    assert len(boxes[0]) == 3
    ada.put(f"/collections/{texts}/visibility", json={"visibility": "everyone"})
    visitor = Visitor(app.test_client())
    visitor.log_in("bob")
    for how in ({}, SCRIPT):
        assert not visitor.get(f"/collections/{texts}", headers=how).all("input", name="item")


_TILES = """() => [...document.querySelectorAll('.tile')].map((tile) => {
    const box = tile.getBoundingClientRect(), shown = tile.querySelector('.tile-picture').getBoundingClientRect();
    const image = tile.querySelector('img');
    return { top: box.top, right: box.right, width: shown.width, height: shown.height,
             natural: image ? image.naturalWidth / image.naturalHeight : null };
})"""


class TestInABrowser:
    pytestmark = BROWSER_MARKS

    def test_the_pictures_of_a_row_are_equally_high_and_rows_fill_the_width(self, page: Page, pictures: str) -> None:
        page.goto(f"/collections/{pictures}?size=s")
        loaded = "() => [...document.querySelectorAll('.tile img')].every((one) => one.naturalWidth)"
        wait_until(lambda: page.evaluate(loaded))
        tiles = page.evaluate(_TILES)
        assert len(tiles) == len(SIZES) + 1
        right = page.locator(".gallery").evaluate("one => one.getBoundingClientRect().right")
        for top in sorted({tile["top"] for tile in tiles})[:-1]:
            row = [tile for tile in tiles if tile["top"] == top]
            assert max(tile["right"] for tile in row) == pytest.approx(right, abs=2)
            assert max(tile["height"] for tile in row) == pytest.approx(min(tile["height"] for tile in row), abs=1.5)
        for tile in tiles:
            if tile["natural"] and 0.4 < tile["natural"] < 3.5:
                assert tile["width"] / tile["height"] == pytest.approx(tile["natural"], rel=0.03)

    def test_names_and_boxes_appear_with_the_focus(self, page: Page, pictures: str) -> None:
        page.goto(f"/collections/{pictures}")
        about, box = page.locator(".tile-about").first, page.locator(".tile-check").first
        expect(about).to_be_hidden()
        expect(box).to_have_css("opacity", "0")
        page.keyboard.press("j")
        expect(about).to_be_visible()
        expect(box).to_have_css("opacity", "1")
        page.keyboard.press("x")
        expect(box).to_be_checked()
        # from then on all boxes are shown
        expect(page.locator(".tile-check").nth(3)).to_have_css("opacity", "1")

    def test_names_and_boxes_are_always_there_on_a_screen_that_is_touched(
        self, page: Page, chromium: Browser, pictures: str
    ) -> None:
        look = {"has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 844}}
        page.wait_for_url("**/")
        context = chromium.new_context(storage_state=page.context.storage_state(), **look)
        touched = context.new_page()
        touched.goto(page.url.rstrip("/") + f"/collections/{pictures}")
        expect(touched.locator(".tile-about").nth(2)).to_be_visible()
        expect(touched.locator(".tile-check").nth(2)).to_have_css("opacity", "1")
        assert touched.evaluate("document.documentElement.scrollWidth") == 390
        context.close()

    def test_the_facets_load_when_they_are_opened_and_stay_open(self, page: Page, pictures: str) -> None:
        page.goto(f"/collections/{pictures}")
        page.get_by_text("Narrow down by time").click()
        page.get_by_role("link", name="texts 1 item").click()
        expect(page.locator(".tile")).to_have_count(1)
        expect(page.locator("#filter")).to_have_value("kind = text")
        expect(page.locator(".facet[aria-current]")).to_have_count(1)
        page.get_by_role("link", name="kind = text remove").click()
        expect(page.locator(".tile")).to_have_count(len(SIZES) + 1)
        page.get_by_text("Narrow down by time").click()
        expect(page).not_to_have_url(re.compile("facets=1"))
        page.get_by_role("link", name="Small").click()
        expect(page.locator(".gallery-s")).to_be_visible()
        expect(page.locator("#facets[open]")).to_have_count(0)

    def test_on_a_phone_pictures_come_before_the_forms(
        self, page: Page, pictures: str, served: Services, settings: Settings
    ) -> None:
        embed_items(served, settings, pictures, public_name(settings.embedder_name), revision="rev-of-embedder")
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"/collections/{pictures}")
        box, files = page.locator(".tile").first.bounding_box(), page.get_by_label("Files").bounding_box()
        assert box is not None
        assert files is not None
        assert box["y"] < 1.3 * 844
        assert box["y"] < files["y"]
        expect(page.get_by_label("Query text")).to_be_visible()
        options = page.get_by_label("Candidates (k)"), page.get_by_label("Sort by")
        for option, fold in zip(options, ("Picture and options", "Filter and sort"), strict=True):
            expect(option).to_be_hidden()
            page.get_by_text(fold).click()
            expect(option).to_be_visible()
        page.get_by_role("link", name="Upload", exact=True).click()
        expect(page.get_by_role("heading", name="Upload", exact=True)).to_be_in_viewport()

    def test_on_a_desktop_nothing_is_folded(self, page: Page, indexed: str) -> None:
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(f"/collections/{indexed}")
        for label in ("Candidates (k)", "Sort by", "Files"):
            expect(page.get_by_label(label)).to_be_visible()
        expect(page.get_by_text("Picture and options")).to_be_hidden()
        page.goto("/jobs")
        expect(page.get_by_label("Kind")).to_be_visible()

    def test_an_empty_collection_offers_the_upload_on_the_first_screen(self, page: Page, ada: Caller) -> None:
        key = ada.post("/collections", json={"name": "Empty"}).json["id"]
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"/collections/{key}")
        expect(page.get_by_label("Files")).to_be_in_viewport()

    def test_a_long_name_is_cut_in_its_middle_on_a_phone(self, page: Page, texts: str, served: Services) -> None:
        name = "a long name of a picture that no phone has room for 0012.jpg"
        with transaction(served.sessions) as session:
            session.execute(sa.update(Item).where(Item.name == "robin").values(name=name))
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"/collections/{texts}?size=s")
        tile = page.locator(".tile").first
        tile.get_by_role("link").focus()
        expect(tile.locator(".path-file")).to_have_text(name)
        head, tail = tile.locator(".path-head"), tile.locator(".path-head + span")
        expect(tail).to_have_text("for 0012.jpg")
        assert head.evaluate("(one) => one.scrollWidth > one.clientWidth")
        assert not tail.evaluate("(one) => one.scrollWidth > one.clientWidth")
