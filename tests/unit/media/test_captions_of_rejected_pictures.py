"""What is said of a picture that was rejected is no text, and says that the picture was rejected."""

from __future__ import annotations

import struct

import pytest
from tests.unit.media.outcomes import Items, reason
from tests.unit.media.samples import packed, picture, zipped
from tests.unit.media.test_sheet_rows import add_all, captions

from retllm.media.ingest import Ingest

REJECTED = {
    "html.jpg": b"<!DOCTYPE html><html>404</html>",
    "zeros.jpg": bytes(4000),
    "nothing.jpg": b"",
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "p.ppm": b"P6\n2 2\n255\n" + bytes(12),
    "t.tga": b"\0\0\2" + bytes(99),
    "j.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50),
    "s.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "d.png": picture()[:60],
    "film.mp4": bytes(400),
}
NEVER_TAKEN = (".ppm", ".tga", ".jp2", ".svg")


def step(name: str, again: str) -> str:
    return "convert it to JPEG or PNG and upload that" if name.endswith(NEVER_TAKEN) else again


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_the_sidecar_of_a_rejected_picture_is_refused(ingest: Ingest, items: Items, packing: bool, suffix: str) -> None:
    said = b'{"title": "x", "description": "words"}' if suffix == ".json" else b"words of a caption"
    sidecars = {name + suffix if suffix == ".json" else name.partition(".")[0] + suffix: name for name in REJECTED}
    files = REJECTED | dict.fromkeys(sidecars, said) | {"good.png": picture(1), "good.txt": b"good"}
    outcomes = add_all(ingest, {"a.zip": packed(files)} if packing else files)
    told = {outcome.name: reason(outcome) for outcome in outcomes if outcome.name in sidecars}
    assert told == {
        sidecar: f"The picture {name!r} beside it was rejected: {step(name, 'upload both again')}."
        for sidecar, name in sidecars.items()
    }
    assert captions(items) == {"good.png": "good"}


def test_the_text_of_an_encrypted_picture_is_refused(ingest: Ingest, items: Items) -> None:
    archive = bytearray(zipped({"a.png": picture(), "a.txt": b"words"}))
    for at in (6, archive.index(b"PK\1\2") + 8):
        archive[at : at + 2] = struct.pack("<H", archive[at] | 1)
    outcomes = {each.name: each for each in add_all(ingest, {"a.zip": bytes(archive)})}
    assert reason(outcomes["a.txt"]) == "The picture 'a.png' beside it was rejected: upload both again."
    assert items() == []


def test_a_row_of_a_rejected_picture_says_so(ingest: Ingest, items: Items) -> None:
    sheet = "file,caption\n" + "".join(f"{name},words\n" for name in REJECTED)
    refused = [each for each in add_all(ingest, REJECTED | {"c.csv": sheet.encode()}) if "row" in each.name]
    assert [reason(each).partition(" ")[2].partition(" ")[2] for each in refused] == [
        f"names the picture {name!r}, which was rejected: {step(name, 'upload it again')}." for name in REJECTED
    ]


def test_another_format_of_a_rejected_picture_has_what_names_no_format(ingest: Ingest, items: Items) -> None:
    files = {"a.svg": REJECTED["s.svg"], "a.png": picture(1), "b.svg": REJECTED["s.svg"], "b.png": picture(2)}
    add_all(ingest, files | {"a.txt": b"by a text", "c.csv": b"file,caption\nb,by a row\n"})
    assert captions(items) == {"a.png": "by a text", "b.png": "by a row"}


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("suffix", [".txt", ".png.txt", ".png.json"])
def test_the_sidecar_of_a_picture_that_was_rejected_earlier_says_why(
    ingest: Ingest, items: Items, packing: bool, suffix: str
) -> None:
    said = b'{"title": "x", "description": "words"}' if suffix == ".png.json" else b"words of a caption"
    for files in ({"x/d.png": REJECTED["d.png"]}, {f"x/d{suffix}": said, f"y/d{suffix}": said}):
        outcomes = {each.name: each for each in add_all(ingest, {"a.zip": packed(files)} if packing else files)}
        if "x/d.png" in outcomes:
            why = reason(outcomes["x/d.png"])
    told = reason(outcomes[f"x/d{suffix}"])
    assert told.startswith(f"Its picture 'd.png' was rejected in another upload: {why} Upload both again")
    assert ("--texts" in told) == suffix.endswith(".txt")
    assert [item.name for item in items()] == ([f"y/d{suffix}"] if suffix.endswith(".txt") else [])


def test_a_text_that_is_asked_for_is_one_whatever_was_rejected_earlier(ingest: Ingest, items: Items) -> None:
    add_all(ingest, {"d.png": REJECTED["d.png"]})
    add_all(ingest, {"d.txt": b"words of a text"}, texts=True)
    assert [(item.name, item.text) for item in items()] == [("d.txt", "words of a text")]


@pytest.mark.parametrize(
    ("name", "again"), [("d.png", "Upload it again."), ("s.svg", "Convert it to JPEG or PNG and upload that.")]
)
def test_a_row_of_a_picture_that_was_rejected_earlier_says_why(
    ingest: Ingest, items: Items, name: str, again: str
) -> None:
    (picture_outcome,) = add_all(ingest, {f"x/{name}": REJECTED[name]})
    sheet = f"file,caption\nx/{name},words\ny/{name},others\n".encode()
    first, second = add_all(ingest, {"c.csv": sheet})
    assert reason(first) == (
        f"Row 2 names the picture 'x/{name}', which was rejected in another upload: {reason(picture_outcome)} {again}"
    )
    assert "which is not in this collection" in reason(second)


@pytest.mark.parametrize("order", [1, -1])
def test_a_picture_that_was_taken_in_the_end_has_its_captions(ingest: Ingest, items: Items, order: int) -> None:
    for content in (REJECTED["d.png"], picture(1))[::order]:
        add_all(ingest, {"d.png": content, "x/e.png": picture(2)})
    add_all(ingest, {"d.txt": b"by a text", "c.csv": b"file,caption\nx/e.png,by a row\n"})
    assert captions(items) == {"d.png": "by a text", "x/e.png": "by a row"}
