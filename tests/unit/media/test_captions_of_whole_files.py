"""What is said of a whole document or film is said of each of its pages or frames that has no caption of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.media.films import film
from tests.unit.media.outcomes import Items, reason
from tests.unit.media.samples import packed, picture
from tests.unit.media.sheets.xmp_packets import packet
from tests.unit.media.test_parts import pages, plain
from tests.unit.media.test_sheet_rows import add_all, captions

from retllm.media.ingest import Ingest
from retllm.media.parts import BrokenPart
from retllm.uploads import whole_files

SCENES = film(plain(3), frames=15)
FRAMES = ["trip.mp4, 0:00", "trip.mp4, 0:01.5", "trip.mp4, 0:03"]
TAKEOUT = b'{"title": "trip.mp4", "description": "all of it", "photoTakenTime": {"timestamp": "1"}}'


@pytest.mark.parametrize("how", ["together", "ZIP", "later"])
@pytest.mark.parametrize(
    ("whole", "data", "says", "said", "parts"),
    [
        ("trip.mp4", SCENES, "trip.mp4.supplemental-metadata.json", TAKEOUT, FRAMES),
        ("trip.mp4", SCENES, "trip.mp4.json", TAKEOUT, FRAMES),
        ("trip.mp4", SCENES, "trip.xmp", packet(description="all of it"), FRAMES),
        ("trip.mp4", SCENES, "c.csv", b"file,caption\ntrip.mp4,all of it\n", FRAMES),
        (
            "scan.tif",
            pages(2),
            "scan.tif.xmp",
            packet(description="all of it"),
            ["scan.tif, page 1", "scan.tif, page 2"],
        ),
        ("scan.tif", pages(2), "scan.txt", b"all of it", ["scan.tif, page 1", "scan.tif, page 2"]),
        ("a/b.pdf", pages(2, "PDF"), "c.csv", b"file,caption\nB,all of it\n", ["a/b.pdf, page 1", "a/b.pdf, page 2"]),
    ],
)
def test_what_is_said_of_a_whole_file_is_the_caption_of_each_part(
    ingest: Ingest, items: Items, how: str, whole: str, data: bytes, says: str, said: bytes, parts: list[str]
) -> None:
    if how == "later":
        add_all(ingest, {whole: data})
    files = {says: said} if how == "later" else {whole: data, says: said}
    outcomes = add_all(ingest, {"x.zip": packed(files)} if how == "ZIP" else files)
    told = [(outcome.status, outcome.item_name) for outcome in outcomes if outcome.name.startswith(says)]
    assert told == [("updated", whole)]
    assert captions(items) == dict.fromkeys(parts, "all of it")


def test_a_film_of_one_scene_is_captioned_by_its_name(ingest: Ingest, items: Items) -> None:
    one = film(plain(1), frames=4)
    add_all(ingest, {"one.mp4": one, "c.csv": b"file,caption\none.mp4,a short film\n"})
    assert captions(items) == {"one.mp4, 0:00": "a short film"}


def test_what_is_said_of_a_part_goes_before_what_is_said_of_the_whole(ingest: Ingest, items: Items) -> None:
    files = {
        "scan.tif": pages(3),
        "a.csv": b"file,caption\nscan.tif,whole\n",
        "b.csv": b'file,caption\n"scan.tif, page 2",second\n',
        "fax.tif": pages(2, size=(30, 20)),
        "fax.txt": b"whole",
        "fax.tif, page 1.xmp": packet(description="first"),
    }
    outcomes = add_all(ingest, files)
    assert [reason(each) for each in outcomes if each.status == "rejected"] == []
    assert captions(items) == {
        "scan.tif, page 1": "whole",
        "scan.tif, page 2": "second",
        "scan.tif, page 3": "whole",
        "fax.tif, page 1": "first",
        "fax.tif, page 2": "whole",
    }


def test_a_record_of_a_film_without_a_description_has_no_caption(ingest: Ingest, items: Items) -> None:
    record = b'{"title": "trip.mp4", "description": "", "photoTakenTime": {"timestamp": "1"}}'
    outcomes = {each.name: each for each in add_all(ingest, {"trip.mp4": SCENES, "trip.mp4.json": record})}
    assert outcomes["trip.mp4.json"].status == "ignored"
    assert outcomes["trip.mp4.json"].remark == "It has no caption."
    assert captions(items) == dict.fromkeys(FRAMES)


def test_a_row_without_a_suffix_means_the_picture_and_not_the_film_beside_it(ingest: Ingest, items: Items) -> None:
    files = {"trip.mp4": SCENES, "trip.png": picture(), "c.csv": b"file,caption\ntrip,a picture\n"}
    add_all(ingest, files)
    assert captions(items) == dict.fromkeys(FRAMES) | {"trip.png": "a picture"}
    add_all(ingest, {"c.csv": io.BytesIO(b"file,caption\ntrip.mp4,a film\n")})
    assert captions(items) == dict.fromkeys(FRAMES, "a film") | {"trip.png": "a picture"}


def test_all_parts_with_other_captions_refuse_that_of_the_whole(ingest: Ingest, items: Items) -> None:
    sheet = b'file,caption\n"a.tif, page 1",one\n"a.tif, page 2",two\na.tif,whole\n'
    outcomes = add_all(ingest, {"a.tif": pages(2), "c.csv": sheet})
    assert [reason(each) for each in outcomes if each.status == "rejected"] == [
        "Row 4 gives the picture 'a.tif' another caption than c.csv, row 2: keep one of them."
    ]
    assert captions(items) == {"a.tif, page 1": "one", "a.tif, page 2": "two"}


@pytest.mark.parametrize("packing", ["alone", "ZIP"])
@pytest.mark.parametrize(
    ("first", "second", "data", "parts"),
    [
        ("trip.mp4", "2024/holiday.mp4", SCENES, FRAMES),
        ("scan.tif", "contract.tif", pages(2), ["scan.tif, page 1", "scan.tif, page 2"]),
    ],
    ids=["film", "TIFF"],
)
def test_a_file_that_came_again_under_another_name_is_found_by_both(
    ingest: Ingest, items: Items, first: str, second: str, data: bytes, parts: list[str], packing: str
) -> None:
    for name in (first, second, second):
        add_all(ingest, {"x.zip": packed({name: data})} if packing == "ZIP" else {name: data})
    for name, text in ((first, "one"), (second, "two")):
        outcomes = add_all(ingest, {"c.csv": f"file,caption\n{name},{text}\n".encode()})
        assert [outcome.status for outcome in outcomes] == ["updated"]
        assert captions(items) == dict.fromkeys(parts, text)
    add_all(ingest, {f"{second}.xmp": packet(description="three")})
    assert captions(items) == dict.fromkeys(parts, "three")


@pytest.mark.parametrize("name", ["scan.tif", "deep/scan.pdf"])
@pytest.mark.parametrize("when", ["together", "later"])
def test_the_only_page_of_a_file_is_found_as_its_first_one_too(
    ingest: Ingest, items: Items, name: str, when: str
) -> None:
    data = pages(1, "PDF") if name.endswith("pdf") else pages(1)
    sheet = {"c.csv": f'file,caption\n"{name}, page 1",the only page\n"{name}, page 2",none\n'.encode()}
    if when == "later":
        add_all(ingest, {name: data})
    outcomes = add_all(ingest, sheet if when == "later" else {name: data, **sheet})
    assert [each.status for each in outcomes if each.name.startswith("c.csv")] == ["updated", "rejected"]
    assert captions(items) == {name: "the only page"}


def test_the_first_page_that_was_refused_is_not_the_whole_file(
    ingest: Ingest, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_parts = whole_files.read_parts

    def broken(*arguments: Any) -> Iterator[Any]:
        first, *rest = read_parts(*arguments)
        yield BrokenPart(first.page, first.pages, None, "it is damaged")
        yield from rest

    monkeypatch.setattr(whole_files, "read_parts", broken)
    outcomes = add_all(ingest, {"scan.tif": pages(3), "c.csv": b'file,caption\n"scan.tif, page 1",first\n'})
    assert outcomes[-1].status == "rejected"
    assert set(captions(items).values()) == {None}
