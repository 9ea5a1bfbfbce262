"""Malformed and hostile uploads; a seed always generates the same ones."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers the format, to write it
import tifffile
from PIL import Image
from tests.soak import scaled
from tests.unit.media import handmade, handmade_tars
from tests.unit.media.films import film
from tests.unit.media.handmade import Entry, made
from tests.unit.media.photoshop import psd
from tests.unit.media.pngs import png
from tests.unit.media.raws import dng
from tests.unit.media.samples import encoded, noise

pillow_heif.register_heif_opener()

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF", "AVIF", "JXL", "PSD", "DNG", "PDF", "MP4", "PAGES"),
    *("PSB", "RAW", "DEEP PNG", "DEEP TIFF", "matroska", "mpegts"),
)
_CONTAINERS = {"MP4": "mp4", "matroska": "matroska", "mpegts": "mpegts"}
# the handwritten cases are always included, and generated ones fill up the rest
PICTURES, POLYGLOTS, ZIPS, TARS, FORMS, SHEETS = scaled((126, 40, 80, 60, 80, 100), (486, 80, 240, 180, 160, 200))
TOTAL = PICTURES + POLYGLOTS + ZIPS + TARS + FORMS + SHEETS
_BOUNDARY = b"xyzxyz"
_SCRIPT = b"<script>alert(document.domain)</script>"
_MARKUP = {
    "html": b"<!doctype html><html><body>" + _SCRIPT + b"</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">' + _SCRIPT + b"</svg>",
    "xml": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>',
    "js": b"/*a*/alert(document.cookie)//",
}


@dataclass(frozen=True)
class Case:
    """One request: its body, and the length that its header declares."""

    name: str
    body: bytes
    content_type: str
    declared_length: int | None = None


def cases(seed: int) -> Iterator[Case]:
    """Generate all cases."""
    chance = random.Random(seed)
    for number, (what, name, content) in enumerate(_files(chance)):
        yield _form(f"{number} {what}", name, content)
    yield from _broken_forms(chance)
    yield from _sheets(chance)


def _form(case: str, name: str, content: bytes) -> Case:
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: image/png'.encode()
    return Case(case, _part(head, content) + _end(), _multipart())


def _multipart(boundary: bytes = _BOUNDARY) -> str:
    return f"multipart/form-data; boundary={boundary.decode('latin1')}"


def _part(head: bytes, content: bytes) -> bytes:
    return b"--" + _BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def _end() -> bytes:
    return b"--" + _BOUNDARY + b"--\r\n"


def _files(chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    yield from _pictures(chance)
    yield from _polyglots(chance)
    yield from _zips(chance)
    yield from _tars(chance)


# pictures


def _valid(chance: random.Random, form: str) -> bytes:
    size = (chance.randrange(1, 90), chance.randrange(1, 90))
    picture = noise(chance.randrange(1 << 30), size)
    if form in ("DNG", "RAW"):
        preview = encoded(picture, "JPEG") if chance.random() < 0.5 else None
        data = dng((2 * size[0] + 22, 2 * size[1] + 22), chance.randrange(9), preview)
        # without the version of DNG, it is told by the kind of its values
        return data if form == "DNG" else data.replace(struct.pack("<H", 50706), struct.pack("<H", 50705), 1)
    if form in ("PSD", "PSB"):
        return psd(np.asarray(picture), "RGB", packed=chance.random() < 0.5, large=form == "PSB")
    if form.startswith("DEEP"):
        return _many_bits(chance, form, size)
    if form in _CONTAINERS:
        even = (size[0] // 2 * 2 + 16, size[1] // 2 * 2 + 16)
        scenes = [noise(chance.randrange(1 << 30), even) for _ in range(chance.randrange(1, 4))]
        return film(scenes, frames=6, kind=_CONTAINERS[form])
    if form in ("PDF", "PAGES"):
        more = [noise(chance.randrange(1 << 30), size) for _ in range(chance.randrange(3))]
        return encoded(picture, "PDF" if form == "PDF" else "TIFF", save_all=True, append_images=more)
    if form in ("HEIF", "AVIF", "JXL"):
        return encoded(picture, form, **({"speed": 10} if form == "AVIF" else {}))
    if form == "GIF" or (form in ("PNG", "BMP", "TIFF") and chance.random() < 0.4):
        picture = picture.convert(chance.choice(("P", "L", "1") if form != "GIF" else ("P", "L")))
    options = {}
    if form == "TIFF":
        options["compression"] = chance.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits"))
        options = {name: value for name, value in options.items() if value and picture.mode == "RGB"}
    if form in ("JPEG", "PNG", "WEBP") and chance.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = chance.randrange(0, 99)
        exif[0x010E] = "x" * chance.randrange(500)
        return encoded(picture, form, exif=exif, **options)
    return encoded(picture, form, **options)


def _many_bits(chance: random.Random, form: str, size: tuple[int, int]) -> bytes:
    """Return a picture of more than 8 bits, with what such files say of their values and colours."""
    values = np.random.default_rng(chance.randrange(1 << 30)).integers(0, chance.choice((4096, 65536)), (*size, 3))
    if form == "DEEP PNG":
        names = chance.sample([b"cICP", b"sBIT", b"tRNS", b"gAMA", b"iCCP", b"acTL", b"fcTL"], 3)
        return png(values.astype(np.uint16), [(name, chance.randbytes(chance.randrange(3, 30))) for name in names])
    target, kind = io.BytesIO(), chance.choice((np.uint16, np.int16, np.int32, np.float32, np.float64))
    colours = values.astype(np.uint16) if chance.random() < 0.5 else values[..., 0].astype(kind)
    options = {"compression": "zlib"} if chance.random() < 0.5 else {}
    photometric = "rgb" if colours.ndim == 3 else chance.choice(("minisblack", "miniswhite"))
    nodata = (42113, 2, 0, chance.choice(("-9999", "nan", "x")), True)
    order = chance.choice("<>")
    tifffile.imwrite(target, colours, photometric=photometric, byteorder=order, extratags=[nodata], **options)
    return target.getvalue()


def _flipped(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 30)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _truncated(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def _spliced(chance: random.Random, data: bytes) -> bytes:
    """Reorder, repeat and omit pieces."""
    places = sorted(chance.randrange(len(data)) for _ in range(4))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    return pieces[0] + b"".join(chance.choices(pieces, k=chance.randrange(1, 9)))


def _overwritten(chance: random.Random, data: bytes) -> bytes:
    at, count = chance.randrange(len(data)), chance.randrange(1, 200)
    return data[:at] + bytes([chance.choice((0, 255, 127))]) * count + data[at + count :]


def _inserted(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + chance.randbytes(chance.randrange(1, 3000)) + data[at:]


def _header_swapped(chance: random.Random, data: bytes) -> bytes:
    """Put the header of one format on the data of another."""
    other = _valid(chance, chance.choice(FORMATS))
    return data[: chance.randrange(4, 40)] + other[chance.randrange(40) :]


def _oversized(chance: random.Random, form: str) -> bytes:
    """Write extreme dimensions into the header of a small file."""
    wide, high = (chance.choice((0, 1, 300, 4_000, 4_400, 65_500, 1 << 31, 0xFFFFFFFF)) for _ in range(2))
    data = bytearray(_valid(chance, form))
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
    _flipped,
    _truncated,
    _spliced,
    _overwritten,
    _inserted,
    _header_swapped,
)


def _pictures(chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    for number in range(PICTURES):
        oversized = number % 6 == 5
        form = FORMATS[(number // 6 if oversized else number - number // 6) % len(FORMATS)]
        name = f"{number}.{chance.choice((form.lower(), 'png', 'txt', 'html', 'zip'))}"
        if oversized:
            yield f"oversized {form}", name, _oversized(chance, form)
        else:
            mutation = chance.choice(_MUTATIONS)
            yield f"{mutation.__name__} {form}", name, mutation(chance, _valid(chance, form))


def _polyglots(chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """Generate markup with the headers of pictures, and pictures with markup before, inside and after them."""
    kinds = list(_MARKUP)
    for number in range(POLYGLOTS):
        kind, form = kinds[number % len(kinds)], FORMATS[(number + number // len(FORMATS)) % len(FORMATS)]
        markup, data = _MARKUP[kind], _valid(chance, form)
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


# archives


def _zips(chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    fixed = {**handmade.OVERLAPPING, **{name: make for name, (_, make) in handmade.REFUSED.items()}, **_nested()}
    for name, make in fixed.items():
        yield name, f"{name}.zip", make()
    for number in range(ZIPS - len(fixed)):
        entries = [_entry(chance, place) for place in range(chance.randrange(1, 6))]
        data = made(entries)
        if chance.random() < 0.8:
            mutation = chance.choice((_flipped, _truncated, _spliced, _overwritten, _inserted))
            yield f"ZIP {mutation.__name__}", f"{number}.zip", mutation(chance, data)
        else:
            count, at = chance.randrange(70_000) & 0xFFFF, chance.choice((0, 1, 1 << 20, 0xFFFFFFFF))
            yield "ZIP with a false directory", f"{number}.zip", made(entries, count=count, directory_at=at)


def _entry(chance: random.Random, place: int) -> Entry:
    name = chance.choice(
        (f"{place}.png", f"../../{place}.txt", f"/etc/{place}.txt", "", "\0", f"{place}\0.png", "dir/", "..\\..\\x.txt")
    )
    content = chance.choice((_valid(chance, "PNG"), b"some words %d" % chance.randrange(1 << 30), b"", _MARKUP["html"]))
    entry = Entry(name.encode(), content, method=chance.choice((0, 8, 12, 14)))
    if chance.random() < 0.3:
        entry.flags = 1 << chance.randrange(16)
    if chance.random() < 0.2:
        entry.local = {chance.choice(("size", "packed", "crc")): chance.randrange(1 << 32)}
    if chance.random() < 0.2:
        entry.offset = chance.randrange(1 << 16)
    if chance.random() < 0.2:
        entry.mode = chance.randrange(1 << 16)
    return entry


def _tars(chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    fixed = {
        **handmade_tars.BROKEN,
        **handmade_tars.BOMBS,
        **{name: make for name, (_, make) in handmade_tars.REFUSED.items()},
    }
    inner = made([Entry()])
    fixed["a ZIP inside"] = lambda: handmade_tars.made([handmade_tars.entry(b"a.zip", inner)])
    fixed["a tar inside"] = lambda: handmade_tars.made([handmade_tars.entry(b"a.tar", fixed["a link"]())])
    fixed["gzip of gzip"] = lambda: gzip.compress(gzip.compress(b"x"))
    for name, make in fixed.items():
        yield f"tar: {name}", f"{name}.tar", make()
    packers = [*handmade_tars.PACKERS.values(), bytes]
    for number in range(TARS - len(fixed)):
        names = ("a.png", "../../b.txt", "/etc/c.txt", "x" * 250)
        files = {name: chance.choice((_valid(chance, "PNG"), b"words %d" % number, b"")) for name in names}
        kind = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        data = handmade_tars.tarred({name: content for name, content in files.items() if len(name) < 100 or kind}, kind)
        packer = chance.choice(packers)
        mutation = chance.choice((_flipped, _truncated, _spliced, _overwritten, _inserted))
        before = chance.random() < 0.5
        changed = packer(mutation(chance, data)) if before else mutation(chance, packer(data))
        yield f"tar {mutation.__name__}", f"{number}.tar", changed


def _nested() -> dict[str, Callable[[], bytes]]:
    inner = made([Entry()])
    heads = {"7z": b"7z\xbc\xaf\x27\x1c", "gz": b"\x1f\x8b\x08", "xz": b"\xfd7zXZ\0", "rar": b"Rar!\x1a\x07"}
    heads |= {"tar": bytes(257) + b"ustar\0", "bz2": b"BZh91AY"}
    kinds = {name: head + bytes(99) for name, head in heads.items()} | {"zip": inner}
    return {
        **{
            f"a {name} inside": lambda data=data, name=name: made([Entry(f"a.{name}".encode(), data)])
            for name, data in kinds.items()
        },
        "ZIPs ten deep": lambda: _deep(inner),
        "20,001 files": lambda: made([Entry(b"%d.txt" % n, b"") for n in range(20_001)]),
    }


def _deep(data: bytes) -> bytes:
    for _ in range(10):
        data = made([Entry(b"a.zip", data)])
    return data


# forms


def _broken_forms(chance: random.Random) -> Iterator[Case]:
    picture = encoded(noise(1), "PNG")
    plain = b'Content-Disposition: form-data; name="file"; filename="a.png"'
    whole = _part(plain, picture) + _end()
    heads = [
        b'Content-Disposition: form-data; name="file"; filename="a\0b.png"',
        b'Content-Disposition: form-data; name="file\0"; filename="a.png"',
        b'Content-Disposition: form-data; name="file"; filename="../../../etc/passwd"',
        b'Content-Disposition: form-data; name="file"; filename="' + b"x" * 9000 + b'.png"',
        b"Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''%ff%fe%00.png",
        b"Content-Disposition: form-data; name=\"file\"; filename*=no-such-charset''a.png",
        b'Content-Disposition: form-data; name="file"; filename*0="a"; filename*9="b"',
        b'Content-Disposition: form-data; name="file"; filename="\xff\xfe\x80.png"',
        b'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: multipart/mixed; boundary=in',
        b'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: text/plain; charset=utf-7',
        b'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Transfer-Encoding: base64',
        b'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Length: -1',
        b'Content-Disposition: form-data; name="file"; filename="a.png"\r\nX: ' + b"y" * 40_000,
        b'Content-Disposition: form-data; name="file"\r\nContent-Type: text/plain; charset=no-such',
        b'Content-Disposition: form-data; filename="a.png"',
        b'Content-Disposition: attachment; name="file"; filename="a.png"',
        b"Content-Disposition: form-data; name=; filename=",
        b'Content-Disposition: form-data; name="file; filename="a.png',
        b"Content-Disposition",
        b"Content-Type: image/png",
        b": nothing",
        b"\0\0\0\0",
        b"",
    ]
    inner = _part(plain, picture).replace(_BOUNDARY, b"in") + b"--in--\r\n"
    bodies = [
        (whole, _multipart(boundary)) for boundary in (b"", b"other", b'"', b"x" * 9000, b"\xff", b"xyz", b'"xyz\\')
    ]
    bodies += [
        (whole, kind)
        for kind in (
            "multipart/form-data",
            "multipart/form-data; boundary",
            "multipart/mixed; boundary=xyzxyz",
            "",
            "image/png",
            "application/x-www-form-urlencoded",
            "text/html",
            "multipart/form-data; boundary*=utf-8''xyzxyz",
        )
    ]
    bodies += [(_part(head, picture) + _end(), _multipart()) for head in heads]
    bodies += [
        (b"", _multipart()),
        (_end(), _multipart()),
        (_end() + whole, _multipart()),
        (whole[: -len(_end())], _multipart()),
        (_part(plain, inner) + _end(), _multipart()),
        (_part(b"Content-Type: multipart/mixed; boundary=in", inner) + _end(), _multipart()),
        (b"a=b&" * 300_000, "application/x-www-form-urlencoded"),
        (
            b"".join(_part(b'Content-Disposition: form-data; name="f%d"' % n, b"x") for n in range(30_000)) + _end(),
            _multipart(),
        ),
        (_part(b'Content-Disposition: form-data; name="file"', b"x" * 3_000_000) + _end(), _multipart()),
        (whole.replace(b"\r\n", b"\n"), _multipart()),
        (b"\r\n" * 50_000 + whole, _multipart()),
    ]
    for number in range(FORMS):
        if number < len(bodies):
            body, kind = bodies[number]
            yield Case(f"form {number}", body, kind)
            continue
        # the file is not readable, so that an undamaged form is not a valid upload either
        body = _part(plain, picture[:60]) + _end()
        mutation = chance.choice((_flipped, _truncated, _spliced, _overwritten, _inserted))
        changed = mutation(chance, body)
        length = None if chance.random() < 0.6 else len(changed) + chance.choice((-20, -1, 1, 50, 100_000))
        yield Case(
            f"form {number} {mutation.__name__}, length {length}",
            changed,
            _multipart(),
            length,
        )


# sheets of captions, and texts as JSON


# a sheet of each form that people have, with the suffix that it comes with
SHEET_FORMS = {
    "CSV": ("csv", b"file,caption\na.png,a robin\nb.png,a wren\n"),
    "TSV": ("tsv", b"file\tcaption\na.png\ta robin\nb.png\ta wren\n"),
    "JSON Lines": ("jsonl", b'{"file": "a.png", "caption": "a robin"}\n{"text": "a wren"}\n'),
    "text": ("txt", b"a robin\non a fence\n"),
    "list": ("json", b'[{"file_name": "a.png", "text": "a robin"}, {"file_name": "b.png", "text": "a wren"}]'),
    "mapping": ("json", b'{"a.png": "a robin", "b.png": ["a wren", "a bird"]}'),
    "COCO": (
        "json",
        b'{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a robin"}]}',
    ),
    "Karpathy": ("json", b'{"images": [{"filename": "a.png", "sentences": [{"raw": "a robin"}, {"raw": "a bird"}]}]}'),
    "Flickr8k": ("txt", b"image,caption\na.png,a robin\na.png,a bird\n"),
    "Flickr8k tokens": ("txt", b"a.png#0\ta robin\na.png#1\ta bird\n"),
    "Flickr30k": ("csv", b"image_name| comment_number| comment\na.png| 0| a robin\na.png| 1| a bird\n"),
    "Excel": ("csv", b"sep=;\r\nfile;caption\r\na.png;a robin\r\n"),
    "img2dataset": ("json", b'{"caption": "a robin", "url": "http://x/a.png", "key": "000", "status": "success"}'),
    "Takeout": ("json", b'{"title": "a.png", "description": "a robin", "photoTakenTime": {"timestamp": "1"}}'),
    "XMP": (
        "xmp",
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt><rdf:li '
        b'xml:lang="x-default">a robin</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>',
    ),
    "caption": ("caption", b"a robin"),
}


def _sheets(chance: random.Random) -> Iterator[Case]:
    fixed: list[tuple[str, bytes]] = [
        ("csv", b"file,caption\na.png,\xff\xfe\n"),
        ("csv", b"file,caption\na.png,a\0b\n"),
        ("csv", b'file,caption\na.png,"never closed\n' + b"x,y\n" * 5000),
        ("csv", b"file,caption\na.png," + b"x" * 3_000_000),
        ("csv", b"file,caption\n" + b"," * 400_000),
        ("csv", b"a,b,c\n1,2,3\n"),
        ("csv", b"file,file,caption\na,b,c\n"),
        ("csv", b"file\n"),
        ("csv", b"\n\n\n"),
        ("csv", b'"\n'),
        ("csv", b"file,caption\r\r\n\ra.png\r"),
        ("csv", b"sep=;\nfile;caption\n=cmd|' /C calc'!A0;x\n"),
        ("tsv", b"file\tcaption\n" + b"\t" * 70_000),
        ("csv", b"\xef\xbb\xbf\xef\xbb\xbffile,caption\na,b\n"),
        ("csv", "file,caption\nä,".encode("utf-16")),
        ("jsonl", b"[" * 200_000),
        ("jsonl", b'{"a":' * 100_000),
        ("jsonl", b'{"text": "' + b"[" * 100_000 + b'"}'),
        ("jsonl", b'{"text": "a\\u0000b"}\n'),
        ("jsonl", b'{"text": "\\ud800"}\n'),
        ("jsonl", b'{"file": "\\udfff", "caption": "\\ud800"}\n'),
        ("jsonl", b'{"file": 1, "caption": []}\n'),
        ("jsonl", b'{"text": ' + b"9" * 10_000 + b"}\n"),
        ("jsonl", b'{"text": NaN}\n{"text": 1e999999}\n'),
        ("jsonl", b'null\ntrue\n3\n[]\n""\n'),
        ("jsonl", b'{"text": "x"' * 9),
        ("jsonl", b'{"text": "x", "text": "y", "caption": "z", "file": null}\n'),
        ("jsonl", b"\xff\xfe\n"),
        ("json", b'[{"caption": "a"}]'),
        ("json", b"[" + b"{}," * 100_000 + b"1]"),
        (
            "json",
            b'{"images": [{"id": 1, "file_name": 2}], "annotations": [{"image_id": [1], "caption": {"raw": "x"}}]}',
        ),
        ("json", b'{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]} trailing'),
        ("json", b'{"images": [{"filename": "../../a.png", "sentences": [{"raw": "a\\u0000"}]}]}'),
        ("json", b'{"a.png": ' + b"[" * 5_000),
        ("json", b'{"a.png": "' + b"x" * 100_000 + b'"}'),
        ("json", b'[{"file": "a.png", "caption": ' + b"1" * 5_000 + b"}]"),
        ("json", json.dumps([{"file": "a.png", "caption": [["x"] * 60_000] * 2}]).encode()),
        ("tsv", b'file\tcaption\na.png\t"' + b'x","a\n' * 20_000),
        ("csv", b"image_name|comment_number|comment\n" + b"a.png|0\n" * 5_000),
        ("csv", b"file,caption\n" + b'x","a\n' * 50_000),
        ("csv", b"sep=\n" * 5_000),
        ("csv", ("file,caption\na.png," + "\u0416" * 20).encode("cp1251")),
        ("csv", b"file,caption\n" + b"/".join([b".."] * 2_000) + b",x\n"),
        ("txt", b"a.png#0\ta robin\n" * 2_000),
        ("caption", b"a robin"),
        ("xmp", b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 1000 + b'"><!ENTITY b "' + b"&a;" * 1000 + b'">]><x>&b;</x>'),
        ("xmp", b"<a>" * 100_000),
        ("xmp", b"\xff" * 1_000),
        ("json", b'{"text": "' + b"x" * 5_000_000),
        ("txt", b"\xff\xff"),
        ("txt", b"a\0b"),
        ("txt", b"\xed\xa0\x80"),
        ("txt", b"x" * 200_000),
        ("txt", b" \n\t "),
        ("txt", "\u202e\u2066".encode()),
    ]
    texts = [
        b"{",
        b"[" * 100_000,
        b'{"items":' * 50_000,
        b'{"items": [{"text": "\\ud800"}]}',
        b'{"items": [{"text": "a\\u0000"}]}',
        b'{"items": [{"text": "a", "name": "\\udc00"}]}',
        b'{"items": [{"text": 1e400}]}',
        b'{"items": [' + b"9" * 10_000 + b"]}",
        b'{"items": [{"text": "' + b"x" * 4_000_000 + b'"}]}',
        b'{"items": ' + json.dumps([{"text": "x"}] * 10_001).encode() + b"}",
        b"\xff\xfe",
        "{}".encode("utf-16"),
        b"null",
    ]
    made_cases = [_form(f"sheet {number}", f"{number}.{suffix}", data) for number, (suffix, data) in enumerate(fixed)]
    made_cases += [Case(f"text {number}", body, "application/json") for number, body in enumerate(texts)]
    for number in range(SHEETS - len(made_cases)):
        form = list(SHEET_FORMS)[number % len(SHEET_FORMS)]
        suffix, data = SHEET_FORMS[form]
        mutation = chance.choice((_flipped, _spliced, _overwritten, _inserted))
        # a NUL, so that none of them is a valid upload by chance
        made_cases.append(
            _form(f"sheet {mutation.__name__} {form}", f"m{number}.{suffix}", mutation(chance, data) + b"\0")
        )
    yield from made_cases


def valid_picture() -> bytes:
    """Return a valid picture."""
    target = io.BytesIO()
    Image.new("RGB", (64, 48), "green").save(target, "PNG")
    return target.getvalue()
