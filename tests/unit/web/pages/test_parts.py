"""The pages show which part of a file an item is, with links to the file and to the other parts."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from tests.unit.media.films import film
from tests.unit.media.test_parts import pages, plain
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.test_parts import upload

from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm_web.http.services import Services


def test_a_page_leads_to_the_file_and_to_the_pages_around_it(ada: Caller, reader: Visitor, served: Services) -> None:
    items = upload(ada, "scan.pdf", pages(3, "PDF"))
    first, second, third = (item["id"] for item in items)
    # as after the second page was deleted and added again
    with transaction(served.sessions) as session:
        for key, page in ((second, 3), (third, 2)):
            session.execute(sa.update(Item).where(Item.id == uuid.UUID(key)).values(part={"page": page, "pages": 3}))
    shown = reader.get(f"/items/{first}")
    assert "Page 1 of 3 in scan.pdf" in " ".join(shown.text.split())
    assert shown.one("a", href=f"/api/v1/items/{first}/source").text == "scan.pdf"
    assert "This is the first page." in shown.text
    (link,) = [element for element in shown.all("a") if element.text == "Next page"]
    assert link.attributes["href"] == f"/items/{third}"
    shown = reader.get(f"/items/{third}")
    links = {element.text: element.attributes["href"] for element in shown.all("a")}
    assert (links["Previous page"], links["Next page"]) == (f"/items/{first}", f"/items/{second}")
    listed = reader.get(f"/collections/{items[0]['collection_id']}")
    assert "Page 3 of 3" in listed.text
    assert listed.one("a", href=f"/api/v1/items/{second}/source").text == "whole file"


def test_a_frame_shows_its_time_in_its_film(ada: Caller, reader: Visitor) -> None:
    items = upload(ada, "film.mp4", film(plain(2)))
    shown = reader.get(f"/items/{items[1]['id']}")
    assert "At 0:01 of film.mp4" in " ".join(shown.text.split())
    assert "This is the last frame." in shown.text
