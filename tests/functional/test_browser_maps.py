"""The real worker makes a map, and a person looks at it, selects an area and goes on with that, in a real browser."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.functional.browsing import BROWSER_MARKS, Scenes, Visits
from tests.functional.sample_data import wait_for
from tests.waiting import wait_until

pytestmark = BROWSER_MARKS

NUMBER = 16


@pytest.fixture
def mapped(scenes: Scenes, empty: str, api: httpx.Client) -> str:
    """A collection of scenes with a map and positions; half of them are of 1990."""
    files = [("file", (one.file, (scenes.folder / one.file).read_bytes())) for one in scenes.queries[:NUMBER]]
    wait_for(api, [api.post(f"/collections/{empty}/items", files=files).raise_for_status().json()["job_id"]])
    items = api.get(f"/collections/{empty}/items?limit=200").raise_for_status().json()["items"]
    assert len(items) == NUMBER
    for number, item in enumerate(items):
        change = {"taken": f"{1990 + number % 2}", "position": {"latitude": 41 + number / 100, "longitude": 12}}
        api.patch(f"/items/{item['id']}", json=change).raise_for_status()
    job = api.post(f"/collections/{empty}/map").raise_for_status().json()["id"]
    wait_for(api, [job])
    assert api.get(f"/jobs/{job}").json()["state"] == "succeeded", api.get(f"/jobs/{job}").json()
    return empty


def open_map(visit: Visits, collection: str, query: str = "", **options: Any) -> Page:
    page = visit(**options)
    page.goto(f"/collections/{collection}/map{query}")
    expect(page.locator("[data-loaded]")).to_have_text(re.compile(r"\d+ items$"))
    return page


def ink(page: Page) -> int:
    """How many pixels of the canvas are not empty, when it is painted."""
    script = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
        const canvas = document.querySelector("[data-canvas]");
        // of a copy: the browser warns of a canvas that is read often
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
        let found = 0;
        for (let place = 3; place < data.length; place += 4) found += data[place] > 0;
        done(found);
    })))"""
    return int(page.evaluate(script))


def drag(page: Page, *way: tuple[float, float]) -> None:
    """Drag over the canvas; places are shares of its width and height."""
    box = page.locator("[data-canvas]").bounding_box()
    assert box is not None
    (x, y), *others = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in way)
    page.mouse.move(x, y)
    page.mouse.down()
    for x, y in others:
        page.mouse.move(x, y, steps=4)
    page.mouse.up()


WHOLE = ((0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.01))


def test_the_map_is_drawn_moved_and_zoomed(visit: Visits, mapped: str) -> None:
    page = open_map(visit, mapped)
    expect(page.locator("[data-loaded]")).to_have_text(f"{NUMBER} items")
    expect(page.locator("[data-picture]")).to_be_hidden()
    whole = ink(page)
    assert whole > 0
    canvas = page.locator("[data-canvas]")
    canvas.focus()
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    assert ink(page) == 0, "it was moved away"
    page.keyboard.press("0")
    assert ink(page) == whole
    page.get_by_role("button", name="Zoom out").click()
    assert 0 < ink(page) != whole


def test_the_wheel_scrolls_the_page_and_zooms_with_a_key_or_after_a_click(visit: Visits, mapped: str) -> None:
    page = open_map(visit, mapped)
    whole = ink(page)
    canvas = page.locator("[data-canvas]")
    canvas.scroll_into_view_if_needed()
    canvas.hover(position={"x": 3, "y": 3})
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, -before)
    wait_until(lambda: page.evaluate("scrollY === 0"))
    assert ink(page) == whole
    canvas.hover(position={"x": 3, "y": 3})
    page.keyboard.down("Control")
    page.mouse.wheel(0, 300)
    # an event of the wheel may be handled after the call
    wait_until(lambda: 0 < ink(page) != whole)
    page.keyboard.up("Control")
    page.keyboard.press("Escape")
    canvas.click(position={"x": 3, "y": 3})
    page.keyboard.press("0")
    assert ink(page) == whole
    page.mouse.wheel(0, 300)
    wait_until(lambda: 0 < ink(page) != whole)


@pytest.mark.parametrize("tool", ["Box", "Lasso"])
def test_an_area_is_selected_and_opened_in_the_gallery(visit: Visits, mapped: str, tool: str) -> None:
    page = open_map(visit, mapped)
    page.get_by_role("button", name=tool).click()
    drag(page, *(WHOLE if tool == "Lasso" else WHOLE[:3:2]))
    expect(page.locator("[data-selected-count]")).to_have_text(f"{NUMBER} selected")
    drag(page, *((0.3, 0.01), (0.7, 0.01), (0.7, 0.99), (0.3, 0.99)) if tool == "Lasso" else ((0.3, 0.01), (0.7, 0.99)))
    expect(page.locator("[data-selected-count]")).not_to_have_text(f"{NUMBER} selected")
    number = int(page.locator("[data-selected-count]").inner_text().split(" ")[0])
    assert 0 < number < NUMBER
    page.get_by_role("link", name="Open in the gallery").click()
    expect(page.locator(".tile")).to_have_count(number)
    query = parse_qs(urlsplit(page.url).query)
    assert query["filter"][0].startswith("map within (")


def test_a_selection_is_tagged_and_only_it(visit: Visits, mapped: str, api: httpx.Client) -> None:
    page = open_map(visit, mapped, "?filter=taken+%3D+1990")
    expect(page.locator("[data-loaded]")).to_have_text(f"{NUMBER // 2} items")
    page.get_by_role("button", name="Select what is shown").click()
    expect(page.locator("[data-selected-count]")).to_have_text(f"{NUMBER // 2} selected")
    page.get_by_label("Tag", exact=True).fill("old")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Tag {NUMBER // 2} items?")
    page.get_by_role("button", name=re.compile("Tag")).click()
    expect(page.locator(".alert-success")).to_contain_text(f"{NUMBER // 2} items were tagged")
    found = api.get(f"/collections/{mapped}/items", params={"filter": "tags = old", "limit": 200}).json()["items"]
    assert {item["taken"] for item in found} == {"1990"}
    assert len(found) == NUMBER // 2


def place_of_first(page: Page, points: dict[str, Any]) -> tuple[float, float]:
    """Where on the canvas the first point is."""
    script = """([x, y]) => {
        const canvas = document.querySelector("[data-canvas]");
        const scale = Math.min(canvas.clientWidth, canvas.clientHeight) / 104;
        return [canvas.clientWidth / 2 + (x - 50) * scale, canvas.clientHeight / 2 + (y - 50) * scale];
    }"""
    x, y = page.evaluate(script, [points["x"][0], points["y"][0]])
    return x, y


def test_a_point_tells_its_name_and_leads_to_its_item(visit: Visits, mapped: str, api: httpx.Client) -> None:
    page = open_map(visit, mapped)
    points = api.get(f"/collections/{mapped}/map/points").raise_for_status().json()
    x, y = place_of_first(page, points)
    page.locator("[data-canvas]").hover(position={"x": x, "y": y})
    name = api.get(f"/items/{points['ids'][0]}").json()["name"]
    expect(page.locator("[data-card]")).to_contain_text(name)
    expect(page.locator("[data-card] img")).to_have_js_property("complete", True)
    page.locator("[data-canvas]").click(position={"x": x, "y": y})
    page.wait_for_url(re.compile(f"/items/{points['ids'][0]}"))


def test_a_tap_tells_the_name_and_the_next_leads_to_the_item(visit: Visits, mapped: str, api: httpx.Client) -> None:
    page = open_map(visit, mapped, has_touch=True)
    points = api.get(f"/collections/{mapped}/map/points").raise_for_status().json()
    x, y = place_of_first(page, points)
    page.locator("[data-canvas]").tap(position={"x": x, "y": y})
    expect(page.locator("[data-card]")).to_contain_text(api.get(f"/items/{points['ids'][0]}").json()["name"])
    page.locator("[data-canvas]").tap(position={"x": x, "y": y})
    page.wait_for_url(re.compile(f"/items/{points['ids'][0]}"))


def test_places_are_walked_through_without_scripts(visit: Visits, mapped: str) -> None:
    page = visit(java_script_enabled=False)
    page.goto(f"/collections/{mapped}/places")
    mark = page.locator("a.places-mark")
    expect(mark).to_have_count(1)
    mark.click()
    expect(page.locator(".tile")).to_have_count(NUMBER)


def test_the_map_is_read_without_scripts(visit: Visits, mapped: str) -> None:
    page = visit(java_script_enabled=False)
    page.goto(f"/collections/{mapped}/map")
    expect(page.locator("[data-picture]")).to_be_visible()
    expect(page.locator("[data-tools]")).to_be_hidden()
    area = page.locator(".map-areas a").first
    number = int(re.findall(r"(\d+) item", area.inner_text())[0])
    area.click()
    expect(page.locator(".tile")).to_have_count(number)
