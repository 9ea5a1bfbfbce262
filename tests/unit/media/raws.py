"""Raw files of cameras, written by the specifications of TIFF 6.0 and DNG 1.4."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Value = int | str | bytes | Sequence[int] | Sequence[tuple[int, int]]


class _Writer:
    """Writes directories of a little-endian TIFF, with their values before them."""

    def __init__(self, signature: bytes = b"II*\0\0\0\0\0", order: str = "<") -> None:
        self.data = bytearray(signature)
        self._order = order

    def add(self, content: bytes) -> int:
        self.data += bytes(len(self.data) % 2)
        at = len(self.data)
        self.data += content
        return at

    def directory(self, tags: Mapping[int, Value], following: int = 0) -> int:
        rows = b""
        for tag, value in sorted(tags.items()):
            kind, count, body = _encoded(value, self._order)
            if len(body) > 4:
                body = self._packed("I", self.add(body))
            rows += self._packed("HHI", tag, kind, count) + body.ljust(4, b"\0")
        return self.add(self._packed("H", len(tags)) + rows + self._packed("I", following))

    def done(self, first: int) -> bytes:
        self.data[4:8] = self._packed("I", first)
        return bytes(self.data)

    def _packed(self, form: str, *values: int) -> bytes:
        return struct.pack(self._order + form, *values)


class Longs(tuple[int, ...]):
    """Numbers that are written in 32 bits each."""


def _encoded(value: Value, order: str) -> tuple[int, int, bytes]:
    if isinstance(value, int):
        return 4, 1, struct.pack(order + "I", value)
    if isinstance(value, str):
        return 2, len(value) + 1, value.encode() + b"\0"
    if isinstance(value, bytes):
        return 1, len(value), value
    if isinstance(value[0], tuple):
        pairs: Any = value
        return 10, len(value), b"".join(struct.pack(order + "ii", *pair) for pair in pairs)
    if isinstance(value, Longs):
        return 4, len(value), struct.pack(f"{order}{len(value)}I", *value)
    return 3, len(value), struct.pack(f"{order}{len(value)}H", *value)  # type: ignore[arg-type]


def tiff_of(tags: Mapping[int, Value], parts: Sequence[bytes], order: str = "<") -> bytes:
    """A TIFF of one directory with these strips, or tiles if the tags have their size; ``tags`` go before."""
    writer = _Writer(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0", order)
    places, sizes = (324, 325) if 322 in tags else (273, 279)
    starts = [writer.add(part) for part in parts]
    every: dict[int, Value] = {places: Longs(starts), sizes: Longs([len(part) for part in parts])}
    return writer.done(writer.directory({tag: value for tag, value in (every | tags).items() if value not in ([], ())}))


def _picture(writer: _Writer, pixels: np.ndarray[Any, Any], photometric: int) -> dict[int, Value]:
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    return {
        256: width,
        257: height,
        258: [8 * pixels.dtype.itemsize] * samples,
        259: 1,
        262: photometric,
        273: writer.add(pixels.tobytes()),
        277: samples,
        278: height,
        279: pixels.nbytes,
    }


def dng(size: tuple[int, int] = (64, 48), orientation: int = 1, preview: bytes | None = None) -> bytes:
    """A DNG with a thumbnail of 16 × 12, red above and blue below in its sensor values, and perhaps a JPEG preview."""
    writer = _Writer()
    width, height = size
    sensor = np.zeros((height, width), np.uint16)
    sensor[: height // 2 : 2, ::2] = 60_000  # red of RGGB
    sensor[height // 2 + 1 :: 2, 1::2] = 60_000  # blue
    raw: dict[int, Value] = _picture(writer, sensor, 32803) | {
        254: 0,
        33421: [2, 2],
        33422: bytes((0, 1, 1, 2)),
        50714: [0],
        50717: [65535],
    }
    subs = [writer.directory(raw)]
    if preview is not None:
        place = writer.add(preview)
        compressed: dict[int, Value] = {
            254: 1, 256: width, 257: height, 258: [8, 8, 8], 259: 7, 262: 6, 273: place, 277: 3, 278: height,
            279: len(preview),
        }  # fmt: skip
        subs.append(writer.directory(compressed))
    place = writer.add(struct.pack(f"<{len(subs)}I", *subs))
    first: dict[int, Value] = _picture(writer, np.full((12, 16, 3), 77, np.uint8), 2) | {
        254: 1,
        271: "Maker",
        272: "Model",
        274: [orientation],
        50706: bytes((1, 4, 0, 0)),
        50707: bytes((1, 1, 0, 0)),
        50708: "Maker Model",
        50721: [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)],
        50728: [(1, 1), (1, 1), (1, 1)],
        50778: [21],
    }
    at = writer.directory(first | {330: 0})
    _point(writer, at, 330, subs, place)
    return writer.done(at)


def _point(writer: _Writer, directory: int, tag: int, places: Sequence[int], table: int) -> None:
    """Let a tag of a directory name other directories."""
    (count,) = struct.unpack_from("<H", writer.data, directory)
    for row in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", writer.data, row)[0] == tag:
            value = places[0] if len(places) == 1 else table
            struct.pack_into("<HHII", writer.data, row, tag, 4, len(places), value)


def unknown(kind: str, previews: Sequence[bytes], orientation: int = 1) -> bytes:
    """A raw file of a camera that nobody knows, with these JPEGs where such cameras have them, and no values."""
    if kind == "CR3":
        return _unknown_boxes(previews, orientation)
    if kind == "RAF":
        head = b"FUJIFILMCCD-RAW 0201FF999999X-T99".ljust(84, b"\0")
        return head + struct.pack(">2I", 200, len(previews[0])) + bytes(108) + previews[0] + bytes(500)
    signatures = {"CR2": b"II*\0\0\0\0\0CR\2\0\0\0\0\0", "RW2": b"IIU\0\0\0\0\0"}
    order = ">" if kind == "NEF" else "<"
    writer = _Writer(signatures.get(kind, b"MM\0*\0\0\0\0" if order == ">" else b"II*\0\0\0\0\0"), order)
    places = [writer.add(preview) for preview in previews]
    subs = [
        writer.directory({254: 1, 259: 6, 513: place, 514: len(preview)})
        for place, preview in zip(places, previews, strict=True)
    ]
    camera: dict[int, Value] = {254: 1, 271: "NIKON" if kind == "NEF" else "Nobody", 272: "Z99", 274: [orientation]}
    if kind == "RW2":
        return writer.done(writer.directory(camera | {46: previews[0]}))
    if kind == "CR2":
        # the preview is a strip, and what follows a thumbnail
        after = writer.directory({513: places[1], 514: len(previews[1])}) if len(previews) > 1 else 0
        strip: dict[int, Value] = {259: 6, 273: places[0], 279: len(previews[0])}
        return writer.done(writer.directory(camera | strip, after))
    return writer.done(writer.directory(camera | {330: Longs(subs), 262: 32803}))


def _unknown_boxes(previews: Sequence[bytes], orientation: int) -> bytes:
    def box(kind: bytes, *content: bytes) -> bytes:
        body = b"".join(content)
        return struct.pack(">I4s", 8 + len(body), kind) + body

    def canon(start: str, *content: bytes) -> bytes:
        return box(b"uuid", bytes.fromhex(start).ljust(16, b"\7"), *content)

    def sized(kind: bytes, jpeg: bytes) -> bytes:
        return box(kind, bytes(16), jpeg, bytes(-len(jpeg) % 4))

    head = box(b"ftyp", b"crx \0\0\0\1crx isom")
    directory = tiff_of({271: "Nobody", 274: [orientation]}, [])
    small = canon("85c0b687", box(b"CNCV", b"CanonCR3_999"), box(b"CMT1", directory), sized(b"THMB", previews[-1]))
    middle = canon("eaf42b5e", bytes(7) + b"\1", sized(b"PRVW", previews[len(previews) // 2]))
    sizes = box(b"stsz", bytes(4), struct.pack(">II", len(previews[0]), 1))

    def movie(at: int) -> bytes:
        table = box(b"stbl", sizes, box(b"co64", bytes(4), struct.pack(">IQ", 1, at)))
        return box(b"moov", small, box(b"trak", box(b"mdia", box(b"minf", table))))

    before = len(head) + len(movie(0)) + len(middle) + 8
    return head + movie(before) + middle + box(b"mdat", previews[0], bytes(999))
