"""Of pictures whose names look the same each gets what a later upload says of its very name."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from urllib.parse import quote

import pytest
from tests.unit.uploads.conftest import Files, Uploads, packed, picture

PAIRS = [(unicodedata.normalize("NFD", "x/é"), "x/é"), ("x/a  b", "x/a b"), ("a\u200f", "a")]
TAKEOUT = json.dumps({"title": "x", "description": "by a file", "photoTakenTime": {}}).encode()


def captions(uploads: Uploads, *contents: bytes) -> list[str | None]:
    by_content = {item.content_sha256: item.text for item in uploads.items().values()}
    return [by_content[hashlib.sha256(content).hexdigest()] for content in contents]


@pytest.mark.parametrize("other", PAIRS)
@pytest.mark.parametrize("form", [".txt", ".png.txt", ".caption.txt", ".png.json", ".png.supplemental-metadata.json"])
def test_a_later_sidecar_is_that_of_the_picture_with_its_very_name(
    uploads: Uploads, other: tuple[str, str], form: str
) -> None:
    said = TAKEOUT if form.endswith(".json") else b"by a file"
    pictures = [picture(1), picture(2)]
    uploads.upload({"a.zip": packed({f"{name}.png": one for name, one in zip(other, pictures, strict=True)})})
    for name, one in zip(other, pictures, strict=True):
        uploads.upload({"a.zip": packed({f"{name}{form}": said, f"y/{name}{form}": said})})
        assert captions(uploads, one) == ["by a file"]
        if name is other[0]:
            assert captions(uploads, pictures[1]) == [None]


@pytest.mark.parametrize("other", PAIRS)
@pytest.mark.parametrize("before", ["", "https://host/", "file:///home/", "/home/me/"])
@pytest.mark.parametrize("later", [False, True])
def test_a_row_may_write_the_very_name_of_a_picture_with_percent_signs(
    uploads: Uploads, other: tuple[str, str], before: str, later: bool
) -> None:
    one, two = picture(1), picture(2)
    files = {f"{other[0]}.png": one, f"{other[1]}.png": two}
    rows = [f"{before}{quote(name)}.png,{text}" for name, text in zip(other, ("first", "second"), strict=True)]
    sheet: Files = {"captions.csv": "\n".join(["file,caption", *rows]).encode()}
    for some in [{"a.zip": packed(files)}, sheet] if later else [{"a.zip": packed({**files, **sheet})}]:
        uploads.upload(some)
    assert captions(uploads, one, two) == ["first", "second"]
