"""Samples of every depth, polarity and kind are shown with the brightness and colour that their file means."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from tests.unit.media.pngs import png
from tests.unit.media.samples import shown

from retllm.errors import MediaRejected
from retllm.media import decoder
from retllm.media.pictures import inspect_picture
from retllm.settings import Settings

Pixels = np.ndarray[Any, Any]


def tiff(pixels: Pixels, tags: dict[int, Any], order: str = "<") -> bytes:
    """An uncompressed gray TIFF with one strip and these tags; written without Pillow."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    height, width = pixels.shape
    entries: dict[int, Any] = {
        256: width, 257: height, 258: 8 * pixels.dtype.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height,
        279: len(data), 339: {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind],
    } | tags  # fmt: skip
    return _directory(entries, data, order)


def _directory(entries: dict[int, Any], data: bytes, order: str) -> bytes:
    table, after = b"", b""
    start = 8 + len(data) + len(data) % 2
    free = start + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        if isinstance(value, str):
            kind, body = 2, value.encode() + b"\0"
        elif isinstance(value, float):
            kind, body = 11, struct.pack(order + "f", value)
        else:
            kind, body = 4, struct.pack(order + "I", value)
        count = len(body) if kind == 2 else 1
        if len(body) > 4:
            at = free + len(after)
            after += body + bytes(len(body) % 2)
            body = struct.pack(order + "I", at)
        table += struct.pack(order + "HHI", tag, kind, count) + body.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", start)
    return head + data + bytes(len(data) % 2) + struct.pack(order + "H", len(entries)) + table + bytes(4) + after


RAMP16 = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(4, 0)
RAMP12 = np.linspace(0, 4095, 64).astype(np.uint16)[None].repeat(4, 0)
LEVELS = np.linspace(0, 255, 64)


@pytest.mark.parametrize("order", ["<", ">"])
def test_white_is_zero_is_inverted_at_sixteen_bits_as_at_eight(order: str, settings: Settings) -> None:
    made = shown(tiff(RAMP16, {262: 0}, order), settings)
    np.testing.assert_allclose(made[0, :, 0], 255 - LEVELS, atol=1)
    eight = np.arange(256, dtype=np.uint8)[None].repeat(2, 0)
    np.testing.assert_array_equal(shown(tiff(eight, {262: 0}, order), settings)[0, :, 0], 255 - eight[0])
    np.testing.assert_allclose(shown(tiff(RAMP12, {262: 0}, order), settings)[0, :, 0], 255 - LEVELS, atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_fewer_bits_in_sixteen_are_scaled_to_the_smallest_depth_that_holds_them(
    bits: int, order: str, settings: Settings
) -> None:
    ramp = np.linspace(0, 2**bits - 1, 64).astype(np.uint16)[None].repeat(4, 0)
    for data in (tiff(ramp, {}, order), png(ramp)):
        np.testing.assert_allclose(shown(data, settings)[0, :, 0], LEVELS, atol=1.1)


def test_values_of_more_than_twelve_bits_keep_the_full_range_unless_the_file_says_otherwise(settings: Settings) -> None:
    ramp = np.linspace(0, 16383, 64).astype(np.uint16)[None].repeat(4, 0)
    np.testing.assert_allclose(shown(tiff(ramp, {}), settings)[0, :, 0], LEVELS / 4, atol=1)
    for data in (
        tiff(ramp, {281: 16383}),
        tiff(ramp, {340: 0, 341: 16383}),
        png(ramp, [(b"sBIT", b"\x0e")]),
    ):
        np.testing.assert_allclose(shown(data, settings)[0, :, 0], LEVELS, atol=1)
    # a declared range that the values leave is wrong
    np.testing.assert_allclose(shown(tiff(ramp, {341: 9000}), settings)[0, :, 0], LEVELS / 4, atol=1)
    np.testing.assert_allclose(shown(png(RAMP16, [(b"sBIT", b"\x0c")]), settings)[0, :, 0], LEVELS, atol=1)


def test_twelve_packed_bits_are_scaled_by_the_number_of_bits(settings: Settings) -> None:
    values = np.array([0, 100, 2048, 4000] * 4, np.uint16)  # none reaches white
    first, second = values[::2], values[1::2]
    packed = np.stack([first >> 4, ((first & 15) << 4) | (second >> 8), second & 255], -1).astype(np.uint8)
    for order in "<>":
        entries = {256: 4, 257: 4, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: packed.size}
        data = _directory(entries, packed.tobytes(), order)
        np.testing.assert_allclose(shown(data, settings)[0, :, 0], values[:4].astype(float) * 255 / 4095, atol=1)


@pytest.mark.parametrize(
    ("values", "tags", "expected"),
    [
        ([-9999, 100, 150, 200], {42113: "-9999"}, [0, 100, 150, 200]),
        ([-9999, 1000, 1500, 2000], {42113: "-9999"}, [0, 0, 127.5, 255]),
        ([np.nan, 1000, 1500, 2000], {}, [0, 0, 127.5, 255]),
        ([np.nan, np.inf, -np.inf, 0.5], {}, [0, 0, 0, 127.5]),
        ([-3.4028234663852886e38, 0.25, 0.5, 1], {42113: "-3.4028234663852886e+38"}, [0, 64, 127.5, 255]),
        ([np.nan, 1000, 1500, 2000], {42113: "nan"}, [0, 0, 127.5, 255]),
        ([0, 10, 20, 30], {340: 0.0, 341: 60.0}, [0, 42.5, 85, 127.5]),
        ([0, 0.5, 1, 1], {262: 0}, [255, 127.5, 0, 0]),
        ([np.nan] * 4, {}, [0] * 4),
    ],
)
def test_missing_values_of_a_float_picture_are_black_and_leave_the_scale_alone(
    values: list[float], tags: dict[int, Any], expected: list[float], settings: Settings
) -> None:
    made = shown(tiff(np.array([values], np.float32), tags), settings)
    np.testing.assert_allclose(made[0, :, 0], expected, atol=1)


def test_missing_heights_of_an_integer_picture_are_black(settings: Settings) -> None:
    made = shown(tiff(np.array([[-32768, 500, 750, 1000]], np.int16), {42113: "-32768"}), settings)
    np.testing.assert_allclose(made[0, :, 0], [0, 0, 127.5, 255], atol=1)


def test_tags_without_sense_change_nothing(settings: Settings) -> None:
    for tags in ({42113: "none"}, {341: 0}, {340: 5, 341: 2}, {281: 2**32 - 1}):
        made = shown(tiff(RAMP16, tags), settings)
        assert made.shape == (4, 64, 3)


# colours of sixteen bits, and samples of other kinds; written by tifffile

RAMP = np.linspace(0, 1, 64)
COLOUR_RAMP = np.stack([RAMP, RAMP[::-1], RAMP**2], -1)[None].repeat(32, 0)
BLUE_TOO = COLOUR_RAMP * 255


def written(values: Pixels, photometric: str = "minisblack", **options: Any) -> bytes:
    target = io.BytesIO()
    tifffile.imwrite(target, values, photometric=photometric, **options)
    return target.getvalue()


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib"},
        {"compression": "zlib", "byteorder": ">"},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "byteorder": ">"},
    ],
    ids=str,
)
def test_fewer_bits_in_sixteen_of_a_colour_are_scaled_as_those_of_gray(bits: int, options: Any) -> None:
    values = np.rint(COLOUR_RAMP * (2**bits - 1)).astype(np.uint16)
    planes = np.moveaxis(values, -1, 0) if "planarconfig" in options else values
    made = np.asarray(decoder.load(written(planes, "rgb", **options), 10**6))
    np.testing.assert_allclose(made, BLUE_TOO, atol=1.1)


def test_twelve_bits_of_a_png_are_scaled_and_its_opacity_says_that_they_are_more(settings: Settings) -> None:
    values = np.rint(COLOUR_RAMP * 4095).astype(np.uint16)
    for chunks in ([], [(b"sBIT", b"\x0c" * 3)]):
        np.testing.assert_allclose(shown(png(values, chunks), settings), BLUE_TOO, atol=1.1)
    opacity = np.full((32, 64, 1), 65535, np.uint16)
    for least, expected in ((opacity // 16, BLUE_TOO), (opacity, BLUE_TOO / 16)):
        layers = np.concatenate([values, least], -1)
        made = shown(written(layers, "rgb", extrasamples=["unassalpha"]), settings)
        np.testing.assert_allclose(made, expected, atol=1.1)


def test_a_declared_range_of_colours_counts(settings: Settings) -> None:
    values = np.rint(COLOUR_RAMP * 16383).astype(np.uint16)
    tags = [(281, 3, 1, 16383, True)]
    np.testing.assert_allclose(shown(written(values, "rgb", extratags=tags), settings), BLUE_TOO, atol=1.1)
    np.testing.assert_allclose(shown(written(values, "rgb"), settings), BLUE_TOO / 4, atol=1.1)


def test_a_transparent_value_of_sixteen_bits_is_white(settings: Settings) -> None:
    gray = np.array([[1000, 1001, 40_000, 65_535]], np.uint16)
    made = shown(png(gray, [(b"tRNS", struct.pack(">H", 1001))]), settings)
    np.testing.assert_allclose(made[0, :, 0], [1000 / 257, 255, 40_000 / 257, 255], atol=1)
    colours = np.dstack([gray, gray, gray])
    made = shown(png(colours, [(b"tRNS", struct.pack(">3H", 1001, 1001, 1001))]), settings)
    np.testing.assert_allclose(made[0, :, 0], [1000 / 257, 255, 40_000 / 257, 255], atol=1)


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_samples_of_every_kind_are_read_right(kind: str, photometric: str, order: str) -> None:
    dtype = np.dtype(kind)
    low, high = (-1e3, 1e6) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = np.rint(low + RAMP * (float(high) - low)).clip(low, high).astype(dtype)[None].repeat(32, 0)
    for options in ({}, {"compression": "zlib"}, {"compression": "zlib", "tile": (16, 16)}):
        made = np.asarray(decoder.load(written(values, photometric, byteorder=order, **options), 10**6))
        np.testing.assert_allclose(made[3, :, 0], LEVELS if photometric == "minisblack" else 255 - LEVELS, atol=1.1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (written(COLOUR_RAMP.astype(np.complex64), "rgb"), "The file is a TIFF of 3 × 64-bit complex floats"),
        (written(RAMP[None].astype(np.complex64)), "The file is a TIFF of 1 × 64-bit complex floats"),
        (tiff(RAMP16, {259: 34712}), "compression 34712"),
    ],
)
def test_a_tiff_of_a_kind_that_is_not_read_is_called_by_its_name(data: bytes, message: str, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match=message):
        inspect_picture(io.BytesIO(data), settings)
