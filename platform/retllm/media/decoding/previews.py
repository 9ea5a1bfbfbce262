"""Find the previews that cameras put into raw files: JPEGs at the places that TIFF, RAF and Canon's boxes name.

Every camera's file has some, also that of one which came out after the library that develops raw files.
"""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin

from retllm.media.decoding import blemishes

_ORIENTATION = 274
_COMPRESSION, _STRIPS, _STRIP_SIZES, _SUB_IFDS, _EXIF = 259, 273, 279, 330, 34665
_JPEG_AT, _JPEG_SIZE = 513, 514
_PANASONIC_JPEG = 46
_JPEG_METHODS = (6, 7)
_TIFF = (b"II", b"MM")
_RAF, _RAF_PLACE = b"FUJIFILMCCD-RAW", struct.Struct(">84x2I")
_SOI = b"\xff\xd8\xff"
# boxes of ISO/IEC 14496-12 and of Canon's CR3 that hold others, and those that hold a JPEG after some numbers
_HOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"uuid")
_JPEGS = (b"THMB", b"PRVW")
_NUMBERS = 32
_UUID = 16
_MAX_PLACES = 1000

Place = tuple[int, int]
"""Where a JPEG begins and ends."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A JPEG file, and the EXIF orientation of the whole if it says one."""

    jpeg: bytes
    orientation: int | None = None


def largest(data: bytes) -> Preview | None:
    """Return the preview with the most pixels that can be decoded; None if there is none."""
    reader = _Reader(data)
    with suppress(Exception):  # structures of hostile bytes raise anything; what was found before counts
        reader.read()
    found = []
    for start, end in dict.fromkeys(reader.places[:_MAX_PLACES]):
        jpeg = data[start:end]
        if jpeg.startswith(_SOI) and not blemishes.unread_kind(jpeg):
            with suppress(Exception), Image.open(io.BytesIO(jpeg), formats=("JPEG", "MPO")) as picture:
                found.append((picture.width * picture.height, jpeg))
    for _, jpeg in sorted(found, key=lambda each: -each[0]):
        if _is_sound(jpeg):
            return Preview(jpeg, reader.orientation)
    return None


def _is_sound(jpeg: bytes) -> bool:
    with suppress(Exception), Image.open(io.BytesIO(jpeg), formats=("JPEG", "MPO")) as picture:
        picture.draft(None, (64, 64))
        picture.load()
        return True
    return False


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MAX_PLACES  # directories and boxes
        self.places: list[Place] = []
        self.orientation: int | None = None

    def read(self) -> None:
        if self._data[4:8] == b"ftyp":
            self._boxes(0, len(self._data))
        elif self._data.startswith(_RAF):
            at, size = _RAF_PLACE.unpack_from(self._data)
            self.places.append((at, at + size))
        elif self._data[:2] in _TIFF:
            self._tiff(self._data)

    def _tiff(self, data: bytes) -> None:
        """Read the directories of a TIFF; other signatures of its kinds differ in their third and fourth byte."""
        form = "<" if data[:2] == b"II" else ">"
        head = (b"II*\0" if form == "<" else b"MM\0*") + data[4:8]
        open_, seen = [struct.unpack(form + "I", head[4:])[0]], set()
        while open_:
            at = open_.pop(0)
            if not 8 <= at < len(data) or at in seen or not self._count():
                continue
            seen.add(at)
            tags = TiffImagePlugin.ImageFileDirectory_v2(head)
            stream = io.BytesIO(data)
            stream.seek(at)
            with suppress(Exception):  # one directory may be damaged, and others sound
                tags.load(stream)
                open_ += [*_numbers(tags, _SUB_IFDS), *_numbers(tags, _EXIF), tags.next]
            self._directory(tags)

    def _directory(self, tags: Any) -> None:
        if self.orientation is None:
            self.orientation = next(iter(_numbers(tags, _ORIENTATION)), None)
        pairs = [(_JPEG_AT, _JPEG_SIZE)]
        if next(iter(_numbers(tags, _COMPRESSION)), 0) in _JPEG_METHODS:
            pairs.append((_STRIPS, _STRIP_SIZES))
        for places, sizes in pairs:
            self.places += [
                (at, at + size) for at, size in zip(_numbers(tags, places), _numbers(tags, sizes), strict=False)
            ]
        jpeg = tags.get(_PANASONIC_JPEG)
        if isinstance(jpeg, bytes) and jpeg.startswith(_SOI) and (at := self._data.find(jpeg)) >= 0:
            self.places.append((at, at + len(jpeg)))

    def _boxes(self, start: int, end: int) -> None:
        chunk = size = 0  # of the first sample of a track
        while start + 8 <= end and self._count():
            length, kind, head = int.from_bytes(self._data[start : start + 4]), self._data[start + 4 : start + 8], 8
            if length == 1:
                length, head = int.from_bytes(self._data[start + 8 : start + 16]), 16
            stop = start + length if length else end
            if stop < start + head or stop > end:
                return
            inside = start + head
            if kind in _HOLDERS:
                self._boxes(self._first_box(kind, inside), stop)
            elif kind in _JPEGS:
                at = self._data.find(_SOI, inside, min(stop, inside + _NUMBERS))
                self.places.append((at, stop))
            elif kind == b"CMT1":
                self._tiff(self._data[inside:stop])
            elif kind in (b"stco", b"co64"):  # version, count, places
                chunk = int.from_bytes(self._data[inside + 8 : inside + (12 if kind == b"stco" else 16)])
            elif kind == b"stsz":  # version, one size for all or 0, count, sizes
                size = int.from_bytes(self._data[inside + 4 : inside + 8])
                size = size or int.from_bytes(self._data[inside + 12 : inside + 16])
            start = stop
        if chunk and size:
            self.places.append((chunk, chunk + size))

    def _first_box(self, kind: bytes, at: int) -> int:
        if kind != b"uuid":
            return at
        # a version and a number may stand before the boxes
        at += _UUID
        return at if self._data[at + 4 : at + 8].isalnum() else at + 8

    def _count(self) -> bool:
        self._left -= 1
        return self._left >= 0


def _numbers(tags: Any, tag: int) -> list[int]:
    value = tags.get(tag)
    values = value if isinstance(value, tuple) else (value,)
    return [number for number in values if isinstance(number, int)]
