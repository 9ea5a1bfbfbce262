"""What a picture's file says of how it was made becomes the columns of its item."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

import pillow_heif
import pillow_jxl  # noqa: F401 - registers its format
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from retllm.db.facts import NO_FACTS
from retllm.media.decoding.texts import Texts
from retllm.media.facts import facts_of, taken_at
from retllm.media.pictures import inspect_picture
from retllm.settings import Settings

_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 {attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta>"""


def xmp(attributes: str = "", elements: str = "") -> bytes:
    return _XMP.format(attributes=attributes, elements=elements).encode()


def iptc(**fields: list[bytes]) -> bytes:
    """IIM fields of record 2, by their numbers."""
    numbers = {"title": 5, "keyword": 25, "date": 55, "time": 60}
    return b"".join(
        bytes([0x1C, 2, numbers[name]]) + len(value).to_bytes(2) + value
        for name, values in fields.items()
        for value in values
    )


def shot(**facts: Any) -> bytes:
    return json.dumps(facts).encode()


def photograph(format_: str = "JPEG") -> io.BytesIO:
    """A picture with the EXIF of a camera."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x4746] = "FUJIFILM", "X100V", 4
    exif[0x9C9B] = "Müller am See".encode("utf-16-le") + b"\0\0"
    exif[0x9C9E] = "sea;summer;".encode("utf-16-le") + b"\0\0"
    exif.get_ifd(0x8769).update({0x9003: "2003:07:02 14:30:05", 0x9011: "+02:00", 0xA434: "23mm F2"})
    exif.get_ifd(0x8825).update(
        {1: "S", 2: (IFDRational(17), IFDRational(30), IFDRational(36)), 3: "E", 4: (178.0, 15.0, 0.0)}
    )
    if format_ == "HEIF":
        pillow_heif.register_heif_opener()
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, format_, exif=exif.tobytes() if format_ == "JXL" else exif)
    stream.seek(0)
    return stream


_EXPECTED = {
    "title": "Müller am See",
    "tags": ["sea", "summer"],
    "rating": 4,
    "taken": datetime(2003, 7, 2, 14, 30, 5),
    "taken_until": datetime(2003, 7, 2, 14, 30, 6),
    "taken_zone": 120,
    "camera": "FUJIFILM X100V",
    "lens": "23mm F2",
}


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "JXL"])
def test_the_exif_of_a_photograph(format_: str) -> None:
    found = facts_of(inspect_picture(photograph(format_), Settings()).texts)
    place = found.pop("latitude"), found.pop("longitude")
    assert place == pytest.approx((-17.51, 178.25))
    assert found == _EXPECTED


def test_the_tags_of_a_tiff() -> None:
    # Pillow writes no more of them
    expected = {name: _EXPECTED[name] for name in ("title", "tags", "rating", "camera")}
    assert facts_of(inspect_picture(photograph("TIFF"), Settings()).texts) == expected


def test_a_picture_without_metadata_has_no_facts() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3)).save(stream, "JPEG")
    stream.seek(0)
    assert facts_of(inspect_picture(stream, Settings()).texts) == {}


def test_every_fact_is_a_column_without_facts() -> None:
    found = facts_of(inspect_picture(photograph(), Settings()).texts)
    assert set(found) | {"further"} == set(NO_FACTS)


def test_xmp_says_what_people_wrote() -> None:
    packet = xmp(
        'xmp:Rating="5" photoshop:DateCreated="1923-05" aux:Lens="Tessar" tiff:Make="Zeiss Ikon" tiff:Model="Ikonta"'
        ' exif:GPSLatitude="48,8,24N" exif:GPSLongitude="11,34.5E"',
        "<dc:title><rdf:Alt><rdf:li xml:lang='de'>Der See</rdf:li><rdf:li xml:lang='x-default'>The lake</rdf:li>"
        "</rdf:Alt></dc:title><dc:subject><rdf:Bag><rdf:li>lake</rdf:li><rdf:li> hills </rdf:li><rdf:li>lake</rdf:li>"
        "</rdf:Bag></dc:subject>",
    )
    found = facts_of(Texts(xmp=packet))
    place = found.pop("latitude"), found.pop("longitude")
    assert place == pytest.approx((48.14, 11.575))
    assert found == {
        "title": "The lake",
        "tags": ["lake", "hills"],
        "rating": 5,
        "taken": datetime(1923, 5, 1),
        "taken_until": datetime(1923, 6, 1),
        "camera": "Zeiss Ikon Ikonta",
        "lens": "Tessar",
    }


def test_iptc_says_what_archives_wrote() -> None:
    fields = iptc(
        title=[b"Harbour"], keyword=["Hafen Köln".encode(), b"boats"], date=[b"19540300"], time=[b"120000+0100"]
    )
    found = facts_of(Texts(iptc=fields))
    assert found == {
        "title": "Harbour",
        "tags": ["Hafen Köln", "boats"],
        "taken": datetime(1954, 3, 1),
        "taken_until": datetime(1954, 4, 1),
    }


def test_people_count_before_the_camera_for_words_and_after_it_for_facts() -> None:
    texts = Texts(
        xmp=xmp(
            'xmp:Rating="2" photoshop:DateCreated="1950"', "<dc:title>written</dc:title><dc:subject>a</dc:subject>"
        ),
        iptc=iptc(title=[b"older"], keyword=[b"b", b"a"]),
        shot=shot(taken="2003:07:02 14:30:05", rating=4, title="other", keywords="c;a"),
    )
    found = facts_of(texts)
    assert (found["title"], found["tags"], found["rating"]) == ("written", ["a", "b", "c"], 2)
    assert found["taken"] == datetime(2003, 7, 2, 14, 30, 5)


@pytest.mark.parametrize(
    ("text", "begin", "end", "zone"),
    [
        ("2003:07:02 14:30:05", (2003, 7, 2, 14, 30, 5), (2003, 7, 2, 14, 30, 6), None),
        ("2003-07-02T14:30:05.250+05:30", (2003, 7, 2, 14, 30, 5), (2003, 7, 2, 14, 30, 6), 330),
        ("2003-07-02T14:30Z", (2003, 7, 2, 14, 30), (2003, 7, 2, 14, 31), 0),
        ("2003-07-02", (2003, 7, 2), (2003, 7, 3), None),
        ("1999-12", (1999, 12, 1), (2000, 1, 1), None),
        ("1923", (1923, 1, 1), (1924, 1, 1), None),
        ("19230000", (1923, 1, 1), (1924, 1, 1), None),
        ("1923:05:00 00:00:00", (1923, 5, 1), (1923, 6, 1), None),
        ("20030702143005-0330", (2003, 7, 2, 14, 30, 5), (2003, 7, 2, 14, 30, 6), -210),
        ("2003:07:02 14:30:05+99:00", (2003, 7, 2, 14, 30, 5), (2003, 7, 2, 14, 30, 6), None),
    ],
)
def test_times(text: str, begin: tuple[int, ...], end: tuple[int, ...], zone: int | None) -> None:
    assert taken_at(text) == (datetime(*begin), datetime(*end), zone)  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        *("", "0000:00:00 00:00:00", "    :  :     :  :  ", "2003-13-01", "2003:02:30 01:01:01", "2003:07:02 24:61:00"),
        *("99", "2003:07:02 14:30:05 in the afternoon", "9999", None, 2003),
    ],
)
def test_what_is_no_time(text: Any) -> None:
    assert taken_at(text) is None


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("FUJIFILM", "X100", "FUJIFILM X100"),
        ("Apple", None, "Apple"),
        (None, "X100", "X100"),
        ("  ", "X100\0\0", "X100"),
    ],
)
def test_the_name_of_a_camera(make: str | None, model: str | None, camera: str) -> None:
    assert facts_of(Texts(shot=shot(make=make, model=model)))["camera"] == camera


@pytest.mark.parametrize("rating", [-1, 0, 6, "", "x", None, 1e400, [1]])
def test_what_is_no_rating(rating: Any) -> None:
    assert "rating" not in facts_of(Texts(shot=json.dumps({"rating": rating}).encode()))


@pytest.mark.parametrize("place", [(0, 0), (91, 5), (5, 181), ("x", 5), (None, 5), (float("nan"), 5)])
def test_what_is_no_position(place: tuple[Any, Any]) -> None:
    assert "latitude" not in facts_of(Texts(shot=shot(latitude=place[0], longitude=place[1])))


@pytest.mark.parametrize(
    "texts",
    [
        Texts(xmp=b"<no xml"),
        Texts(iptc=b"\x1c\x02\x05\xff\xff"),
        Texts(shot=b"[1]"),
        Texts(shot=b"{"),
        Texts(shot=b"[" * 100_000),
        Texts(shot=shot(make=5, taken=[1], keywords=7, zone={})),
    ],
)
def test_damaged_metadata_counts_as_absent(texts: Texts) -> None:
    assert facts_of(texts).keys() <= {"tags"}


def test_texts_are_bounded_and_of_one_line() -> None:
    many = xmp(
        elements="<dc:subject><rdf:Bag>"
        + "".join(f"<rdf:li>{n}</rdf:li>" for n in range(500))
        + "</rdf:Bag></dc:subject>"
    )
    found = facts_of(Texts(xmp=many, shot=shot(title="a\r\n\tb " + "x" * 2000, lens="\ud800y")))
    assert (len(found["tags"]), len(found["title"]), found["title"][:5]) == (200, 500, "a b x")
    found["lens"].encode()
