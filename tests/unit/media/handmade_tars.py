"""Tars built header by header, with defects that no ordinary tool produces."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

END = bytes(1024)


def header(name: bytes = b"a.txt", size: int = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """Return a header in the format of POSIX.1-1988 (ustar); ``fields`` replaces bytes at offsets."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    for at, value in fields.items():
        start = int(at.removeprefix("at"))
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def entry(name: bytes = b"a.txt", content: bytes = b"some words", kind: bytes = b"0", **fields: bytes) -> bytes:
    """Return an entry with its content."""
    return header(name, len(content), kind, **fields) + content + bytes(-len(content) % 512)


def pax(values: Mapping[str, bytes]) -> bytes:
    """Return a header of POSIX.1-2001 with these values for the next entry."""
    records = b""
    for key, value in values.items():
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        records += str(length).encode() + rest
    return entry(b"PaxHeaders/a", records, b"x")


def made(entries: Sequence[bytes], end: bytes = END) -> bytes:
    """Return a tar of these entries."""
    return b"".join(entries) + end


def tarred(files: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT, **options: Any) -> bytes:
    """Return a tar of these files, as the standard library makes it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=kind, **options) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def _zeros(count: int) -> bytes:
    return made([entry(content=bytes(count))])


_SPARSE_MAP = bytes(504) + b"\1" + bytes(7)

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}

BROKEN: dict[str, Callable[[], bytes]] = {
    "a wrong checksum": lambda: made([entry(), entry(b"b.txt")]).replace(b"b.txt", b"c.txt"),
    "a file cut short": lambda: made([entry(content=b"x" * 5_000)])[:3_000],
    "a size beyond the end": lambda: made([header(size=0o77777777777)]),
    "a size of 2**88": lambda: made([header(at124=b"\x80" + b"\xff" * 11)]),
    "a negative size": lambda: made([header(at124=b"\xff" * 12)]),
    "a size that is no number": lambda: made([header(at124=b"12345678x9\0")]),
    "another size by POSIX.1-2001": lambda: made([pax({"size": b"99999999"}), entry()]),
    "a size by POSIX.1-2001 that is no number": lambda: made([pax({"size": b"-5"}), entry()]),
    "a size by POSIX.1-2001 of 5,000 digits": lambda: made([pax({"size": b"9" * 5_000}), entry()]),
    "a record longer than its header": lambda: made([entry(b"x", b"99 path=b.txt\n", b"x"), entry()]),
    "a record of no length": lambda: made([entry(b"x", b"0 path=b.txt\n", b"x"), entry()]),
    "a name of 2 MiB": lambda: made([entry(b"x", b"n" * (2 << 20), b"L"), entry()]),
    "a truncated gzip": lambda: gzip.compress(tarred({"a.txt": bytes(range(256)) * 20}))[:-200],
    "a damaged gzip": lambda: gzip.compress(made([entry()]))[:40] + b"\xff" * 40,
    "a gzip with a wrong CRC": lambda: gzip.compress(made([entry()]))[:-8] + bytes(8),
    "a truncated bzip2": lambda: bz2.compress(made([entry()]))[:-20],
    "an xz that takes 128 MiB": lambda: lzma.compress(
        made([entry()]), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 27}]
    ),
}
"""Tars that are refused as a whole because they can't be read."""

_LINK = "link"
REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a link": (_LINK, lambda: made([header(kind=b"2", at157=b"/etc/passwd")])),
    "a hard link to nothing": (_LINK, lambda: made([entry(b"b.txt"), header(kind=b"1", at157=b"c.txt")])),
    "a link that leads out of the tar": (_LINK, lambda: made([entry(b"b.txt"), header(kind=b"2", at157=b"../b.txt")])),
    "a link to itself": (_LINK, lambda: made([entry(b"b.txt"), header(kind=b"2", at157=b"a.txt")])),
    "a character device": ("device", lambda: made([header(kind=b"3")])),
    "a block device": ("device", lambda: made([header(kind=b"4")])),
    "a pipe": ("pipe", lambda: made([header(kind=b"6")])),
    "an unknown kind": ("no file", lambda: made([entry(kind=b"Q")])),
    "a file of several volumes": ("another volume", lambda: made([entry(kind=b"M")])),
    "a sparse file of GNU tar": ("sparse", lambda: made([entry(kind=b"S")])),
    "a sparse file with a long map": (
        "sparse",
        lambda: made([header(kind=b"S", at482=b"\1"), _SPARSE_MAP, bytes(512), entry(b"b.txt")]),
    ),
    "a sparse file by POSIX.1-2001": ("sparse", lambda: made([pax({"GNU.sparse.major": b"1"}), entry()])),
    "a sparse file with a name by POSIX.1-2001": (
        "sparse",
        lambda: made([pax({"GNU.sparse.name": b"a.txt", "GNU.sparse.realsize": b"999"}), entry(b"GNUSparseFile.0/x")]),
    ),
}
"""Tars with one entry, a.txt, that is refused, each with a part of the error message."""

BOMBS: dict[str, Callable[[], bytes]] = {
    "gz": lambda: gzip.compress(_zeros(6 << 20)),
    "bz2": lambda: bz2.compress(_zeros(6 << 20)),
    "xz": lambda: lzma.compress(_zeros(6 << 20)),
    "gz of headers": lambda: gzip.compress(header() * 12_000),
}
"""Compressed tars that unpack to far more than their size."""


_MUCH = b"x" * 900_000

TALKATIVE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "attributes": ("attributes", lambda: made([*(pax({f"SCHILY.xattr.{n}": _MUCH}) for n in range(40)), entry()])),
    "sparse maps": ("attributes", lambda: made([*(pax({f"GNU.sparse.{n}": _MUCH}) for n in range(40)), entry()])),
    "tiny attributes": ("attributes", lambda: made([entry(b"x", b"5 a=\n" * 200_000, b"x"), entry()])),
    "paths": ("names", lambda: made([pax({"path": _MUCH}), entry()] * 40)),
    "long names": ("names", lambda: made([entry(b"L", _MUCH, b"L"), entry()] * 40)),
    "names": ("names", lambda: made([entry(b"L", b"n" * 65_536, b"L"), entry()] * 40)),
}
"""Tars of files within the limits that say far too much of them, each with what it is."""


def incompressible(count: int) -> bytes:
    """Return bytes that no method makes smaller."""
    data, state = bytearray(), b"seed"
    while len(data) < count:
        state = zlib.crc32(state).to_bytes(4, "little") + state[:28]
        data += state
    return bytes(data[:count])
