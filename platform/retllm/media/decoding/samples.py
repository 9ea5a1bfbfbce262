"""Samples of a TIFF with all their bits, for the kinds that Pillow has no mode for, or of which it keeps 8 bits.

Its decoders get the file's strips or tiles as gray of 8 bits, which they return byte by byte; the bytes are put
together here.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from retllm.media.decoding import tones

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _SAMPLES, _ROWS, _STRIP_SIZES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_SEPARATE = 2
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3  # predictors
_RAW = 1
_REVERSED = 2  # fill order: the lowest bit of each stored byte comes first
_REVERSE = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# methods that know nothing of samples, and those of them that a predictor goes with
_PREDICTED = (5, 8, 32946, 34925, 50000)  # LZW, Deflate and its old number, LZMA, Zstandard
_BYTEWISE = (_RAW, 32773, *_PREDICTED)  # PackBits
_GRAY = (0, 1)  # photometric interpretations
_CIE_LAB, _ICC_LAB = 8, 9
_COLOURS = {2: ("RGB", 3), 5: ("CMYK", 4), _CIE_LAB: ("LAB", 3), _ICC_LAB: ("LAB", 3)}
_PACKED_BITS = (2, 4, 6, 10, 12, 14)  # unsigned samples that share bytes
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of extra samples
_DTYPES = {
    1: {8: "u1", 16: "u2", 32: "u4", 64: "u8"},
    2: {8: "i1", 16: "i2", 32: "i4", 64: "i8"},
    3: {16: "f2", 32: "f4", 64: "f8"},
}
_MAX_SAMPLES = 64

Values = np.ndarray[tuple[int, ...], np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of a directory lie in its file.

    Attributes:
        mode: of the picture that they become: F, LA, RGB, RGBA, CMYK or LAB.
        bits: of a sample; ``dtype`` has more if samples share bytes.
        opacity: the kind of the first extra sample that is opacity, otherwise 0.
        clear: the number of that sample.
    """

    mode: str
    dtype: np.dtype[Any]
    bits: int
    width: int
    height: int
    samples: int
    colours: int
    opacity: int
    clear: int

    @property
    def is_packed(self) -> bool:
        """Whether samples share bytes."""
        return self.bits < 8 * self.dtype.itemsize


def layout(tags: Mapping[int, Any], prefix: bytes) -> Layout | None:
    """Return the layout of a directory with these tags; None if Pillow reads it, or if it is of no kind known here.

    Args:
        prefix: the mark of the file's byte order.
    """
    bits, formats = _numbers(tags.get(_BITS)) or (1,), _numbers(tags.get(_FORMAT)) or (1,)
    width: Any = tags.get(_WIDTH)
    height: Any = tags.get(_HEIGHT)
    samples: Any = tags.get(_SAMPLES, 1)
    photometric: Any = tags.get(_PHOTOMETRIC)
    mode, colours = _COLOURS.get(photometric, ("F", 1))
    dtype = _dtype(bits, (1,) if mode == "LAB" else formats)
    if dtype is None or (mode == "LAB" and dtype not in ("u1", "u2")):
        return None
    if not all(isinstance(size, int) and size > 0 for size in (width, height, samples)) or samples > _MAX_SAMPLES:
        return None
    is_reversed = tags.get(_FILL_ORDER, 1) == _REVERSED
    if tags.get(_COMPRESSION, _RAW) not in _BYTEWISE or (is_reversed and bits[0] <= 8):
        return None
    if samples < colours or (colours == 1 and photometric not in _GRAY):
        return None
    kinds = _numbers(tags.get(_EXTRA))[: samples - colours] if mode not in ("CMYK", "LAB") else ()
    clear, opacity = next(((at, kind) for at, kind in enumerate(kinds) if kind in (_ASSOCIATED, _UNASSOCIATED)), (0, 0))
    found = Layout(mode, dtype, bits[0], width, height, samples, colours, opacity, colours + clear)
    if not is_reversed and _is_read_by_pillow(found, photometric, apart=tags.get(_PLANAR) == _SEPARATE):
        return None
    if opacity:
        mode = "LA" if mode == "F" else "RGBA"
    return replace(found, mode=mode, dtype=dtype.newbyteorder("<" if prefix == b"II" else ">"))


def _dtype(bits: tuple[Any, ...], formats: tuple[Any, ...]) -> np.dtype[Any] | None:
    """Return the type of samples with these tags, without byte order; None if they differ or have no type."""
    if len({*bits}) > 1 or len({*formats}) > 1:
        return None
    if formats[0] == 1 and bits[0] in _PACKED_BITS:
        return np.dtype("u1" if bits[0] < 8 else "u2")
    name = _DTYPES.get(formats[0], {}).get(bits[0])
    return None if name is None else np.dtype(name)


def _is_read_by_pillow(found: Layout, photometric: int, *, apart: bool) -> bool:
    """Return whether Pillow reads all of these samples, ``apart`` if each channel lies on its own."""
    if found.samples == 1:
        return found.dtype != "f2" and (not found.is_packed or found.bits in (2, 4, 12))
    if found.dtype != "u1" or found.is_packed:
        return False
    if found.mode == "LAB":
        return photometric == _CIE_LAB and found.samples == found.colours and not apart
    return found.samples == found.colours or (found.mode == "RGB" and found.samples == found.colours + 1 and not apart)


def read(file: BinaryIO, tags: Mapping[int, Any], found: Layout) -> Image.Image:
    """Return the picture of a directory: gray as it is (mode F), all others scaled to 8 bits.

    Raises:
        ValueError, OSError: strips or tiles are damaged or missing.
    """
    values = _values(file, tags, found)
    colours = [values[..., band] for band in range(found.colours)]
    if found.mode == "F":
        return Image.fromarray(colours[0].astype(np.float32))
    if found.mode == "LAB":
        return _merged(found.mode, _lab(colours, is_signed=tags.get(_PHOTOMETRIC) == _CIE_LAB))
    words = bool(found.dtype.kind == "u" and found.dtype.itemsize <= 2)
    if not found.opacity:
        return _merged(found.mode, tones.levels(colours, tags, words=words, bits=found.bits))
    clear = values[..., found.clear]
    white = tones.opaque(clear, found.bits)
    if found.opacity == _ASSOCIATED:
        # colours over black; where nothing is seen they don't count
        share = np.maximum(clear.astype(np.float32) / np.float32(white), np.float32(1 / 65536))
        colours = [band.astype(np.float32) / share for band in colours]
        colours = [np.minimum(band, np.float32(white)) if words else band for band in colours]
    scaled = tones.levels(colours, tags, words=words, bits=found.bits, least=white)
    return _merged(found.mode, [*scaled, tones.scaled(clear, 0, white)])


def _lab(bands: list[Values], *, is_signed: bool) -> list[tones.Levels]:
    """Return L*, a* and b* as Pillow has them: L* up to 255, the others with 128 for 0.

    In 16 bits, the others have a fraction of 8 bits; with an offset instead of a sign, white is 255 and no fraction.
    """
    bits = 8 * bands[0].dtype.itemsize
    white = 2**bits - 1 if is_signed else 255 << (bits - 8)
    offset = 1 << (bits - 1) if is_signed else 0
    others = [tones.scaled(band ^ band.dtype.type(offset), 0, 255 << (bits - 8)) for band in bands[1:]]
    return [tones.scaled(bands[0], 0, white), *others]


def _merged(mode: str, bands: list[tones.Levels]) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(band) for band in bands])


def _values(file: BinaryIO, tags: Mapping[int, Any], found: Layout) -> Values:
    """Return the samples by row, column and channel."""
    if tags.get(_PLANAR) != _SEPARATE:
        return _Plane(file, tags, found, found.samples).values(0)
    plane = _Plane(file, tags, found, 1)
    channels = found.clear + 1 if found.opacity else found.colours
    return np.concatenate([plane.values(number) for number in range(channels)], -1)


class _Plane:
    """All channels, or with one sample for a pixel one of several channels that lie one after the other."""

    def __init__(self, file: BinaryIO, tags: Mapping[int, Any], found: Layout, samples: int) -> None:
        self._file = file
        self._found = found
        self._samples = samples
        tiled = _TILES in tags
        self._reversed = tags.get(_FILL_ORDER, 1) == _REVERSED
        self._compression = tags.get(_COMPRESSION, _RAW)
        self._predictor = tags.get(_PREDICTOR, 1) if self._compression in _PREDICTED else 1
        self._tiled = tiled
        self._across = int(tags[_TILE_WIDTH]) if tiled else found.width
        self._down = int(tags[_TILE_HEIGHT]) if tiled else min(int(tags.get(_ROWS, found.height)), found.height)
        if min(self._across, self._down) < 1:
            raise ValueError("a strip or tile without pixels")
        self._places = _numbers(tags.get(_TILES if tiled else _STRIPS))
        self._sizes = _numbers(tags.get(_TILE_SIZES if tiled else _STRIP_SIZES))

    @property
    def _row(self) -> int:
        """Bytes of a row of a strip or tile."""
        return -(-self._across * self._samples * self._found.bits // 8)

    @property
    def _columns(self) -> int:
        return -(-self._found.width // self._across)

    def values(self, number: int) -> Values:
        dtype, height, columns, across = self._found.dtype, self._found.height, self._columns, self._across
        raw = self._unpacked(number)
        if self._predictor == _FLOAT_DIFFERENCES:
            # bytes of the same place stand together, the highest first, whatever the order of the file
            sums = raw.reshape(height, columns, -1, self._samples).cumsum(2, np.uint8)
            planes = sums.reshape(height, columns, dtype.itemsize, across * self._samples)
            values = np.ascontiguousarray(np.moveaxis(planes, 2, -1)).view(dtype.newbyteorder(">"))
        elif self._predictor == _DIFFERENCES:
            whole = np.dtype(f"u{dtype.itemsize}")
            steps = raw.view(whole.newbyteorder(dtype.byteorder)).reshape(height, columns, across, self._samples)
            values = steps.cumsum(2, whole).view(dtype.newbyteorder("="))
        elif self._found.is_packed:
            values = self._split(raw)
        else:
            values = raw.view(dtype)
        return values.reshape(height, columns * across, self._samples)[:, : self._found.width]

    def _split(self, raw: np.ndarray[Any, np.dtype[np.uint8]]) -> Values:
        """Return the samples that share bytes, the highest bit first; each row of a strip or tile begins a byte."""
        bits, count = self._found.bits, self._across * self._samples
        rows = raw.reshape(-1, self._row)
        values = np.zeros((len(rows), count), self._found.dtype.newbyteorder("="))
        for number, row in enumerate(rows):
            each = np.unpackbits(row)[: count * bits].reshape(count, bits)
            values[number] = each @ (1 << np.arange(bits - 1, -1, -1))
        return values

    def _unpacked(self, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(self._as_gray(number))) as picture:
            # in place of Pillow's own guard, which would count bytes as pixels; those were counted before
            picture.im = Image.new("L", picture.size).im
            picture.load()
            return np.asarray(picture)

    def _as_gray(self, number: int) -> bytes:
        """Return a TIFF of one channel of 8 bits with the strips or tiles of a plane."""
        rows, across = self._found.height, self._row
        count = self._columns * -(-rows // self._down)
        places = self._places[number * count : (number + 1) * count]
        sizes = self._sizes[number * count : (number + 1) * count]
        if not sizes and self._compression == _RAW:
            sizes = (across * self._down,) * count
        if len(places) < count or len(sizes) < count:
            raise ValueError("strips or tiles are missing")
        self._file.seek(0, io.SEEK_END)
        if sum(sizes) > max(self._file.tell(), across * rows):
            raise ValueError("strips or tiles overlap")
        body = bytearray(8)
        starts = []
        for place, size in zip(places, sizes, strict=True):
            starts.append(len(body))
            self._file.seek(place)
            stored = self._file.read(size)
            body += stored.translate(_REVERSE) if self._reversed else stored
        tags = {_WIDTH: [across * self._columns], _HEIGHT: [rows], _BITS: [8], _PHOTOMETRIC: [1], _SAMPLES: [1]}
        tags[_COMPRESSION] = [self._compression]
        if self._tiled:
            tags |= {_TILE_WIDTH: [across], _TILE_HEIGHT: [self._down], _TILES: starts, _TILE_SIZES: list(sizes)}
        else:
            tags |= {_ROWS: [self._down], _STRIPS: starts, _STRIP_SIZES: list(sizes)}
        return _written(body, tags)


def _written(body: bytearray, tags: Mapping[int, list[int]]) -> bytes:
    """Return a TIFF of one directory with these tags, after the bytes that they name; the first 8 are its header."""
    table = b""
    for tag, numbers in sorted(tags.items()):
        value = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            at = len(body)
            body += value
            value = struct.pack("<I", at)
        table += struct.pack("<HHI", tag, 4, len(numbers)) + value
    body[:8] = b"II*\0" + struct.pack("<I", len(body))
    body += struct.pack("<H", len(tags)) + table + bytes(4)
    return bytes(body)


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)
