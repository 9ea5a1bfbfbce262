"""ZIPs built entry by entry, with defects that no ordinary ZIP tool produces."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Entry:
    """An entry; the defaults match its content. ``local`` overrides fields of the local header."""

    name: bytes = b"a.txt"
    content: bytes = b"some words"
    method: int = zipfile.ZIP_STORED
    flags: int = 0
    mode: int = 0
    packed: bytes | None = None
    size: int | None = None
    crc: int | None = None
    local: dict[str, Any] = field(default_factory=dict)
    offset: int | None = None
    """The offset in the directory, if it is not the true one."""
    written: bool = True
    """Whether the entry itself is written to the file."""
    extra: bytes = b""
    """The extra field in the directory."""
    dos: int = 0
    """The attributes of MS-DOS."""

    def facts(self) -> dict[str, Any]:
        packed = self.bytes()
        return {
            "name": self.name,
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.content) if self.crc is None else self.crc,
            "packed": len(packed),
            "size": len(self.content) if self.size is None else self.size,
        }

    def bytes(self) -> bytes:
        """The compressed content."""
        if self.packed is not None:
            return self.packed
        return deflated(self.content) if self.method == zipfile.ZIP_DEFLATED else self.content


def deflated(content: bytes) -> bytes:
    """Compress with raw Deflate."""
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(content) + packer.flush()


def made(entries: Sequence[Entry], *, directory_at: int | None = None, count: int | None = None) -> bytes:
    """Return a ZIP with these entries."""
    body, directory, offsets = bytearray(), bytearray(), []
    for entry in entries:
        offsets.append(len(body) if entry.offset is None else entry.offset)
        if entry.written:
            info = entry.facts() | entry.local
            name = info["name"]
            head = (20, info["flags"], info["method"], 0, 33, info["crc"], info["packed"], info["size"], len(name), 0)
            body += struct.pack("<4s5H3L2H", b"PK\x03\x04", *head) + name + entry.bytes()
    for entry, offset in zip(entries, offsets, strict=True):
        info = entry.facts()
        head = (0x0314, 20, info["flags"], info["method"], 0, 33, info["crc"], info["packed"], info["size"])
        tail = (len(entry.name), len(entry.extra), 0, 0, 0, entry.mode << 16 | entry.dos, offset)
        directory += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *head, *tail) + entry.name + entry.extra
    at = len(body) if directory_at is None else directory_at
    number = len(entries) if count is None else count
    return bytes(body + directory) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, number, number, len(directory), at, 0)


def unicode_path(name: bytes, path: str, *, version: int = 1) -> bytes:
    """Return Info-ZIP's Unicode Path field for an entry with this name."""
    field = struct.pack("<BL", version, zlib.crc32(name)) + path.encode()
    return struct.pack("<2H", 0x7075, len(field)) + field


def _overlapping() -> bytes:
    """Two directory entries that share the same bytes."""
    return made([Entry(b"a.txt"), Entry(b"a.txt", offset=0, written=False)])


def _nested_headers() -> bytes:
    """The stored bytes of the first entry contain the second with its header, as in Fifield's ZIP bombs."""
    inner = made([Entry(b"b.txt", b"inner")])
    inner = inner[: inner.index(b"PK\x01\x02")]
    return made([Entry(b"a.txt", inner), Entry(b"b.txt", b"inner", offset=35, written=False)])


def _over_the_directory() -> bytes:
    """An entry whose bytes extend into the directory."""
    data = bytearray(made([Entry(b"a.txt", b"x" * 64)]))
    directory = data.index(b"PK\x01\x02")
    for at in (18, 22):
        struct.pack_into("<L", data, at, 80)
        struct.pack_into("<L", data, directory + at + 2, 80)
    return bytes(data)


_BOMB = bytes(16 << 20)
_SMALL_BOMB = bytes(4 << 20)
OVERLAPPING: dict[str, Callable[[], bytes]] = {
    "one entry listed twice": _overlapping,
    "an entry inside an entry": _nested_headers,
    "an entry that overlaps the directory": _over_the_directory,
    "an entry after the directory": lambda: made([Entry(offset=10_000)]),
    "an entry far beyond the end of the file": lambda: made([Entry(offset=0xFFFFFFF0)]),
}
"""ZIPs that are refused as a whole."""

REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "encrypted": ("encrypted", lambda: made([Entry(flags=1)])),
    "strongly encrypted": ("encrypted", lambda: made([Entry(flags=0x41)])),
    "encrypted according to its local header": ("disagree", lambda: made([Entry(local={"flags": 1})])),
    "another name in its local header": ("disagree", lambda: made([Entry(local={"name": b"b.txt"})])),
    "another method in its local header": ("disagree", lambda: made([Entry(local={"method": 8})])),
    "another size in its local header": ("disagree", lambda: made([Entry(local={"size": 9})])),
    "another packed size in its local header": ("disagree", lambda: made([Entry(local={"packed": 9})])),
    "another CRC in its local header": ("disagree", lambda: made([Entry(local={"crc": 9})])),
    "an invalid local header": ("disagree", lambda: made([Entry()]).replace(b"PK\x03\x04", b"PK\x03\x05")),
    "a link": ("link", lambda: made([Entry(content=b"/etc/passwd", mode=stat.S_IFLNK | 0o777)])),
    "a character device": ("device", lambda: made([Entry(mode=stat.S_IFCHR | 0o666)])),
    "a block device": ("device", lambda: made([Entry(mode=stat.S_IFBLK | 0o666)])),
    "a pipe": ("pipe", lambda: made([Entry(mode=stat.S_IFIFO | 0o666)])),
    "a socket": ("pipe", lambda: made([Entry(mode=stat.S_IFSOCK | 0o666)])),
    "a folder according to its mode only": ("no file", lambda: made([Entry(mode=stat.S_IFDIR | 0o755)])),
    "a bomb with its true size": ("200 times", lambda: made([Entry(content=_SMALL_BOMB, method=8)])),
    "a bomb with a false size": (
        "more bytes than the ZIP states",
        lambda: made([Entry(content=_BOMB, method=8, size=99)]),
    ),
    "less content than declared": ("damaged", lambda: made([Entry(size=11)])),
    "a wrong CRC": ("damaged", lambda: made([Entry(crc=1)])),
    "invalid Deflate data": ("damaged", lambda: made([Entry(method=8, packed=b"\xff" * 9)])),
    "truncated Deflate data": ("damaged", lambda: made([Entry(method=8, packed=deflated(b"x" * 99)[:-4])])),
    "patched data": ("patch", lambda: made([Entry(flags=0x20)])),
    "bzip2": ("compressed with bzip2", lambda: made([Entry(method=12, packed=b"BZh9")])),
    "LZMA": ("compressed with LZMA", lambda: made([Entry(method=14, packed=b"\x09\x04\x05\0")])),
    "an unknown method": ("compressed with method 97", lambda: made([Entry(method=97, packed=b"x")])),
}
"""ZIPs with one entry that is refused, each with a part of the error message."""
