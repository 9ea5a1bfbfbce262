"""JSON that is named like the picture beside it is a sheet if it captions others."""

from __future__ import annotations

import pytest
from tests.unit.media.outcomes import Items
from tests.unit.media.samples import as_json, picture
from tests.unit.media.test_sheet_rows import add_all, captions

from retllm.media.ingest import Ingest

COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
    "annotations": [{"image_id": 1, "caption": "A"}, {"image_id": 2, "caption": "B"}],
}


@pytest.mark.parametrize(
    "value",
    [
        COCO,
        {"description": "a set", **COCO},
        {"a.png": "A", "b.png": "B"},
        {"data": [{"file": "a.png", "caption": "A"}, {"file": "b.png", "caption": "B"}]},
    ],
)
@pytest.mark.parametrize("name", ["a.json", "cover.json", "a.png.json"])
def test_a_sheet_that_is_named_like_a_picture_is_a_sheet(
    value: dict[str, object], name: str, ingest: Ingest, items: Items
) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "cover.preview.png": picture(3), name: as_json(value)}
    add_all(ingest, files)
    assert captions(items) == {"a.png": "A", "b.png": "B", "cover.preview.png": None}


def test_a_sheet_of_another_picture_alone_is_no_empty_sidecar(ingest: Ingest, items: Items) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "a.json": as_json({"b.png": "B"})}
    add_all(ingest, files)
    assert captions(items) == {"a.png": None, "b.png": "B"}


@pytest.mark.parametrize(
    "value",
    [
        {"file_name": "b.png", "caption": "B"},
        {
            "description": "a set",
            "images": [{"id": 2, "file_name": "b.png"}],
            "annotations": [{"image_id": 2, "caption": "B"}],
        },
    ],
)
def test_an_object_that_names_another_picture_is_for_that_one(
    value: dict[str, object], ingest: Ingest, items: Items
) -> None:
    add_all(ingest, {"a.png": picture(1), "b.png": picture(2), "a.json": as_json(value)})
    assert captions(items) == {"a.png": None, "b.png": "B"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a.json", {"url": "https://host/7.jpg", "caption": "A"}),
        ("a.json", {"file_name": "a.png", "caption": "A"}),
        ("a.png.json", {"a.png": "A"}),
        # Google Takeout: the title is the name before the file was counted
        ("a.png.json", {"title": "b.png", "description": "A"}),
    ],
)
def test_an_object_that_names_no_other_picture_is_for_the_one_beside_it(
    name: str, value: dict[str, object], ingest: Ingest, items: Items
) -> None:
    add_all(ingest, {"a.png": picture(1), "b.png": picture(2), name: as_json(value)})
    assert captions(items) == {"a.png": "A", "b.png": None}


@pytest.mark.parametrize("beside", [{}, {"a.png": picture(1)}], ids=["both earlier", "one earlier"])
@pytest.mark.parametrize(
    "value", [{"file_name": "b.png", "caption": "B"}, {"b.png": "B"}, {"data": [{"file": "b.png", "caption": "B"}]}]
)
def test_the_picture_that_an_object_names_may_have_come_earlier(
    value: object, beside: dict[str, bytes], ingest: Ingest, items: Items
) -> None:
    add_all(ingest, {"a.png": picture(1), "b.png": picture(2)} if not beside else {"b.png": picture(2)})
    add_all(ingest, beside | {"a.json": as_json(value)})
    assert captions(items) == {"a.png": None, "b.png": "B"}


@pytest.mark.parametrize("earlier", [False, True])
def test_the_address_of_a_picture_says_nothing_of_another_one_with_its_last_part(
    earlier: bool, ingest: Ingest, items: Items
) -> None:
    pictures = {"00001.png": picture(1), "x/7.png": picture(2), "7.png": picture(3)}
    said = {"00001.json": as_json({"url": "https://host/7.png", "caption": "A", "key": "00001"})}
    for files in [pictures, said] if earlier else [pictures | said]:
        add_all(ingest, files)
    assert captions(items) == {"00001.png": "A", "x/7.png": None, "7.png": None}
