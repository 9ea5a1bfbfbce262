"""What tests of uploads in a browser share: a drop of texts, small pictures, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, expect

from retllm_web.pages.formats import LARGE

PART = 256 << 10
_DROP = """([first, last]) => {
    const held = new DataTransfer();
    for (let n = first; n < last; n += 1) held.items.add(new File([`text number ${n}`], `note ${n}.txt`));
    return held;
}"""


def drop(page: Page, first: int, last: int) -> None:
    """Drop the texts with these numbers, as one drop."""
    page.locator("[data-drop]").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(_DROP, [first, last])})


def drop_paths(page: Page, *paths: Path, on: str = "[data-drop]") -> None:
    """Drop files and folders of this machine as the system does; a script can make no such drop."""
    page.locator(on).scroll_into_view_if_needed()
    area = page.locator(on).bounding_box()
    assert area is not None
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    browser = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        if kind == "drop":
            # every place where files can be dropped says so
            expect(page.locator(".over")).to_have_count(1)
        browser.send("Input.dispatchDragEvent", {"type": kind, "x": area["x"] + 9, "y": area["y"] + 9, "data": data})


def names(api: httpx.Client, collection: str) -> Counter[str]:
    """Return how often a collection has an item of which name."""
    items = api.get(f"/collections/{collection}/items?limit=200").raise_for_status().json()["items"]
    return Counter(item["name"] for item in items)


def numbered(first: int, last: int) -> Counter[str]:
    """Return the names of the texts with these numbers."""
    return Counter(f"note {n}.txt" for n in range(first, last))


def jobs(api: httpx.Client, collection: str) -> list[dict[str, Any]]:
    """Return the jobs of a collection."""
    found: list[dict[str, Any]] = api.get(f"/jobs?collection={collection}").raise_for_status().json()["jobs"]
    return found


def send_in_parts(page: Page) -> None:
    """Make the page send files in smaller parts than those of the server's pages."""
    form = page.locator("form[data-upload]")
    expect(form).to_have_attribute("data-large", str(LARGE))
    form.evaluate("(form, size) => { form.dataset.large = size; }", PART)


def pictures(folder: Path, names: Iterable[str]) -> list[Path]:
    """Write small pictures with these names into a folder, each of a colour of its own."""
    folder.mkdir(exist_ok=True)
    for n, name in enumerate(names):
        Image.new("RGB", (24, 16), (9 * n, 50, 50)).save(folder / name)
    return sorted(folder.iterdir())
