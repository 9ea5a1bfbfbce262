"""A file beside a picture is the caption of this one, never an item of its own."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.media.outcomes import Items, reason, statuses
from tests.unit.media.samples import as_json, packed, picture
from tests.unit.media.sheets.xmp_packets import packet
from tests.unit.media.test_sheet_rows import add_all, captions

from retllm.media.ingest import Ingest
from retllm.media.sheets.sidecars import Beside, cut_path, places


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        ("x/a.txt", [Beside("x/a")]),
        ("a.v2.caption", [Beside("a.v2")]),
        ("a.jpg.txt", [Beside("a", ".jpg"), Beside("a.jpg")]),
        ("a.xmp", [Beside("a")]),
        ("a.JPG.xmp", [Beside("a", ".jpg"), Beside("a.JPG")]),
        ("a.json", [Beside("a")]),
        ("a.jpg.json", [Beside("a", ".jpg"), Beside("a.jpg")]),
        ("a.jpg.supplemental-metadata.json", [Beside("a.jpg.supplemental-metadata"), Beside("a", ".jpg")]),
        ("a.jpg.supplemental-me.json", [Beside("a.jpg.supplemental-me"), Beside("a", ".jpg")]),
        ("a.jpg.s.json", [Beside("a.jpg.s"), Beside("a", ".jpg")]),
        ("a.jpg..json", [Beside("a.jpg."), Beside("a", ".jpg")]),
        ("a.jpg(1).json", [Beside("a.jpg(1)"), Beside("a(1)", ".jpg")]),
        (
            "x/a.jpg.supplemental-metadata(2).json",
            [Beside("x/a.jpg.supplemental-metadata(2)"), Beside("x/a(2)", ".jpg")],
        ),
        ("a.jpg.supplement.json", [Beside("a.jpg.supplement"), Beside("a", ".jpg")]),
        ("a.jpg.other.json", [Beside("a.jpg.other")]),
        ("x/a_01.jpg.xmp", [Beside("x/a_01", ".jpg"), Beside("x/a", ".jpg"), Beside("x/a_01.jpg")]),
        ("a_01.xmp", [Beside("a_01")]),
        ("a.caption.txt", [Beside("a.caption"), Beside("a")]),
        ("a.v2.txt", [Beside("a.v2")]),
        ("a.csv", []),
        ("a", []),
    ],
)
def test_the_places_of_its_picture_are_told_by_the_name_of_a_sidecar(sidecar: str, expected: list[Beside]) -> None:
    assert places(sidecar) == expected


def test_a_long_name_may_be_that_of_a_picture_which_was_cut() -> None:
    long = "x/" + "n" * 46
    assert cut_path(long + ".json") == long
    assert cut_path("x/" + "n" * 30 + ".json") is None
    assert cut_path(long + ".txt") is None


TAKEOUT = {"title": "a.jpg", "description": "On the beach", "photoTakenTime": {"timestamp": "1"}, "geoData": {}}
TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]
IMG2DATASET = {"url": "http://x/y.jpg", "caption": "a red car", "key": "000", "status": "success", "exif": "{}"}


@pytest.mark.parametrize(
    ("name", "data", "caption"),
    [
        ("d/a.txt", "ein Gruß\n".encode(), "ein Gruß"),
        ("d/a.caption", b"a cat", "a cat"),
        ("d/a.jpg.txt", b"a cat", "a cat"),
        ("d/a.json", as_json(IMG2DATASET), "a red car"),
        ("d/a.jpg.json", as_json(TAKEOUT), "On the beach"),
        ("d/a.jpg.supplemental-metadata.json", as_json(TAKEOUT), "On the beach"),
        ("d/a.jpg.supplem.json", as_json(TAKEOUT), "On the beach"),
        ("d/a.json", as_json({"id": "a", "image": "a.jpg", "conversations": TURNS}), "A dog."),
        ("d/a.json", as_json({"id": "a", "image": "train/a.jpg", "conversations": TURNS}), "A dog."),
        ("d/a.json", as_json({"id": "a", "conversations": TURNS}), "A dog."),
        ("d/a.json", as_json({"title": "A walk", "captions": ["one", "two"]}), "one\ntwo"),
        ("d/a.json", b'{"caption": "one", "caption": "two", "n": [1e999, %s]}' % (b"9" * 5000), "one\ntwo"),
        ("d/a.xmp", packet(description="A boat"), "A boat"),
        ("d/a.jpg.xmp", packet(title="Boats"), "Boats"),
        ("d/a_01.jpg.xmp", packet(description="A boat"), "A boat"),
        ("d/A.TXT", b"a cat", "a cat"),
        ("d/a.caption.txt", b"a cat", "a cat"),
        ("d/a.txt", "\ufeffein Gru\u00df".encode("utf-16-le"), "ein Gruß"),
        ("d/a.xmp", b"\xff\xfe" + packet(description="A boat").decode().encode("utf-16-le"), "A boat"),
    ],
)
@pytest.mark.parametrize("how", ["folder", "ZIP", "later"])
def test_a_sidecar_gives_its_picture_the_caption(
    name: str, data: bytes, caption: str, how: str, ingest: Ingest, items: Items
) -> None:
    files = {name: data, "d/a.jpg": picture(1, kind="JPEG"), "e/a.jpg": picture(2, kind="JPEG")}
    if how == "later":
        add_all(ingest, {key: value for key, value in files.items() if key != name})
        outcomes = add_all(ingest, {name: data})
    else:
        outcomes = add_all(ingest, {"a.zip": packed(files)} if how == "ZIP" else files)
    assert statuses(outcomes)[0] == (name, "updated")
    assert captions(items) == {"d/a.jpg": caption, "e/a.jpg": None}


def test_a_sheet_goes_before_a_sidecar_and_a_text_before_other_sidecars(ingest: Ingest, items: Items) -> None:
    files = {
        "a.json": as_json(IMG2DATASET),
        "a.txt": b"of the text",
        "a.png": picture(1),
        "b.txt": b"not used",
        "b.png": picture(2),
        "captions.csv": b"file,caption\nb.png,of the sheet\n",
    }
    outcomes = {outcome.name: outcome for outcome in add_all(ingest, files)}
    assert captions(items) == {"a.png": "of the text", "b.png": "of the sheet"}
    assert (outcomes["a.txt"].status, outcomes["a.txt"].remark) == ("updated", None)
    assert (outcomes["a.json"].status, outcomes["a.json"].remark) == ("ignored", "Not used: 'a.txt' has the caption.")
    unused = {name for name, outcome in outcomes.items() if outcome.status == "ignored"}
    assert unused == {"a.json", "b.txt"}
    assert outcomes["b.txt"].remark == "Not used: 'captions.csv, row 2' has the caption."
    versions = {item.version for item in items()}
    # the same upload again changes nothing
    again = add_all(ingest, files)
    assert {outcome.name for outcome in again if outcome.status == "ignored"} == unused
    assert {outcome.status for outcome in again if outcome.name not in unused} == {"duplicate"}
    assert {item.version for item in items()} == versions == {2}


@pytest.mark.parametrize("fields", [{}, {"key": "000000005"}])
def test_a_record_of_an_absent_picture_captions_none_that_its_address_ends_with(
    fields: dict[str, str], ingest: Ingest, items: Items
) -> None:
    record = as_json({"url": "https://a.b/1.jpg", "caption": "of another"} | fields)
    _, outcome = add_all(ingest, {"1.jpg": picture(kind="JPEG"), "000000005.json": record})
    assert captions(items) == {"1.jpg": None}
    assert "none with the name of '000000005.json' is beside it" in reason(outcome)


def test_a_sheet_of_one_address_is_one_whatever_it_is_named(ingest: Ingest, items: Items) -> None:
    row = as_json({"url": "https://a.b/1.jpg", "caption": "of it"})
    add_all(ingest, {"1.jpg": picture(kind="JPEG"), "captions.json": row})
    assert captions(items) == {"1.jpg": "of it"}


def test_the_version_of_a_picture_itself_goes_before_further_ones(ingest: Ingest, items: Items) -> None:
    files = {"a.png": picture(), "a_01.png.xmp": packet(description="one"), "a.png.xmp": packet(description="first")}
    outcomes = add_all(ingest, files)
    assert outcomes[1].remark == "Not used: 'a.png.xmp' has the caption."
    assert captions(items) == {"a.png": "first"}


def test_a_sidecar_in_another_case_is_for_a_picture_that_has_none_in_its_own(ingest: Ingest, items: Items) -> None:
    files = {"a.png": picture(1), "A.jpg": picture(2), "a.txt": b"small", "A.txt": b"large"}
    add_all(ingest, files)
    assert captions(items) == {"a.png": "small", "A.jpg": "large"}


def test_a_text_in_a_guessed_encoding_has_a_remark(ingest: Ingest, items: Items) -> None:
    outcomes = add_all(ingest, {"a.png": picture(), "a.txt": "grün".encode("cp1252"), "b.txt": "süß".encode("cp1252")})
    assert [outcome.status for outcome in outcomes] == ["added", "updated", "added"]
    assert all("read as Windows-1252" in str(outcome.remark) for outcome in outcomes[1:])
    assert captions(items) == {"a.png": "grün", "b.txt": "süß"}


def test_lists_of_names_and_boxes_are_no_texts_unless_asked_for(ingest: Ingest, items: Items) -> None:
    files = {"train.txt": b"a.jpg\ta.jpg#2\t1\t2\nb.jpg\tb.jpg#1\t2\t3\n", "labels/a.txt": b"0 0.5 0.5 0.1 0.1\n"}
    outcomes = add_all(ingest, files)
    assert "lists names of pictures without captions" in reason(outcomes[0])
    assert "boxes of objects" in reason(outcomes[1])
    assert [outcome.status for outcome in add_all(ingest, files, texts=True)] == ["added", "added"]


@pytest.mark.parametrize("between", ["\t", " "])
def test_a_list_of_captions_under_names_without_suffix_is_no_text(between: str, ingest: Ingest, items: Items) -> None:
    pictures = {"1_0b.png": picture(1), "2_0c.png": picture(2)}
    listed = f"1_0b{between}A dog\n1_0b{between}A red dog\n2_0c{between}A cat\n"
    outcomes = add_all(
        ingest, {**pictures, "descriptions.txt": listed.encode(), "note.txt": b"1_0b is red\nand large\n"}
    )
    assert [outcome.status for outcome in outcomes] == ["added", "added", "rejected", "added"]
    assert "begin with names of pictures" in reason(outcomes[2])
    assert len(items()) == 3


@pytest.mark.parametrize("name", ["a.heic.txt", "a.heic.caption", "a.heic.xmp"])
def test_a_picture_that_was_converted_keeps_its_sidecar(name: str, ingest: Ingest, items: Items) -> None:
    said = packet(description="A cat") if name.endswith(".xmp") else b"A cat"
    add_all(ingest, {"a.heic.jpg": picture(1, kind="JPEG"), "a.jpg": picture(2, kind="JPEG"), name: said})
    assert captions(items) == {"a.heic.jpg": "A cat", "a.jpg": None}


def test_two_sidecars_that_say_the_same_need_no_remark(ingest: Ingest, items: Items) -> None:
    outcomes = add_all(ingest, {"a.png": picture(), "a.txt": b"a red car\n", "a.json": as_json(IMG2DATASET)})
    assert [(outcome.status, outcome.remark) for outcome in outcomes[1:]] == [("updated", None), ("duplicate", None)]
    assert captions(items) == {"a.png": "a red car"}


def test_a_sidecar_is_for_all_pictures_of_its_name_or_for_the_one_whose_suffix_it_has(
    ingest: Ingest, items: Items
) -> None:
    pictures = {"a.png": picture(1), "a.jpg": picture(2, kind="JPEG")}
    add_all(ingest, {**pictures, "a.txt": b"both"})
    assert captions(items) == {"a.png": "both", "a.jpg": "both"}
    add_all(ingest, {"a.jpg.txt": b"one"})
    assert captions(items) == {"a.png": "both", "a.jpg": "one"}


def test_a_sidecar_of_a_large_export_is_found_in_another_archive_and_under_a_cut_name(
    ingest: Ingest, items: Items
) -> None:
    long = "g/" + "n" * 50
    one = packed({"g/a.png": picture(1), f"{long}.png": picture(2)})
    two = packed({"g/a.png.supplemental-metadata.json": as_json(TAKEOUT)})
    three = packed(
        {f"{long[:48]}.json": as_json({"title": f"{long}.png", "description": "cut"}), f"{long}.png": picture(3)}
    )
    add_all(ingest, {"1.zip": one, "2.zip": two, "3.zip": three})
    assert [(item.name[:5], item.text) for item in items()] == [
        ("g/a.p", "On the beach"),
        ("g/nnn", None),
        ("g/nnn", "cut"),
    ]


def test_a_sidecar_without_a_caption_changes_nothing(ingest: Ingest, items: Items) -> None:
    files = {
        "a.png": picture(),
        "a.png.json": as_json({"title": "a.png", "description": ""}),
        "a.json": as_json({"shapes": [], "imagePath": "a.png"}),
        "a.xmp": packet(),
    }
    outcomes = add_all(ingest, files)
    assert [outcome.status for outcome in outcomes] == ["added", "ignored", "ignored", "ignored"]
    assert {outcome.remark for outcome in outcomes[1:]} == {"It has no caption."}
    assert captions(items) == {"a.png": None}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "зелёный".encode("cp1251"), "UTF-8"),
        ("a.txt", b"0 0.5 0.5 0.1 0.1\n", "boxes of objects in numbers"),
        ("b.png.json", as_json(TAKEOUT), "none with the name of 'b.png.json' is beside it"),
        ("b.png.supplemental-metadata.json", as_json(TAKEOUT), "is beside it"),
        ("a.txt", b"x" * 201, "RETLLM_MAX_TEXT_CHARS"),
        ("a.xmp", b"<?xml version='1.0'?><x", "not valid XML"),
        ("a.json", b'{"caption": "nul \\u0000"}', "NUL"),
        ("a.xmp", packet(description="x" * 201), "RETLLM_MAX_TEXT_CHARS"),
        ("b.xmp", b"<x/>", "none with the name of 'b.xmp' is beside it"),
        ("b.caption", b"words", "none with the name of 'b.caption' is beside it"),
        ("bad.txt", b"words", "'bad.png' beside it was rejected"),
    ],
)
def test_a_sidecar_that_is_of_no_use_is_refused_alone(
    name: str, data: bytes, message: str, ingest: Ingest, items: Items
) -> None:
    outcomes = add_all(ingest, {"a.png": picture(), "bad.png": picture()[:60], name: data})
    assert message in reason(outcomes[2])
    assert captions(items) == {"a.png": None}


ALBUM = {
    "title": "Sommer 2019",
    "description": "",
    "access": "protected",
    "date": {"timestamp": "1561939200", "formatted": "01.07.2019, 00:00:00 UTC"},
    "geoData": {"latitude": 0.0, "longitude": 0.0},
}


@pytest.mark.parametrize("album", [ALBUM, {"albumData": ALBUM}], ids=["now", "earlier"])
@pytest.mark.parametrize("name", ["metadata.json", "Metadaten.json", "m\u00e9tadonn\u00e9es(1).json", "\u043c.json"])
def test_the_record_of_an_album_is_left_out_with_a_remark(
    ingest: Ingest, items: Items, name: str, album: dict[str, object]
) -> None:
    outcomes = add_all(ingest, {"Sommer/a.jpg": picture(1), f"Sommer/{name}": as_json(album)})
    assert statuses(outcomes) == [("Sommer/a.jpg", "added"), (f"Sommer/{name}", "ignored")]
    assert outcomes[1].remark == "Left out: record of an album by Google Photos."
    assert captions(items) == {"Sommer/a.jpg": None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # what Google says of a picture that is not there
        ("a.jpg.json", {**ALBUM, "title": "a.jpg"}),
        ("all.json", {"title": "a", "date": "b"}),
        ("all.json", {"albumData": 1}),
    ],
)
def test_other_objects_are_no_albums(ingest: Ingest, name: str, value: object) -> None:
    assert [status for _, status in statuses(add_all(ingest, {name: as_json(value)}))] == ["rejected"]


def test_an_album_beside_a_picture_of_its_name_is_the_sidecar_of_that(ingest: Ingest, items: Items) -> None:
    album = as_json({**ALBUM, "description": "On the beach"})
    outcomes = add_all(ingest, {"metadata.jpg": picture(1), "metadata.json": album})
    assert statuses(outcomes)[1] == ("metadata.json", "updated")
    assert captions(items) == {"metadata.jpg": "On the beach"}


def test_a_text_without_a_picture_stays_a_text_and_a_table_is_a_sheet(ingest: Ingest, items: Items) -> None:
    files = {"a.png": picture(), "note.txt": b"a note", "a.txt": b"image,caption\na.png,of the sheet\n"}
    assert statuses(add_all(ingest, files)) == [
        ("a.png", "added"),
        ("note.txt", "added"),
        ("a.txt, row 2", "updated"),
    ]
    assert captions(items) == {"a.png": "of the sheet", "note.txt": "a note"}


@given(st.text(max_size=40), st.sampled_from([".txt", ".json", ".xmp", ".jpg.json", ".jpg.supp(1).json", "(2).json"]))
def test_the_places_of_any_name_are_in_its_folder(name: str, end: str) -> None:
    sidecar = "x/" + name.replace("/", "") + end
    assert all(place.path.startswith("x/") and "/" not in place.path[2:] for place in places(sidecar))


def test_a_folder_that_is_not_text_is_not_read_as_an_object(ingest: Ingest) -> None:
    outcomes = add_all(ingest, {"a.png": picture(), "a.json": io.BytesIO(b'{"caption": "\xff"}')})
    assert "UTF-8" in reason(outcomes[1])


@pytest.mark.parametrize("bad", [b"\xff", b"\0"])
def test_bytes_that_are_no_text_lose_the_caption_that_has_them_only(bad: bytes, ingest: Ingest, items: Items) -> None:
    files = {f"{name}.png": picture(number) for number, name in enumerate("abc")}
    files |= {"a.json": b'{"caption": "a dog", "camera": "\xff\0"}', "b.json": b'{"caption": "a c%st"}' % bad}
    files["c.json"] = b'{"caption": "a bird"}'
    outcomes = add_all(ingest, files)
    (refused,) = [outcome for outcome in outcomes if outcome.status == "rejected"]
    assert refused.name == "b.json"
    assert "Its caption has bytes that are not UTF-8" in reason(refused)
    assert captions(items) == {"a.png": "a dog", "b.png": None, "c.png": "a bird"}
