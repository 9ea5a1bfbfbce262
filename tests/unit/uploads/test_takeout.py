"""Google Takeout: edited pictures share the sidecar of the one that they were made of, and texts are as in HTML."""

from __future__ import annotations

import json

import pytest
from tests.unit.uploads.conftest import Uploads, packed, picture


def sidecar(description: str, **fields: object) -> bytes:
    return json.dumps(
        {"title": "x", "description": description, "photoTakenTime": {"timestamp": "1"}} | fields
    ).encode()


def captions(uploads: Uploads) -> dict[str, str | None]:
    return {name: item.text for name, item in uploads.items().items()}


@pytest.mark.parametrize(
    ("name", "edited", "said"),
    [
        ("a.png", "a-edited.png", "a.png.json"),
        ("a.png", "a-edited.png", "a.png.supplemental-metadata.json"),
        ("a.png", "a-bearbeitet.png", "a.png.suppl.json"),
        ("a.png", "a-EDITED.png", "a.png.json"),
        ("a.heic.png", "a.heic-edited.png", "a.heic.png.json"),
        ("a(1).png", "a-edited(1).png", "a.png(1).json"),
        ("a(1).png", "a-edited(1).png", "a(1).png.json"),
        ("é.png", "é-modifié.png", "é.png.json"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("packing", [False, True])
def test_an_edited_picture_shares_the_sidecar(
    uploads: Uploads, name: str, edited: str, said: str, later: bool, packing: bool
) -> None:
    pictures = {f"x/{name}": picture(1), f"x/{edited}": picture(2), f"y/{edited}": picture(3)}
    text = {f"x/{said}": sidecar("words")}
    for files in [pictures, text] if later else [pictures | text]:
        uploads.upload({"t.zip": packed(files)} if packing else files)
    assert captions(uploads) == {f"x/{name}": "words", f"x/{edited}": "words", f"y/{edited}": None}


def test_an_edited_picture_with_a_sidecar_of_its_own_has_that(uploads: Uploads) -> None:
    uploads.upload({"a.png": picture(1), "a-edited.png": picture(2), "b-edited.jpg": picture(3), "b.heic.json": b"{}"})
    uploads.upload({"a.png.json": sidecar("old"), "a-edited.png.json": sidecar("new"), "b.heic.json": sidecar("b")})
    assert captions(uploads) == {"a.png": "old", "a-edited.png": "new", "b-edited.jpg": "b"}


def test_archives_that_share_a_picture_and_its_edited_one_refuse_no_sidecar(uploads: Uploads) -> None:
    uploads.upload({"t-001.zip": packed({"a.png": picture(1)}), "t-002.zip": packed({"a-edited.png": picture(2)})})
    uploads.upload({"t-003.zip": packed({"a.png.json": sidecar("words")})})
    assert captions(uploads)["a.png"] == "words"


def test_other_sidecars_are_for_one_picture(uploads: Uploads) -> None:
    uploads.upload({"a.png": picture(1), "a-edited.png": picture(2), "a.txt": b"words", "a.png.xmp": b""})
    assert captions(uploads) == {"a.png": "words", "a-edited.png": None}


def test_a_description_is_written_as_in_html(uploads: Uploads) -> None:
    said = {
        "a.png.json": sidecar("Tom &amp; Bob&#39;s &lt;3"),
        "b.png.json": json.dumps({"caption": "R&amp;D"}).encode(),
    }
    uploads.upload({"a.png": picture(1), "b.png": picture(2)} | said)
    assert captions(uploads) == {"a.png": "Tom & Bob's <3", "b.png": "R&amp;D"}
