"""The fields that IPTC's Information Interchange Model (IIM 4.2) has in a picture's file."""

from __future__ import annotations

from collections.abc import Iterator

# record 2 holds the application's fields
TITLE, KEYWORD, DATE, TIME, CAPTION = (2, 5), (2, 25), (2, 55), (2, 60), (2, 120)
_MARKER = 0x1C
_CHARACTER_SET = (1, 90)
_UTF8 = b"\x1b%G"
_EXTENDED = 0x8000
# Photoshop's resources; 0x0404 is IPTC
_RESOURCE = b"8BIM"
_IPTC_RESOURCE = 0x0404
_MAX_FIELDS = 10_000


def texts(data: bytes) -> dict[tuple[int, int], list[str]]:
    """Return the texts of the fields, or of those in Photoshop's resources, by record and number."""
    found: dict[tuple[int, int], list[bytes]] = {}
    codec = "utf-8"
    for key, value in _fields(_iim(data)):
        if key == _CHARACTER_SET and value != _UTF8:
            codec = "cp1252"
        found.setdefault(key, []).append(value)
    # a caption may be cut into pieces within a character
    if CAPTION in found:
        found[CAPTION] = [b"".join(found[CAPTION])]
    return {key: [decoded(value, codec) for value in values] for key, values in found.items()}


def decoded(value: bytes | str | None, codec: str = "utf-8") -> str:
    """Return a text; Windows-1252 if it is not in ``codec``."""
    if not isinstance(value, bytes):
        return value or ""
    try:
        return value.decode(codec)
    except UnicodeDecodeError:
        return value.decode("cp1252", errors="replace")


def _iim(data: bytes) -> bytes:
    """Return the IIM fields in Photoshop's resources, or ``data`` if it begins with a field itself."""
    at = data.find(_RESOURCE)
    if data[:1] == bytes([_MARKER]) or at < 0:
        return data
    while data[at : at + 4] == _RESOURCE:
        kind = int.from_bytes(data[at + 4 : at + 6])
        # a Pascal string with its length, padded to an even number, as the data are
        name = data[at + 6] if at + 6 < len(data) else 0
        at += 6 + (name + 2) // 2 * 2
        size = int.from_bytes(data[at : at + 4])
        if kind == _IPTC_RESOURCE:
            return data[at + 4 : at + 4 + size]
        at += 4 + (size + 1) // 2 * 2
    return b""


def _fields(data: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    at = 0
    for _ in range(_MAX_FIELDS):
        if len(data) < at + 5 or data[at] != _MARKER:
            return
        key, size = (data[at + 1], data[at + 2]), int.from_bytes(data[at + 3 : at + 5])
        at += 5
        if size & _EXTENDED:
            # the size itself follows, in so many bytes
            width = size & ~_EXTENDED
            size = int.from_bytes(data[at : at + width]) if width <= 4 else len(data)
            at += width
        if at + size > len(data):
            return
        yield key, data[at : at + size]
        at += size
