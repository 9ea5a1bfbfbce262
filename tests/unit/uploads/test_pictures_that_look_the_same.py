"""Folders, archives and uploads tell pictures apart before their very names do, whose codes are no other names."""

from __future__ import annotations

import hashlib
import io
import json

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.soak import crossed
from tests.unit.uploads.conftest import Files, Uploads, packed, picture
from tests.unit.uploads.test_awaited_archives import announced

from retllm.db.tables import Item
from retllm.media.names import coded

C, D = "caf\u00e9", "cafe\u0301"
ONE, TWO, THREE = map(picture, range(3))
TWINS: Files = {f"{C}.png": ONE, f"{D}.png": TWO}
SAID = b"by a file"


def captions(uploads: Uploads, *contents: bytes) -> list[str | None]:
    with uploads.world.sessions() as session:
        found = {item.content_sha256: item.text for item in session.scalars(sa.select(Item))}
    return [found[hashlib.sha256(content).hexdigest()] for content in contents]


def by_row(row: str) -> bytes:
    return f"file,caption\n{row},by a file\n".encode()


def pages(number: int) -> bytes:
    file = io.BytesIO()
    first, second = (Image.new("RGB", (24, 16), (number, page, 77)) for page in range(2))
    first.save(file, "TIFF", save_all=True, append_images=[second])
    return file.getvalue()


COCO = json.dumps(
    {"images": [{"id": 1, "file_name": f"b/{D}.png"}], "annotations": [{"image_id": 1, "caption": "by a file"}]}
)


@pytest.mark.parametrize(
    ("says", "below", "how"),
    crossed(
        [
            {"s.csv": by_row(f"b/{D}.png")},
            {"b/s.csv": by_row(f"{D}.png")},
            {"annotations/s.json": COCO.encode()},
            {f"b/{D}.txt": SAID},
            {f"captions/b/{D}.txt": SAID},
        ],
        [f"b/{C}.png", f"b/{D}.png"],
        ["one archive", "one upload", "two uploads"],
    ),
)
def test_folders_tell_before_the_very_name(uploads: Uploads, says: Files, below: str, how: str) -> None:
    if how == "one archive":
        uploads.upload({"a.zip": packed({**TWINS, below: THREE, **says})})
    elif how == "one upload":
        uploads.upload({"a.zip": packed(TWINS), below: THREE, **says})
    else:
        uploads.upload({"a.zip": packed(TWINS)})
        uploads.upload({below: THREE, **says})
    assert captions(uploads, ONE, TWO, THREE) == [None, None, "by a file"]


SAYS: list[Files] = [{f"{D}.txt": SAID}, {f"{D}.png.txt": SAID}, {"s.csv": by_row(f"{D}.png")}]


@pytest.mark.parametrize("says", SAYS)
@pytest.mark.parametrize("how", ["loose", "after it", "other archive", "same upload", "archive of the name"])
def test_a_new_picture_has_what_comes_with_it_and_not_one_before(uploads: Uploads, says: Files, how: str) -> None:
    new = {f"{D}.png": THREE}
    if how == "same upload":
        uploads.upload({"one.zip": packed(TWINS), "two.zip": packed(new | says)})
    else:
        uploads.upload({"one.zip": packed(TWINS)})
        if how == "after it":
            uploads.upload(new)
            uploads.upload(says)
        else:
            name = "one.zip" if how == "archive of the name" else "two.zip"
            uploads.upload(new | says if how == "loose" else {name: packed(new | says)})
    assert captions(uploads, ONE, TWO, THREE) == [None, None, "by a file"]


def test_a_sidecar_of_two_pictures_of_its_very_name_that_are_equally_near_is_rejected(uploads: Uploads) -> None:
    late = uploads.upload(
        {"one.zip": packed(TWINS), "two.zip": packed({f"{D}.png": THREE}), "t.zip": packed({f"{D}.txt": SAID})}
    )
    assert captions(uploads, ONE, TWO, THREE) == [None, None, None]
    assert "fits 2 pictures" in str(uploads.rows(late)[f"{C}.txt"].error)


@pytest.mark.parametrize("says", SAYS)
def test_what_is_said_of_a_picture_that_is_still_to_come_captions_none_that_looks_the_same(
    uploads: Uploads, says: Files
) -> None:
    uploads.upload({f"{C}.png": ONE})
    first = announced(uploads, [f"{C}.png", coded(f"{D}.png")])
    early = uploads.upload(says)
    assert captions(uploads, ONE) == [None]
    assert any("another upload is still bringing" in str(row.error) for row in uploads.rows(early).values())
    uploads.close(first)


@pytest.mark.parametrize("says", SAYS)
@pytest.mark.parametrize("after", [False, True])
def test_a_picture_whose_very_name_a_rejected_one_had_has_what_is_said_of_it(
    uploads: Uploads, says: Files, after: bool
) -> None:
    uploads.upload({"a.zip": packed({f"{C}.png": ONE, f"{D}.png": b"broken"})})
    good = {f"{D}.png": THREE}
    for some in [good, says] if after else [good | says]:
        uploads.upload(some)
    assert captions(uploads, ONE, THREE) == [None, "by a file"]


@pytest.mark.parametrize("later", [False, True])
def test_a_sidecar_of_the_very_name_of_one_picture_is_not_for_one_of_another_format(
    uploads: Uploads, later: bool
) -> None:
    pictures, says = {f"{C}.png": ONE, f"{D}.jpg": TWO}, {f"{D}.txt": SAID}
    for some in [pictures, says] if later else [pictures | says]:
        uploads.upload({"a.zip": packed(some)})
    assert captions(uploads, ONE, TWO) == [None, "by a file"]


@pytest.mark.parametrize("says", SAYS)
@pytest.mark.parametrize("before", [THREE, b"broken"])
def test_a_new_picture_has_what_comes_with_it_if_no_names_of_earlier_ones_look_the_same(
    uploads: Uploads, says: Files, before: bytes
) -> None:
    uploads.upload({f"{D}.png": before})
    uploads.upload({f"{C}.png": ONE, **says})
    assert captions(uploads, ONE) == ["by a file"]


@pytest.mark.parametrize("later", [False, True])
def test_a_sidecar_whose_picture_did_not_come_is_no_text_beside_one_that_looks_the_same(
    uploads: Uploads, later: bool
) -> None:
    pictures, says = {f"{C}.png": ONE}, {f"{C}.txt": b"mine", f"{D}.txt": SAID}
    for some in [pictures, says] if later else [pictures | says]:
        job_id = uploads.upload({"a.zip": packed(some)})
    assert list(uploads.items()) == [f"{C}.png"]
    assert captions(uploads, ONE) == ["mine"]
    assert "the exact names differ" in str(uploads.rows(job_id)[coded(f"{D}.txt")].error)


def test_texts_whose_names_look_the_same_are_items(uploads: Uploads) -> None:
    uploads.upload({"a.zip": packed({f"{C}.txt": b"one text", f"{D}.txt": b"other text"})})
    assert {item.text for item in uploads.items().values()} == {"one text", "other text"}


@pytest.mark.parametrize("says", [{f"{D}.txt": SAID}, {"s.csv": by_row(f"{D}.tiff")}])
def test_a_whole_file_whose_very_name_a_rejected_one_had_has_what_is_said_of_it(uploads: Uploads, says: Files) -> None:
    uploads.upload({"a.zip": packed({f"{C}.tiff": pages(1), f"{D}.tiff": b"broken"})})
    uploads.upload({f"{D}.tiff": pages(2)})
    uploads.upload(says)
    with uploads.world.sessions() as session:
        assert list(session.scalars(sa.select(Item.text).order_by(Item.id))) == [None] * 2 + ["by a file"] * 2
