"""Of pictures whose names look the same each gets what a later upload says of its very name."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from urllib.parse import quote

import pytest
from tests.soak import crossed
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


@pytest.mark.parametrize(
    ("other", "form", "later"), crossed(PAIRS, [".txt", ".png.txt", ".caption.txt", ".png.json"], [False, True])
)
def test_a_loose_sidecar_is_that_of_the_picture_with_its_very_name(
    uploads: Uploads, other: tuple[str, str], form: str, later: bool
) -> None:
    said = TAKEOUT if form.endswith(".json") else b"by a file"
    one, two = picture(1), picture(2)
    archive = {"a.zip": packed({f"{other[0]}.png": one, f"{other[1]}.png": two})}
    sidecar = {f"{other[0]}{form}": said}
    for some in [archive, sidecar] if later else [sidecar | archive]:
        uploads.upload(some)
    assert captions(uploads, one, two) == ["by a file", None]


@pytest.mark.parametrize(("other", "form", "loose"), crossed(PAIRS, [".txt", ".png.json"], [False, True]))
def test_the_sidecar_of_a_rejected_picture_captions_none_whose_name_looks_the_same(
    uploads: Uploads, other: tuple[str, str], form: str, loose: bool
) -> None:
    said = TAKEOUT if form.endswith(".json") else b"by a file"
    uploads.upload({"a.zip": packed({f"{other[0]}.png": b"broken", f"{other[1]}.png": picture(2)})})
    sidecar = {f"{other[0]}{form}": said}
    late = uploads.upload(sidecar if loose else {"a.zip": packed(sidecar)})
    assert captions(uploads, picture(2)) == [None]
    (told,) = [str(row.error) for name, row in uploads.rows(late).items() if name.endswith(form)]
    assert "was rejected" in told


def test_sidecars_in_another_archive_of_the_upload_are_those_of_the_pictures_with_their_very_names(
    uploads: Uploads,
) -> None:
    """Of three names that look the same, in another order than the pictures."""
    names = ["a  b", "a   b", "a\u200f b"]
    pictures = [picture(number) for number in range(3)]
    shown = packed({f"{name}.png": one for name, one in zip(names, pictures, strict=True)})
    for name in names[1:]:
        uploads.upload({"p.zip": shown, "t.zip": packed({f"{name}.txt": f"of {name!r}".encode()})})
    assert captions(uploads, *pictures) == [None, *(f"of {name!r}" for name in names[1:])]


@pytest.mark.parametrize("other", PAIRS)
def test_a_sidecar_captions_the_picture_whose_name_looks_the_same_if_there_is_no_other(
    uploads: Uploads, other: tuple[str, str]
) -> None:
    uploads.upload({f"{other[1]}.png": picture(1), f"{other[0]}.txt": b"by a file"})
    assert captions(uploads, picture(1)) == ["by a file"]


@pytest.mark.parametrize(
    ("other", "before", "later"), crossed(PAIRS, ["", "https://host/", "file:///home/", "/home/me/"], [False, True])
)
def test_a_row_may_write_the_very_name_of_a_picture_with_percent_signs(
    uploads: Uploads, other: tuple[str, str], before: str, later: bool
) -> None:
    one, two = picture(1), picture(2)
    files = {f"{other[0]}.png": one, f"{other[1]}.png": two}
    rows = [f"{before}{quote(name)}.png,{text}" for name, text in zip(other, ("first", "second"), strict=True)]
    sheet: Files = {"captions.csv": "\n".join(["file,caption", *rows]).encode()}
    sent = [{"a.zip": packed(files)}, sheet] if later else [{"a.zip": packed({**files, **sheet})}]
    jobs = [uploads.upload(some) for some in sent]
    outcomes = [(row.name, row.status, row.error) for job in jobs for row in uploads.rows(job).values()]
    errors = [unit.error for job in jobs for unit in uploads.world.units(job)]
    assert captions(uploads, one, two) == ["first", "second"], (outcomes, errors)


@pytest.mark.parametrize("other", PAIRS)
@pytest.mark.parametrize("said", ["by a row", "by a file"])
def test_the_very_name_of_an_earlier_picture_means_none_of_this_upload_that_looks_the_same(
    uploads: Uploads, other: tuple[str, str], said: str
) -> None:
    one, two = picture(1), picture(2)
    uploads.upload({"a.zip": packed({f"{name}.png": each for name, each in zip(other, (one, two), strict=True)})})
    sheet = f"file,caption\n{quote(other[0])}.png,by a row\n".encode()
    says = {"c.csv": sheet} if said == "by a row" else {f"{other[0]}.txt": b"by a file"}
    uploads.upload({f"{other[1]}.png": two, **says})
    assert captions(uploads, one, two) == [said, None]


@pytest.mark.parametrize("other", PAIRS)
def test_a_row_with_the_very_name_of_a_rejected_picture_captions_none_that_looks_the_same(
    uploads: Uploads, other: tuple[str, str]
) -> None:
    uploads.upload({"a.zip": packed({f"{other[0]}.png": b"broken", f"{other[1]}.png": picture(2)})})
    late = uploads.upload({"c.csv": f"file,caption\n{quote(other[0])}.png,x\n".encode()})
    assert "was rejected" in str(uploads.rows(late)["c.csv, row 2"].error)
    assert captions(uploads, picture(2)) == [None]


SPACED = ["my photo.png", "my  photo.png", "my\u00a0photo.png", "my photo\u200f.png"]


@pytest.mark.parametrize(("before", "name", "row"), crossed(["", "https://host/", "file:///"], SPACED, SPACED))
def test_an_address_finds_the_only_picture_whose_name_looks_like_its_decoded_form(
    uploads: Uploads, before: str, name: str, row: str
) -> None:
    sheet = f"file,caption\n{before}{quote(row)},found\n".encode()
    uploads.upload({"a.zip": packed({name: picture(1), "other.png": picture(2), "c.csv": sheet})})
    assert captions(uploads, picture(1), picture(2)) == ["found", None]


@pytest.mark.parametrize("name", SPACED[1:])
@pytest.mark.parametrize("before", ["", "https://host/"])
def test_an_address_means_the_picture_of_its_decoded_name_beside_one_that_looks_the_same(
    uploads: Uploads, before: str, name: str
) -> None:
    sheet = f"file,caption\n{before}my%20photo.png,found\n".encode()
    uploads.upload({"a.zip": packed({name: picture(1), "my photo.png": picture(2), "c.csv": sheet})})
    assert captions(uploads, picture(1), picture(2)) == [None, "found"]


@pytest.mark.parametrize(
    ("row", "meant"),
    [
        ("my%20photo.png", "my%20photo.png"),
        ("https://host/my%20photo.png", "my photo.png"),
        ("https://host/my%2520photo.png", "my%20photo.png"),
        ("d/my%20photo.png", "d/my photo.png"),
        ("./my%20photo%E2%80%8F.png", "my photo.png"),
    ],
)
def test_a_name_that_has_a_percent_sign_itself_is_told_from_an_encoded_one(
    uploads: Uploads, row: str, meant: str
) -> None:
    files = {name: picture(n) for n, name in enumerate(["my photo.png", "my%20photo.png", "d/my photo.png"])}
    uploads.upload({**files, "c.csv": f"file,caption\n{row},found\n".encode()})
    assert {name for name, item in uploads.items().items() if item.text} == {meant}
