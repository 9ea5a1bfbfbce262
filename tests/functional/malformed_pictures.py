"""Malformed and hostile pictures and files of several pictures, and the mutations that make them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers the format, to write it
import tifffile
from PIL import Image
from tests.soak import scaled
from tests.unit.media.films import film
from tests.unit.media.handmade import Entry, made
from tests.unit.media.photoshop import psd
from tests.unit.media.pngs import png
from tests.unit.media.raws import dng, unknown
from tests.unit.media.samples import encoded, noise
from tests.unit.media.sheets.test_embedded import field, resource
from tests.unit.media.sheets.xmp_packets import packet

pillow_heif.register_heif_opener()
UNKNOWN_RAWS = ("CR2", "NEF", "RW2", "RAF", "CR3")
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF", "AVIF", "JXL", "PSD", "DNG", "PDF", "MP4", "PAGES"),
    *("PSB", "RAW", "DEEP PNG", "DEEP TIFF", "matroska", "mpegts", "AVI", "ASF", "FLV", "MPEG", "AVIS", *UNKNOWN_RAWS),
)
PICTURES, POLYGLOTS = scaled((150, 40), (486, 80))
_SCRIPT = b"<script>alert(document.domain)</script>"
MARKUP = {
    "html": b"<!doctype html><html><body>" + _SCRIPT + b"</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">' + _SCRIPT + b"</svg>",
    "xml": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>',
    "js": b"/*a*/alert(document.cookie)//",
}
_XMP = packet(description="A boat")
_IPTC = b"Photoshop 3.0\0" + resource(0x0404, field(2, 120, b"A boat"))
# the format and the codec of a film
_CONTAINERS = {
    "MP4": ("mp4", "mpeg4"),
    "matroska": ("matroska", "mpeg4"),
    "mpegts": ("mpegts", "mpeg4"),
    "AVI": ("avi", "mpeg4"),
    "ASF": ("asf", "wmv2"),
    "FLV": ("flv", "flv1"),
    "MPEG": ("mpeg", "mpeg2video"),
}


def valid(chance: random.Random, form: str) -> bytes:
    size = (chance.randrange(1, 90), chance.randrange(1, 90))
    picture = noise(chance.randrange(1 << 30), size)
    if form in ("DNG", "RAW", *UNKNOWN_RAWS):
        return _raw(chance, form, picture)
    if form in ("PSD", "PSB"):
        return psd(np.asarray(picture), "RGB", packed=chance.random() < 0.5, large=form == "PSB")
    if form.startswith("DEEP"):
        return _many_bits(chance, form, size)
    if form in _CONTAINERS:
        even = (size[0] // 2 * 2 + 16, size[1] // 2 * 2 + 16)
        scenes = [noise(chance.randrange(1 << 30), even) for _ in range(chance.randrange(1, 4))]
        kind, codec = _CONTAINERS[form]
        return film(scenes, frames=6, kind=kind, codec=codec)
    if form in ("PDF", "PAGES"):
        more = [noise(chance.randrange(1 << 30), size) for _ in range(chance.randrange(3))]
        return encoded(picture, "PDF" if form == "PDF" else "TIFF", save_all=True, append_images=more)
    if form in ("HEIF", "AVIF", "AVIS", "JXL"):
        return _newer(form, picture)
    if form == "GIF" or (form in ("PNG", "BMP", "TIFF") and chance.random() < 0.4):
        picture = picture.convert(chance.choice(("P", "L", "1") if form != "GIF" else ("P", "L")))
    options = {}
    if form == "TIFF":
        options["compression"] = chance.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits"))
        options = {name: value for name, value in options.items() if value and picture.mode == "RGB"}
    if form in ("JPEG", "PNG", "WEBP") and chance.random() < 0.5:
        return _described(chance, form, picture)
    return encoded(picture, form, **options)


def _newer(form: str, picture: Image.Image) -> bytes:
    options: dict[str, dict[str, Any]] = {"AVIF": {"speed": 10}}
    options["AVIS"] = {"speed": 10, "save_all": True, "append_images": [noise(n, picture.size) for n in (1, 2)]}
    return encoded(picture, "AVIF" if form == "AVIS" else form, **options.get(form, {}))


def _described(chance: random.Random, form: str, picture: Image.Image) -> bytes:
    """Return a picture with the metadata that captions are read from."""
    exif = Image.Exif()
    exif[0x0112] = chance.randrange(0, 99)
    exif[0x010E] = "x" * chance.randrange(500)
    code = chance.choice((b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8), b""))
    exif.get_ifd(0x8769)[0x9286] = code + chance.randbytes(chance.randrange(500))
    data = encoded(picture, form, exif=exif, **({} if form == "PNG" else {"xmp": _XMP}))
    # captions of IPTC lie in a segment of Photoshop (APP13)
    return data[:2] + _segment(0xED, _IPTC) + data[2:] if form == "JPEG" else data


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _raw(chance: random.Random, form: str, picture: Image.Image) -> bytes:
    if form in UNKNOWN_RAWS:
        return unknown(form, [encoded(picture, "JPEG"), encoded(picture.reduce(2), "JPEG")], chance.randrange(9))
    preview = encoded(picture, "JPEG") if chance.random() < 0.5 else None
    data = dng((2 * picture.width + 22, 2 * picture.height + 22), chance.randrange(9), preview)
    # without the version of DNG, it is told by the kind of its values
    return data if form == "DNG" else data.replace(struct.pack("<H", 50706), struct.pack("<H", 50705), 1)


def _many_bits(chance: random.Random, form: str, size: tuple[int, int]) -> bytes:
    """Return a picture of more than 8 bits, with what such files say of their values and colours."""
    values = np.random.default_rng(chance.randrange(1 << 30)).integers(0, chance.choice((4096, 65536)), (*size, 3))
    if form == "DEEP PNG":
        names = chance.sample([b"cICP", b"sBIT", b"tRNS", b"gAMA", b"iCCP", b"acTL", b"fcTL"], 3)
        return png(values.astype(np.uint16), [(name, chance.randbytes(chance.randrange(3, 30))) for name in names])
    kind = chance.choice((np.uint16, np.int16, np.int32, np.float16, np.float32, np.float64))
    options: dict[str, Any] = {"compression": "zlib", "predictor": kind is np.uint16} if chance.random() < 0.5 else {}
    shape = chance.choice(("gray", "gray and opacity", "colours", "planes"))
    samples = {"gray": 0, "gray and opacity": slice(2)}.get(shape, slice(3))
    photometric = "rgb" if shape in ("colours", "planes") else chance.choice(("minisblack", "miniswhite"))
    if shape == "gray and opacity":
        options["extrasamples"] = [chance.choice(("unassalpha", "assocalpha", "unspecified"))]
    values = values[..., samples].astype(kind)
    if shape == "planes":
        options["planarconfig"] = "separate"
        values = np.moveaxis(values, -1, 0)
    nodata = (42113, 2, 0, chance.choice(("-9999", "nan", "x")), True)
    order, target = chance.choice("<>"), io.BytesIO()
    if chance.random() < 0.3:
        options["tile"] = (16, 16)
    tifffile.imwrite(target, values, photometric=photometric, byteorder=order, extratags=[nodata], **options)
    return target.getvalue()


def flipped(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 30)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncated(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def spliced(chance: random.Random, data: bytes) -> bytes:
    """Reorder, repeat and omit pieces."""
    places = sorted(chance.randrange(len(data)) for _ in range(4))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    return pieces[0] + b"".join(chance.choices(pieces, k=chance.randrange(1, 9)))


def overwritten(chance: random.Random, data: bytes) -> bytes:
    at, count = chance.randrange(len(data)), chance.randrange(1, 200)
    return data[:at] + bytes([chance.choice((0, 255, 127))]) * count + data[at + count :]


def inserted(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + chance.randbytes(chance.randrange(1, 3000)) + data[at:]


def _header_swapped(chance: random.Random, data: bytes) -> bytes:
    """Put the header of one format on the data of another."""
    other = valid(chance, chance.choice(FORMATS))
    return data[: chance.randrange(4, 40)] + other[chance.randrange(40) :]


def _oversized(chance: random.Random, form: str) -> bytes:
    """Write extreme dimensions into the header of a small file."""
    wide, high = (chance.choice((0, 1, 300, 4_000, 4_400, 65_500, 1 << 31, 0xFFFFFFFF)) for _ in range(2))
    data = bytearray(valid(chance, form))
    if form == "PNG":
        data[16:24] = struct.pack(">2L", wide, high)
        data[29:33] = struct.pack(">L", zlib.crc32(data[12:29]))
    elif form == "BMP":
        data[18:26] = struct.pack("<2L", wide, high)
    elif form == "GIF":
        data[6:10] = struct.pack("<2H", wide & 0xFFFF, high & 0xFFFF)
    elif form == "JPEG" and (at := data.find(b"\xff\xc0")) > 0:
        data[at + 5 : at + 9] = struct.pack(">2H", wide & 0xFFFF, high & 0xFFFF)
    elif form == "WEBP" and data[12:16] == b"VP8 ":
        data[26:30] = struct.pack("<2H", wide & 0x3FFF, high & 0x3FFF)
    elif form in ("TIFF", "DNG", "RAW", "PAGES"):
        for at in range(4, len(data) - 12, 2):  # the tags of width and length, at any position
            if data[at : at + 4] in (b"\0\1\4\0", b"\1\1\4\0", b"\0\1\3\0", b"\1\1\3\0"):
                data[at + 2 : at + 12] = struct.pack("<H2L", 4, 1, wide)
    else:
        _resize_newer(form, data, wide, high)
    return bytes(data)


def _resize_newer(form: str, data: bytearray, wide: int, high: int) -> None:
    if form in ("PSD", "PSB"):
        data[14:22] = struct.pack(">2L", high, wide)
    elif form == "JXL":
        data[2:9] = (wide | high << 29).to_bytes(8, "little")[:7]
    elif (at := data.find(b"ispe")) > 0:
        data[at + 8 : at + 16] = struct.pack(">2L", wide, high)


_MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    flipped,
    truncated,
    spliced,
    overwritten,
    inserted,
    _header_swapped,
)


def pictures(chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    for number in range(PICTURES):
        oversized = number % 6 == 5
        form = FORMATS[(number // 6 if oversized else number - number // 6) % len(FORMATS)]
        name = f"{number}.{chance.choice((form.lower(), 'png', 'txt', 'html', 'zip'))}"
        if oversized:
            yield f"oversized {form}", name, _oversized(chance, form)
        else:
            mutation = chance.choice(_MUTATIONS)
            yield f"{mutation.__name__} {form}", name, mutation(chance, valid(chance, form))


def polyglots(chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """Generate markup with the headers of pictures, and pictures with markup before, inside and after them."""
    kinds = list(MARKUP)
    for number in range(POLYGLOTS):
        kind, form = kinds[number % len(kinds)], FORMATS[(number + number // len(FORMATS)) % len(FORMATS)]
        markup, data = MARKUP[kind], valid(chance, form)
        at = chance.randrange(len(data))
        content = chance.choice(
            (
                data[: chance.randrange(2, 16)] + b"/*" + markup,
                markup + data,
                data + markup,
                data[:at] + markup + data[at:],
                b"GIF89a=1;" + markup,
                b"\xff\xd8\xff\xfe" + struct.pack(">H", len(markup) + 2) + markup + data[2:],
                b"BM" + markup[:4] + bytes(4) + markup,
                b" \t\r\n\xef\xbb\xbf" + markup,
                markup.upper(),
                data + made([Entry(b"x.html", markup)]),
                markup.decode().encode("utf-16"),
            )
        )
        suffix = chance.choice((kind, form.lower(), "png", "jpg", "txt", "csv", "json", "zip"))
        yield f"{kind} and {form} as .{suffix}", f"polyglot{number}.{suffix}", content
