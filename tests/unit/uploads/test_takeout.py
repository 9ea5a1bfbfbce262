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


def part(number: int, export: str = "takeout-20240102T030405Z") -> str:
    return f"{export}-00{number}.zip"


@pytest.mark.parametrize(
    ("picture_in", "edited_in", "sidecar_in", "later"),
    [(1, 1, 2, False), (1, 1, 2, True), (1, 2, 1, False), (2, 1, 1, False), (1, 2, 3, False), (1, 2, 3, True)],
)
def test_an_export_that_is_split_over_archives_is_one_folder(
    picture_in: int, edited_in: int, sidecar_in: int, later: bool, uploads: Uploads
) -> None:
    archives: dict[int, dict[str, bytes]] = {number: {} for number in {picture_in, edited_in, sidecar_in}}
    archives[picture_in]["x/a.png"] = picture(1)
    archives[edited_in]["x/a-edited.png"] = picture(2)
    archives[sidecar_in]["x/a.png.json"] = sidecar("words")
    files = {number: {part(number): packed(inside)} for number, inside in archives.items()}
    last = files.pop(sidecar_in) if later else {}
    for some in [{name: data for each in files.values() for name, data in each.items()}, last]:
        if some:
            uploads.upload(some)
    found = captions(uploads)
    assert (found["x/a.png"], found["x/a-edited.png"]) == ("words", "words")


@pytest.mark.parametrize(
    "other", ["holiday-002.zip", "takeout-20230101T000000Z-002.zip", "a/takeout-20240102T030405Z-002.zip"]
)
def test_an_edited_picture_of_another_export_shares_nothing(other: str, uploads: Uploads) -> None:
    one = {"x/a.png": picture(1), "x/a.png.json": sidecar("words")}
    uploads.upload({part(1): packed(one), other: packed({"x/a-edited.png": picture(2)})})
    assert captions(uploads) == {"x/a.png": "words", "x/a-edited.png": None}


def test_pictures_of_one_export_that_differ_under_one_name_share_nothing(uploads: Uploads) -> None:
    one = {"x/a.png": picture(1), "x/a.png.json": sidecar("words")}
    two = {"x/a.png": picture(3), "x/a-edited.png": picture(2)}
    uploads.upload({part(1): packed(one), part(2): packed(two)})
    assert captions(uploads)["x/a-edited.png"] is None


def test_each_sidecar_of_one_name_is_for_the_pictures_in_its_archive(uploads: Uploads) -> None:
    one = {"x/a.png": picture(1), "x/a.png.json": sidecar("old")}
    two = {"x/a-edited.png": picture(2), "x/a.png.json": sidecar("new")}
    uploads.upload({part(1): packed(one), part(2): packed(two)})
    assert captions(uploads) == {"x/a.png": "old", "x/a-edited.png": "new"}


@pytest.mark.parametrize("packing", [False, True])
def test_a_record_whose_name_fits_no_picture_is_for_the_one_of_its_title(uploads: Uploads, packing: bool) -> None:
    files = {
        "x/a.png": picture(1),
        "x/a-edited.png": picture(2),
        "x/b & c.png": picture(3),
        "x/d.png": picture(4),
        "y/a.png": picture(5),
        "x/other.json": sidecar("of a", title="a.png"),
        "x/b.png.supplemental-metadata.json": sidecar("of b", title="b & c.png"),
        "x/empty.json": sidecar("", title="d.png"),
    }
    job_id = uploads.upload({"t.zip": packed(files)} if packing else files)
    expected = {"x/a.png": "of a", "x/a-edited.png": "of a", "x/b & c.png": "of b", "x/d.png": None, "y/a.png": None}
    assert captions(uploads) == expected
    assert uploads.rows(job_id)["x/empty.json"].remark == "It has no caption."


def test_a_title_that_may_be_that_of_another_picture_captions_none(uploads: Uploads) -> None:
    pictures = {f"x/{name}.png": picture(number) for number, name in enumerate("abcd")}
    said = {
        # of a(1).png, which is not there
        "x/a.png(1).json": sidecar("counted", title="a.png"),
        "x/a.png.supplemental-metadata(2).json": sidecar("counted", title="a.png"),
        "x/one.json": sidecar("first", title="b.png"),
        "x/two.json": sidecar("second", title="b.png"),
        "x/c.png.json": sidecar("of c", title="c.png"),
        "x/three.json": sidecar("not of c", title="c.png"),
        "y/four.json": sidecar("elsewhere", title="d.png"),
        "x/five.json": sidecar("path", title="../x/d.png"),
        "x/six.json": json.dumps({"title": "d.png", "description": "no record"}).encode(),
    }
    job_id = uploads.upload(pictures | said)
    assert captions(uploads) == dict.fromkeys(pictures) | {"x/c.png": "of c"}
    assert {name for name, row in uploads.rows(job_id).items() if row.status == "rejected"} >= said.keys() - {
        "x/c.png.json"
    }


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
