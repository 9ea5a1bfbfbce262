"""Malformed and hostile uploads; a seed always generates the same ones."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pillow_heif
import pillow_jxl  # noqa: F401 - registers the format, to write it
from PIL import Image
from tests.functional.malformed_pictures import (
    MARKUP,
    PICTURES,
    POLYGLOTS,
    flipped,
    inserted,
    overwritten,
    pictures,
    polyglots,
    spliced,
    truncated,
    valid,
)
from tests.soak import scaled
from tests.unit.media import handmade, handmade_tars
from tests.unit.media.handmade import Entry, made
from tests.unit.media.samples import encoded, noise
from tests.unit.media.test_cut_archives import streamed

pillow_heif.register_heif_opener()

# the handwritten cases are always included, and generated ones fill up the rest
ZIPS, TARS, FORMS, SHEETS = scaled((80, 60, 80, 100), (240, 180, 160, 200))
TOTAL = PICTURES + POLYGLOTS + ZIPS + TARS + FORMS + SHEETS
_BOUNDARY = b"xyzxyz"


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
    yield from pictures(chance)
    yield from polyglots(chance)
    yield from _zips(chance)
    yield from _tars(chance)


# archives


def _zips(chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    fixed = {**handmade.OVERLAPPING, **{name: make for name, (_, make) in handmade.REFUSED.items()}, **_nested()}
    for name, make in fixed.items():
        yield name, f"{name}.zip", make()
    for number in range(ZIPS - len(fixed)):
        entries = [_entry(chance, place) for place in range(chance.randrange(1, 6))]
        data = made(entries)
        if chance.random() < 0.2:
            files = {f"{place}.png": entry.content for place, entry in enumerate(entries)}
            data = streamed(files, chance.choice((0, 8)))
            data = flipped(chance, data) if chance.random() < 0.5 else data
            yield "cut ZIP", f"{number}.zip", truncated(chance, data)
        elif chance.random() < 0.8:
            mutation = chance.choice((flipped, truncated, spliced, overwritten, inserted))
            yield f"ZIP {mutation.__name__}", f"{number}.zip", mutation(chance, data)
        else:
            count, at = chance.randrange(70_000) & 0xFFFF, chance.choice((0, 1, 1 << 20, 0xFFFFFFFF))
            yield "ZIP with a false directory", f"{number}.zip", made(entries, count=count, directory_at=at)


def _entry(chance: random.Random, place: int) -> Entry:
    name = chance.choice(
        (f"{place}.png", f"../../{place}.txt", f"/etc/{place}.txt", "", "\0", f"{place}\0.png", "dir/", "..\\..\\x.txt")
    )
    content = chance.choice((valid(chance, "PNG"), b"some words %d" % chance.randrange(1 << 30), b"", MARKUP["html"]))
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
        files = {name: chance.choice((valid(chance, "PNG"), b"words %d" % number, b"")) for name in names}
        kind = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        data = handmade_tars.tarred({name: content for name, content in files.items() if len(name) < 100 or kind}, kind)
        packer = chance.choice(packers)
        mutation = chance.choice((flipped, truncated, spliced, overwritten, inserted))
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
        mutation = chance.choice((flipped, truncated, spliced, overwritten, inserted))
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
    "MySQL": ("csv", b'file,caption\na.png,"a \\"red\\" robin"\nb.png,"a \\\\ wren"\n'),
    "list with wrong bytes": (
        "json",
        b'[{"file": "a.png", "text": "a robin"}, {"file": "b.png", "text": "a w\xffren"}]',
    ),
    "lines with wrong bytes": (
        "jsonl",
        b'{"file": "a.png", "text": "a robin"}\n{"file": "b\xe9.png", "text": "wren"}\n',
    ),
    "ACDSee": (
        "xmp",
        b'<r xmlns:a="http://ns.acdsee.com/iptc/1.0/" xmlns:p="http://ns.adobe.com/photoshop/1.0/" p:Headline="a wren">'
        b"<a:caption>a robin</a:caption><a:notes>a bird</a:notes></r>",
    ),
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
        mutation = chance.choice((flipped, spliced, overwritten, inserted))
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
