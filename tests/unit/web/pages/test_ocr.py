"""The page of the text in pictures says what is read, starts the job, and leads to what has text; without scripts."""

from __future__ import annotations

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pictures import picture
from tests.unit.web.test_item_changes import added
from tests.unit.web.test_ocr import TEXT, pictures, recognizer

from retllm.ocr import reader as reading
from retllm.ocr import worker as ocr
from retllm.ocr.reader import PictureText
from retllm_web.actions import ocr as actions

__all__ = ["pictures", "recognizer"]


@pytest.fixture
def address(birds: str) -> str:
    return f"/collections/{birds}/ocr"


def read(reader: Visitor, address: str, **fields: str) -> None:
    """Press a button of the page."""
    reader.get(address)
    reader.send(address, **fields)


def test_the_page_leads_from_the_collection_to_the_job_and_to_what_has_text(
    reader: Visitor, birds: str, address: str, pictures: dict[str, str]
) -> None:
    page = reader.get(f"/collections/{birds}")
    assert address in [link.attributes.get("href") for link in page.all("a")]
    page = reader.get(address)
    assert "The text in these pictures has not been read yet" in page.text
    page = reader.send(address)
    assert page.path.startswith("/jobs/")
    assert page.one("h1").text == "Text in pictures"
    assert address in [link.attributes.get("href") for link in page.all("a")]
    page = reader.get(address)
    assert "All pictures are read" in page.text
    found = next(link for link in page.all("a") if link.text == "Items with text in their picture")
    tiles = reader.get(str(found.attributes["href"])).all("a", class_="tile-picture")
    assert [tile.attributes["title"] for tile in tiles] == ["sign.png"]


def test_what_was_added_since_is_out_of_date_and_all_can_be_read_again(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str]
) -> None:
    read(reader, address)
    added(ada, birds, ("new.png", picture("rgb(9,0,0)")))
    page = reader.get(address)
    assert "One picture has not been read: it was added since, or could not be read." in page.text
    assert "not read yet" in reader.get(f"/collections/{birds}").one("a", href=address).text
    read(reader, address, again="1")
    assert "All pictures are read" in reader.get(address).text


def test_the_text_is_on_the_page_of_the_item_and_folded_if_it_is_long(
    reader: Visitor, ada: Caller, birds: str, address: str, pictures: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = f"/items/{pictures['sign.png']}"
    assert "Text in the picture" not in reader.get(page).text
    read(reader, address)
    shown = reader.get(page)
    assert (TEXT in shown.text, "75% sure" in shown.text) == (True, True)
    assert "Text in the picture" not in reader.get(f"/items/{pictures['plain.png']}").text

    class Long:
        def read(self, picture: object, max_chars: int) -> PictureText:
            return PictureText("<b>harbour</b>\n" * 100, 0.5)

    monkeypatch.setattr(ocr, "reader_of", lambda _: Long())
    read(reader, address, again="1")
    shown = reader.get(page)
    folded = [one for one in shown.all("details") if "harbour" in one.text]
    assert len(folded) == 1
    assert "<b>harbour</b>" in folded[0].text, "it is shown as text"


def test_without_the_packages_the_page_says_what_to_install(
    reader: Visitor, address: str, pictures: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "pip install" not in reader.get(address).text
    monkeypatch.setattr(reading, "_PACKAGES", ("a_package_that_is_not_there",))
    assert actions.is_installed() is False
    assert "pip install 'retllm-platform[ocr]'" in reader.get(address).text


def test_the_reason_why_nothing_is_read_is_shown(reader: Visitor, address: str) -> None:
    reader.get(address)
    page = reader.send(address)
    assert "The collection is empty: upload something first." in page.text
