"""Names with long folders, in a real browser: the file's own name is whole, and the folders are cut."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect
from tests.unit.web.pages.conftest import Searched
from tests.unit.web.pages.in_browser import BROWSER_MARKS
from tests.unit.web.pages.in_browser import page as page

from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm_web.http.services import Services

pytestmark = BROWSER_MARKS

FOLDER = "Nachlass Müller-Lüdenscheidt/1923–1927 Reisen/Ostsee, Sommerfrische mit den Großeltern/Filmrolle 12"
FILE = "IMG_20190701_120000_Großmutter_auf_der_Seebrücke.png"
_CUT = "(one) => one.scrollWidth > one.clientWidth"


@pytest.fixture
def renamed(searched: Searched, served: Services) -> Searched:
    """A search, of which the first candidate has a long name."""
    with transaction(served.sessions) as session:
        session.execute(sa.update(Item).where(Item.id == searched.items[0]).values(name=f"{FOLDER}/{FILE}"))
    return searched


@pytest.mark.parametrize("where", ["results", "gallery"])
def test_a_cut_name_keeps_the_name_of_the_file(page: Page, renamed: Searched, texts: str, where: str) -> None:
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"/jobs/{renamed.id}" if where == "results" else f"/collections/{texts}")
        link = page.get_by_role("link", name=f"{FOLDER}/{FILE}", exact=True)
        expect(link).to_have_attribute("title", f"{FOLDER}/{FILE}")
        # in a gallery the name is beside the link, on the picture
        named = link if where == "results" else page.locator(".tile").filter(has=link)
        file, folder = named.locator(".path-file"), named.locator(".path-folder")
        expect(file).to_have_text(FILE)
        assert not file.evaluate(_CUT)
        assert folder.evaluate(_CUT)
        box = folder.bounding_box()
        assert box is not None
        # one line
        assert box["height"] < 24
        assert page.evaluate("document.documentElement.scrollWidth") <= width
