"""A new picture gets the caption that its file has in itself, unless a sheet or a sidecar says another."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from tests.unit.media import pngs
from tests.unit.media.outcomes import Items, add_file
from tests.unit.media.samples import encoded, noise
from tests.unit.uploading import add_files

from retllm.db.enums import ItemKind
from retllm.media.decoding.texts import MAX_TEXT
from retllm.media.ingest import IncomingFile, Ingest
from retllm.media.pictures import inspect_picture
from retllm.settings import Settings

WORDS = "Ein Möwenpaar über dem Hafen"
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
    f'<rdf:li xml:lang="x-default">{WORDS}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF>'
    "</x:xmpmeta>" + " " * 2000 + '<?xpacket end="w"?>'
).encode()


def field(record: int, number: int, value: bytes) -> bytes:
    return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value


# IIM as Photoshop, exiftool and digiKam write it: UTF-8 by 1:90, the version of the record, then the caption
IPTC = field(1, 90, b"\x1b%G") + field(2, 0, b"\0\4") + field(2, 5, b"title") + field(2, 120, WORDS.encode())
OLD_IPTC = field(2, 0, b"\0\2") + field(2, 120, WORDS.encode("latin-1"))


def with_iptc(iptc: bytes) -> bytes:
    """A JPEG with Photoshop's block of resources: a resolution, then IPTC."""
    resolution = struct.pack(">4sHHL", b"8BIM", 0x03ED, 0, 16) + struct.pack(">LHHLHH", 72 << 16, 1, 1, 72 << 16, 1, 1)
    block = resolution + struct.pack(">4sHHL", b"8BIM", 0x0404, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = b"Photoshop 3.0\0" + block
    data = encoded(noise(1), "JPEG")
    return data[:2] + struct.pack(">2sH", b"\xff\xed", len(body) + 2) + body + data[2:]


def with_exif(words: str, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x010E] = words.encode() if form == "JPEG" else words
    return encoded(noise(2), form, exif=exif)


def with_comment(form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 1
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + WORDS.encode("utf-16-le")
    return encoded(noise(2), form, exif=exif)


def tiff() -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[33723], info.tagtype[33723] = IPTC, 7
    return encoded(noise(3), "TIFF", tiffinfo=info)


def png(*, late: bool = False, **texts: str) -> bytes:
    """A PNG with international texts, in chunks before or after its pixels."""
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_itxt(keyword.replace("XMP", "XML:com.adobe.xmp"), text, zip=late)
    data = encoded(noise(4), "PNG", pnginfo=info)
    if not late:
        return data
    return moved_to_its_end(b"iTXt", data)


def moved_to_its_end(name: bytes, data: bytes) -> bytes:
    """A PNG whose chunks from the first one with this name to the pixels stand behind these."""
    chunks, pixels = data.index(name) - 4, data.index(b"IDAT") - 4
    return data[:chunks] + data[pixels:-12] + data[chunks:pixels] + data[-12:]


def plain_png(name: bytes, keyword: bytes, text: bytes) -> bytes:
    """A PNG with one text in Latin-1 or whatever a program writes."""
    return pngs.png(np.asarray(noise(4)), [(name, keyword + b"\0" + text)])


CAPTIONED = {
    "IPTC in a JPEG": with_iptc(IPTC),
    "IPTC in Latin-1": with_iptc(OLD_IPTC),
    "XMP in a JPEG": encoded(noise(5), "JPEG", xmp=XMP),
    "XMP in a PNG": png(XMP=XMP.decode()),
    "XMP after the pixels of a PNG": png(late=True, XMP=XMP.decode()),
    "description of a PNG": png(Title="Harbour", Description=WORDS),
    "description after the pixels of a PNG": png(late=True, Description=WORDS),
    "title of a PNG": png(Title=WORDS, Author="Ada", Comment="Created with GIMP"),
    "description of a PNG in Latin-1": plain_png(b"tEXt", b"Description", WORDS.encode("latin-1")),
    "description of a PNG in UTF-8": plain_png(b"tEXt", b"Description", WORDS.encode()),
    "packed description of a PNG": plain_png(b"zTXt", b"Description", b"\0" + zlib.compress(WORDS.encode("latin-1"))),
    "XMP in a WebP": encoded(noise(6), "WEBP", xmp=XMP),
    "XMP in an AVIF": encoded(noise(7), "AVIF", xmp=XMP, speed=10),
    "EXIF": with_exif(WORDS),
    "comment in EXIF of a JPEG": with_comment("JPEG"),
    "comment in EXIF of a WebP": with_comment("WEBP"),
    "comment in EXIF of a PNG": with_comment("PNG"),
    "comment in EXIF after the pixels of a PNG": moved_to_its_end(b"eXIf", with_comment("PNG")),
    "IPTC in a TIFF": tiff(),
}


@pytest.mark.parametrize("data", CAPTIONED.values(), ids=CAPTIONED)
def test_a_new_picture_has_the_caption_of_its_file(data: bytes, ingest: Ingest, items: Items) -> None:
    (outcome,) = add_file(ingest, "a", io.BytesIO(data))
    assert (outcome.status, outcome.kind) == ("added", ItemKind.BOTH)
    assert [(item.kind, item.text, item.version) for item in items()] == [(ItemKind.BOTH, WORDS, 1)]


def test_what_programs_note_in_a_png_is_no_caption(ingest: Ingest, items: Items) -> None:
    noted = {"parameters": "a cat, Steps: 20", "workflow": "{}", "prompt": "{}", "Software": "GIMP", "Comment": "x y z"}
    (outcome,) = add_file(ingest, "a.png", io.BytesIO(png(**noted)))
    assert (outcome.kind, outcome.remark) == (ItemKind.IMAGE, None)


def test_texts_of_a_png_that_are_too_long_are_left_out(settings: Settings) -> None:
    for late in (False, True):
        found = inspect_picture(io.BytesIO(png(late=late, Description="a " * MAX_TEXT)), settings)
        assert (found.texts.exif, found.remark is not None) == (b"", True)


@pytest.mark.parametrize(
    "words", ["OLYMPUS DIGITAL CAMERA", "SONY DSC", "LEAD Technologies Inc. V1.01", " ", "IMG_0001"]
)
def test_what_cameras_write_into_every_picture_is_no_caption(words: str, ingest: Ingest, items: Items) -> None:
    (outcome,) = add_file(ingest, "a.jpg", io.BytesIO(with_exif(words)))
    assert outcome.kind is ItemKind.IMAGE
    assert [item.text for item in items()] == [None]


def test_a_sheet_goes_before_a_sidecar_and_a_sidecar_before_the_file(ingest: Ingest, items: Items) -> None:
    files = {name: encoded(noise(number), "JPEG", xmp=XMP) for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg"))}
    files |= {
        "a.txt": b"said beside it",
        "b.txt": b"said beside it",
        "s.csv": b"file,caption\nb.jpg,said in a sheet\n",
    }
    add_files(ingest, [IncomingFile(name, io.BytesIO(data)) for name, data in files.items()])
    assert [(item.name, item.text) for item in items()] == [
        ("a.jpg", "said beside it"),
        ("b.jpg", "said in a sheet"),
        ("c.jpg", WORDS),
    ]


def test_a_duplicate_keeps_its_caption(ingest: Ingest, items: Items) -> None:
    data = with_iptc(IPTC)
    add_files(ingest, [IncomingFile("a.jpg", io.BytesIO(data)), IncomingFile("a.txt", io.BytesIO(b"another"))])
    (outcome,) = add_file(ingest, "b.jpg", io.BytesIO(data))
    assert outcome.status == "duplicate"
    assert [item.text for item in items()] == ["another"]


def test_texts_that_are_too_long_are_left_out(settings: Settings) -> None:
    data = encoded(noise(8), "WEBP", xmp=XMP + b" " * MAX_TEXT)
    assert inspect_picture(io.BytesIO(data), settings).texts.xmp == b""
    data = encoded(noise(8), "WEBP", xmp=XMP.ljust(MAX_TEXT))
    assert len(inspect_picture(io.BytesIO(data), settings).texts.xmp) == MAX_TEXT


@pytest.mark.parametrize("at", range(0, len(XMP) - 2100, 60))
def test_damaged_metadata_does_no_harm(at: int, settings: Settings) -> None:
    changed = XMP[:at] + b"\xff<&\0" + XMP[at + 4 :]
    assert inspect_picture(io.BytesIO(encoded(noise(8, (8, 8)), "JPEG", xmp=changed)), settings).texts.xmp == changed
