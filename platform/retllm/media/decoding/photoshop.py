"""Read the composite of a Photoshop file (PSD, PSB), of which Pillow reads PSD of 8 bits only."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImagePalette

from retllm.media.decoding.facts import Refused, Source
from retllm.media.decoding.texts import Texts

_HEADER = struct.Struct(">4sH6xHIIHH")
_BITMAP, _GRAY, _INDEXED, _RGB, _CMYK, _DUOTONE, _LAB = 0, 1, 2, 3, 4, 8, 9
_MODES = {_BITMAP: "1", _GRAY: "L", _INDEXED: "P", _RGB: "RGB", _CMYK: "CMYK", _DUOTONE: "L", _LAB: "LAB"}
_ICC_PROFILE, _VERSION_INFO, _IPTC, _XMP = 1039, 1057, 1028, 1060  # identifiers of image resources
_RAW, _PACKBITS = 0, 1
_FLIP = np.uint8(0xFF)


def read(data: bytes, max_pixels: int) -> Source:
    """Decode the composite: all visible layers, over white.

    Raises:
        Refused: more than ``max_pixels`` pixels, damaged, or without a composite.
    """
    _, version, channels, height, width, depth, mode = _HEADER.unpack_from(data)
    if width * height > max_pixels:
        raise Refused("pixels", width=width, height=height)
    if not width or not height:
        raise ValueError("no pixels")
    name = _MODES.get(mode, "")
    bands = {"RGB": 3, "LAB": 3, "CMYK": 4}.get(name, 1)
    if not name or channels < bands or (mode == _BITMAP) != (depth == 1) or depth not in (1, 8, 16, 32):
        raise Refused("unsupported", reason=f"a Photoshop file of mode {mode} and {depth} bits")
    palette, at = _section(data, _HEADER.size, 4)
    resources, at = _section(data, at, 4)
    _, at = _section(data, at, 8 if version == 2 else 4)
    found = _resources(resources)
    # version (4 bytes), then whether the composite is real; without it, it is white
    if found.get(_VERSION_INFO, b"\0\0\0\0\1")[4:5] == b"\0":
        raise Refused("unsupported", reason="a Photoshop file without a composite (save it with maximum compatibility)")
    planes = _Planes(data, at, version, channels, width, height, depth)
    picture = _merged(name, [planes.plane(band) for band in range(bands)])
    if mode == _INDEXED and len(palette) >= 768:
        picture.putpalette(ImagePalette.raw("RGB;L", palette[:768]))
    if _ICC_PROFILE in found:
        picture.info["icc_profile"] = found[_ICC_PROFILE]
    return Source(picture, "PSD", texts=Texts(found.get(_XMP, b""), found.get(_IPTC, b"")))


def _section(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """Return a section after its length of ``size`` bytes, and where the next one begins."""
    start = at + size
    end = start + int.from_bytes(data[at:start], "big")
    if end > len(data):
        raise ValueError("a section is cut short")
    return (data[start:end] if size == 4 else b""), end


def _resources(section: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while section[at : at + 4] == b"8BIM":
        key = int.from_bytes(section[at + 4 : at + 6], "big")
        at += 6 + (section[at + 6] + 2) // 2 * 2  # a name of even length, with its length
        size = int.from_bytes(section[at : at + 4], "big")
        found[key] = section[at + 4 : at + 4 + size]
        at += 4 + (size + 1) // 2 * 2
    return found


@dataclass(frozen=True, slots=True)
class _Planes:
    """The channels of the composite, one after the other."""

    data: bytes
    at: int
    version: int
    channels: int
    width: int
    height: int
    depth: int

    def plane(self, number: int) -> Image.Image:
        """Decode one channel to 8 bits, or to 1."""
        row = (self.width * self.depth + 7) // 8
        packing = int.from_bytes(self.data[self.at : self.at + 2], "big")
        start = self.at + 2
        if packing == _RAW:
            start += number * row * self.height
            content = self.data[start : start + row * self.height]
        elif packing == _PACKBITS:
            content = self._unpacked(start, number, row)
        else:
            raise Refused("unsupported", reason=f"a Photoshop file with compression {packing}")
        if len(content) < row * self.height:
            raise ValueError("the composite is cut short")
        return self._picture(content)

    def _unpacked(self, start: int, number: int, row: int) -> bytes:
        # the packed lengths of all rows of all channels come first
        rows = self.channels * self.height
        counts = np.frombuffer(self.data, ">u4" if self.version == 2 else ">u2", rows, start)
        before = int(counts[: number * self.height].sum(dtype=np.int64))
        length = int(counts[number * self.height : (number + 1) * self.height].sum(dtype=np.int64))
        begin = start + counts.nbytes + before
        packed = self.data[begin : begin + length]
        return Image.frombytes("L", (row, self.height), packed, "packbits", "L").tobytes()

    def _picture(self, content: bytes) -> Image.Image:
        size = (self.width, self.height)
        if self.depth == 1:
            return Image.frombytes("1", size, content, "raw", "1;I")
        if self.depth == 16:  # the higher byte of each
            content = content[::2]
        elif self.depth == 32:  # light, 1 is white; shown with the tone curve of sRGB, near enough
            light = np.frombuffer(content, ">f4").clip(0, 1)
            content = np.rint(np.nan_to_num(light) ** np.float32(1 / 2.2) * 255).astype(np.uint8).tobytes()
        return Image.frombytes("L", size, content)


def _merged(name: str, planes: list[Image.Image]) -> Image.Image:
    if name == "CMYK":  # 0 is full ink in the file
        planes = [Image.fromarray(np.asarray(plane) ^ _FLIP) for plane in planes]
    if len(planes) > 1:
        return Image.merge(name, planes)
    if name == "P":
        planes[0] = planes[0].convert("P")
    return planes[0]
