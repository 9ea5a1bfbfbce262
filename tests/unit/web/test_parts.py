"""A page or frame says which part of which file it is, and leads to the file and to the other parts."""

from __future__ import annotations

import io
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.media.films import film
from tests.unit.media.test_parts import pages, plain
from tests.unit.web.conftest import Caller

from retllm.db.session import transaction
from retllm.db.tables import Source
from retllm_web.http.services import Services


def upload(caller: Caller, name: str, data: bytes) -> list[dict[str, Any]]:
    """Upload a file to a collection of its own; return its items, with the key of the collection."""
    collection = caller.post("/collections", json={"name": uuid.uuid4().hex}).json["id"]
    form = {"file": [(io.BytesIO(data), name)]}
    answer = caller.post(f"/collections/{collection}/items?index=false", data=form, content_type="multipart/form-data")
    assert answer.json["rejected"] == 0
    found: list[dict[str, Any]] = caller.get(f"/collections/{collection}/items").json["items"]
    return found


def test_an_item_names_its_page_and_its_file(ada: Caller) -> None:
    data = pages(2, "PDF")
    first, second = upload(ada, "dir/scan.pdf", data)
    assert ada.get(f"/items/{second['id']}").json == second
    assert second["part"] == {"page": 2, "pages": 2, "seconds": None, "label": "page 2 of 2"}
    assert second["source"] == first["source"]
    assert {key: second["source"][key] for key in ("name", "media_type", "size_bytes")} == {
        "name": "dir/scan.pdf",
        "media_type": "application/pdf",
        "size_bytes": len(data),
    }
    (plain_text,) = upload(ada, "a.txt", b"words")
    assert (plain_text["part"], plain_text["source"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "data", "media_type"),
    [
        ("scan.pdf", pages(2, "PDF"), "application/pdf"),
        ("scan.tif", pages(2), "image/tiff"),
        ("scan.mp4", film(plain(2)), "video/mp4"),
    ],
)
def test_the_whole_file_is_an_attachment(
    name: str, data: bytes, media_type: str, ada: Caller, served: Services
) -> None:
    items = upload(ada, name, data)
    answer = ada.get(f"/items/{items[1]['id']}/source")
    assert (answer.status_code, answer.data, answer.mimetype) == (200, data, media_type)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "private, max-age=3600"
    again = ada.get(f"/items/{items[0]['id']}/source", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    # never shown by the browser, whatever a row says
    with transaction(served.sessions) as session:
        session.execute(
            sa.update(Source).where(Source.id == uuid.UUID(items[0]["source"]["id"])).values(media_type="text/html")
        )
    assert ada.get(f"/items/{items[0]['id']}/source").mimetype == "application/octet-stream"


def test_an_item_of_its_own_has_no_whole_file(ada: Caller) -> None:
    (item,) = upload(ada, "a.tif", pages(1))
    assert ada.get(f"/items/{item['id']}/source").status_code == 404
    (page,) = upload(ada, "a.pdf", pages(1, "PDF"))
    assert ada.delete(f"/items/{page['id']}").status_code == 204
    assert ada.get(f"/items/{page['id']}/source").status_code == 404
