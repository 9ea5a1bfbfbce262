"""Samples of a TIFF are read with all their bits, whatever their type, order, compression and place in the file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.unit.media.raws import tiff_of

from retllm.media import decoder
from retllm.media.decoding.facts import Refused, Split
from retllm.media.decoding.tiff import pages

pytestmark = pytest.mark.usefixtures("decoding_here")

Pixels = np.ndarray[Any, Any]
RAMP = np.linspace(0, 1, 64)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP**2], -1)[None].repeat(40, 0)
EXPECTED = COLOURS * 255
TILED = {"tile": (32, 32)}


def written(values: Pixels, photometric: str = "rgb", **options: Any) -> bytes:
    target = io.BytesIO()
    if options.get("planarconfig") == "separate":
        values = np.moveaxis(values, -1, 0)
    tifffile.imwrite(target, values, photometric=photometric, **options)
    return target.getvalue()


def shown(data: bytes) -> Pixels:
    return np.asarray(decoder.load(data, 10**6))


def packed_with_lzw(values: bytes) -> bytes:
    """The bytes as Pillow compresses a gray row."""
    target = io.BytesIO()
    row = Image.frombytes("L", (len(values), 1), values)
    row.save(target, "TIFF", compression="tiff_lzw", tiffinfo={278: 1})
    with Image.open(target) as picture:
        tags: Any = picture.tag_v2  # type: ignore[attr-defined]
        return target.getvalue()[tags[273][0] : tags[273][0] + tags[279][0]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize("planes", [{}, {"planarconfig": "separate"}], ids=["together", "planes"])
@pytest.mark.parametrize("predictor", [False, True], ids=["plain", "differences"])
def test_twelve_bits_in_sixteen_of_a_compressed_colour_are_not_dark(
    order: Any, tile: Any, planes: Any, predictor: bool
) -> None:
    values = np.rint(COLOURS * 4095).astype(np.uint16)
    data = written(values, byteorder=order, compression="zlib", predictor=predictor, **tile, **planes)
    np.testing.assert_allclose(shown(data), EXPECTED, atol=1)


def test_planes_that_are_compressed_with_lzw_are_not_dark() -> None:
    values = np.rint(COLOURS * 4095).astype("<u2")
    strips = [packed_with_lzw(values[start : start + 20, :, band].tobytes()) for band in range(3) for start in (0, 20)]
    tags = {256: 64, 257: 40, 258: [16] * 3, 259: 5, 262: 2, 277: 3, 278: 20, 284: 2}
    np.testing.assert_allclose(shown(tiff_of(tags, strips)), EXPECTED, atol=1)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u4", "i2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [{}, TILED, {"compression": "zlib"}, {"planarconfig": "separate"}, {"planarconfig": "separate", **TILED}],
    ids=str,
)
def test_colours_of_other_types_are_scaled_as_gray_ones_are(kind: str, order: Any, options: Any) -> None:
    dtype = np.dtype(kind)
    low, high = (0.0, 1.0) if dtype.kind == "f" else (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))
    values = (low + COLOURS * (high - low)).clip(low, high).astype(dtype)
    np.testing.assert_allclose(shown(written(values, byteorder=order, **options)), EXPECTED, atol=1)


@pytest.mark.parametrize(
    ("pixels", "tags", "expected"),
    [
        ([(0, 100, 255)], [], [(0, 100, 255)]),
        ([(-500, 0, 500)], [], [(0, 127.5, 255)]),
        ([(0, 10, 20)], [(340, 11, 1, 0.0, True), (341, 11, 1, 40.0, True)], [(0, 63.75, 127.5)]),
        ([(np.nan, 0.5, 1), (np.inf, -np.inf, 0.25)], [], [(0, 127.5, 255), (0, 0, 63.75)]),
        ([(-9999, 0.5, 1)], [(42113, 2, 6, "-9999", True)], [(0, 127.5, 255)]),
        ([(np.nan, np.nan, np.nan)], [], [(0, 0, 0)]),
    ],
)
def test_the_range_of_float_colours_is_what_the_file_says(pixels: Any, tags: Any, expected: Any) -> None:
    data = written(np.array([pixels] * 2, np.float32), extratags=tags)
    np.testing.assert_allclose(shown(data)[1], expected, atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("options", [{}, TILED, {"compression": "zlib"}], ids=str)
def test_gray_of_half_floats_is_read(order: Any, photometric: str, options: Any) -> None:
    for range_, expected in (((0, 1), RAMP * 255), ((0, 200), RAMP * 200), ((-3, 900), RAMP * 255)):
        values = (range_[0] + RAMP * (range_[1] - range_[0])).astype(np.float16)[None].repeat(40, 0)
        made = shown(written(values, photometric, byteorder=order, **options))[7, :, 0]
        np.testing.assert_allclose(made, expected if photometric == "minisblack" else 255 - expected, atol=1)


@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("tiled", [False, True])
def test_differences_of_floats_are_undone(kind: str, tiled: bool) -> None:
    """Adobe's Technical Note 3: in each row the bytes of one place together, highest first, then their differences."""
    across, down = (48, 16) if tiled else (64, 40)
    padded = np.zeros((48, 96, 3), np.dtype(kind[1:]).newbyteorder(">"))
    padded[:40, :64] = COLOURS
    parts = []
    for y in range(0, 40, down):
        for x in range(0, 64, across):
            part = np.ascontiguousarray(padded[y : y + down, x : x + across])
            planes = part.view(np.uint8).reshape(down, across * 3, -1).swapaxes(1, 2).reshape(down, -1, 3)
            parts.append(zlib.compress(np.diff(planes, axis=1, prepend=np.uint8(0)).tobytes()))
    order = kind[0]
    tags = {256: 64, 257: 40, 258: [8 * padded.itemsize] * 3, 259: 8, 262: 2, 277: 3, 317: 3, 339: [3] * 3}
    tags |= {322: across, 323: down} if tiled else {278: down}
    np.testing.assert_allclose(shown(tiff_of(tags, parts, order)), EXPECTED, atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"planarconfig": "separate"}], ids=str)
@pytest.mark.parametrize("white", [4095, 65535])
def test_gray_of_sixteen_bits_with_opacity_is_shown_over_white(order: Any, options: Any, white: int) -> None:
    gray, opacity = RAMP, RAMP[::-1]
    values = np.rint(np.stack([gray, opacity], -1) * white).astype(np.uint16)[None].repeat(40, 0)
    data = written(values, "minisblack", extrasamples=["unassalpha"], byteorder=order, **options)
    np.testing.assert_allclose(shown(data)[3, :, 1], 255 * (gray * opacity + 1 - opacity), atol=1.5)


@pytest.mark.parametrize("kind", ["u2", "f2", "f4"])
def test_colours_that_were_multiplied_by_their_opacity_are_divided_by_it(kind: str) -> None:
    high = 65535 if kind == "u2" else 1
    opacity = np.array([0, 0.25, 0.5, 1])[:, None]
    colours = np.array([(1.0, 0.5, 0), (1.0, 0.5, 0), (0.2, 0.4, 0.6), (0.2, 0.4, 0.6)])
    values = (np.concatenate([colours * opacity, opacity], -1) * high).astype(kind)[None].repeat(4, 0)
    made = shown(written(values, extrasamples=["assocalpha"]))
    np.testing.assert_allclose(made[0], 255 * (colours * opacity + 1 - opacity), atol=1.5)


def test_channels_that_are_no_colours_are_left_out() -> None:
    near_infrared = np.full((40, 64, 1), 65535, np.uint16)
    values = np.concatenate([np.rint(COLOURS * 65535).astype(np.uint16), near_infrared], -1)
    np.testing.assert_allclose(shown(written(values, extrasamples=["unspecified"])), EXPECTED, atol=1)


def test_twelve_bits_of_ink_are_scaled() -> None:
    ink = np.concatenate([1 - COLOURS, np.zeros((40, 64, 1))], -1)
    data = written(np.rint(ink * 4095).astype(np.uint16), "separated", compression="zlib")
    with Image.fromarray(np.rint(ink * 255).astype(np.uint8), "CMYK") as eight:
        np.testing.assert_allclose(shown(data), np.asarray(eight.convert("RGB")), atol=1)


def test_such_a_picture_is_upright_and_has_its_profile() -> None:
    sides = np.zeros((8, 16, 3), np.float32)
    sides[:, :8, 0] = 1
    data = written(sides, extratags=[(274, 3, 1, 6, True)])
    made = shown(data)
    assert made.shape == (16, 8, 3)
    assert made[0, 0].tolist() == [255, 0, 0]
    assert made[15, 0].tolist() == [0, 0, 0]
    small = decoder.make_small(data, 10**6, 64, 80, copy_side=8)
    assert (small.width, small.height) == (8, 16)


def test_each_page_is_read_by_its_own_kind() -> None:
    target = io.BytesIO()
    with tifffile.TiffWriter(target) as writer:
        writer.write(COLOURS.astype(np.float32), photometric="rgb")
        writer.write(np.rint(COLOURS * 255).astype(np.uint8), photometric="rgb")
        writer.write(np.rint(COLOURS * 4095).astype(np.uint16), photometric="rgb", compression="zlib")
    target.seek(0)
    for part in pages(target, Split(0, 10, 100, 10**6)):
        assert part.picture is not None
        np.testing.assert_allclose(np.asarray(part.picture), EXPECTED, atol=1)


@pytest.mark.parametrize(
    "tags",
    [
        {279: 5},
        {273: 10**9},
        {273: []},
        {278: 7},
        {322: 1 << 20, 323: 1 << 20, 324: 8, 325: 99},
        {322: 0, 323: 16, 324: 8, 325: 99},
        {256: 10**6, 257: 1},
        {279: 1 << 31},
        {284: 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("compression", [1, 8])
def test_damaged_places_of_samples_are_refused(tags: Any, compression: int) -> None:
    body = np.zeros((40, 64, 3), np.float32).tobytes()
    whole = {256: 64, 257: 40, 258: [32] * 3, 259: compression, 262: 2, 277: 3, 278: 40, 339: [3] * 3}
    with pytest.raises(Refused):
        decoder.load(tiff_of(whole | tags, [zlib.compress(body) if compression == 8 else body]), 10**7)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_numbers_of_a_damaged_header_are_never_believed() -> None:
    good = bytearray(written(COLOURS.astype(np.float32), compression="zlib"))
    (at,) = struct.unpack_from("<I", good, 4)
    (count,) = struct.unpack_from("<H", good, at)
    for place in range(at + 2, at + 2 + 12 * count):
        for byte in (0, 0xFF, 0x80):
            changed = bytes(good[:place]) + bytes((byte,)) + bytes(good[place + 1 :])
            try:
                decoder.load(changed, 10**5)
            except Refused:
                continue


GRAY = np.repeat(RAMP[None], 40, 0)
CLEAR = np.linspace(0, 1, 40)[:, None].repeat(64, 1)
OVER_WHITE = (COLOURS * CLEAR[..., None] + 1 - CLEAR[..., None]) * 255


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("planes", [{}, {"planarconfig": "separate"}], ids=["together", "planes"])
@pytest.mark.parametrize("packing", [{}, {"compression": "zlib"}], ids=["raw", "zlib"])
@pytest.mark.parametrize(
    ("photometric", "channels", "extra", "expected"),
    [
        ("minisblack", [GRAY, CLEAR], ["unassalpha"], (GRAY * CLEAR + 1 - CLEAR) * 255),
        ("minisblack", [GRAY * CLEAR, CLEAR], ["assocalpha"], (GRAY * CLEAR + 1 - CLEAR) * 255),
        ("miniswhite", [1 - GRAY, CLEAR], ["unassalpha"], (GRAY * CLEAR + 1 - CLEAR) * 255),
        ("minisblack", [GRAY, CLEAR, CLEAR], ["unspecified"] * 2, GRAY * 255),
        ("rgb", [*np.moveaxis(COLOURS, -1, 0), CLEAR], ["unspecified"], EXPECTED),
        ("rgb", [*np.moveaxis(COLOURS, -1, 0), CLEAR, GRAY], ["unassalpha", "unspecified"], OVER_WHITE),
        ("rgb", [*np.moveaxis(COLOURS, -1, 0), GRAY, CLEAR], ["unspecified", "unassalpha"], OVER_WHITE),
        ("separated", [*np.moveaxis(1 - COLOURS, -1, 0), 0 * GRAY, CLEAR], ["unspecified"], EXPECTED),
    ],
)
def test_further_channels_are_opacity_or_left_out(
    kind: str, planes: Any, packing: Any, photometric: str, channels: list[Pixels], extra: list[str], expected: Pixels
) -> None:
    values = np.rint(np.stack(channels, -1) * np.iinfo(kind).max).astype(kind)
    made = shown(written(values, photometric, extrasamples=extra, **planes, **packing))
    # colours over black in 8 bits are coarse where little is seen of them
    np.testing.assert_allclose(made, expected if expected.ndim == 3 else expected[..., None].repeat(3, -1), atol=1.3)


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_that_share_bytes_are_read(bits: int, channels: int) -> None:
    most = 2**bits - 1
    values = np.rint((COLOURS if channels == 3 else GRAY[..., None])[:, :63] * most).astype(int)
    rows = ["".join(f"{value:0{bits}b}" for value in row.ravel()) for row in values]
    raw = b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8)) for row in rows)
    tags = {256: 63, 257: 40, 258: [bits] * channels, 259: 1, 262: 2 if channels == 3 else 1, 277: channels, 278: 40}
    expected = (values / most * 255).repeat(3 // channels, -1)
    np.testing.assert_allclose(shown(tiff_of(tags, [raw])), expected, atol=1)
    packed = tiff_of(tags | {259: 8}, [zlib.compress(raw)])
    np.testing.assert_allclose(shown(packed), expected, atol=1)


# L*, a*, b* of D50 and what sRGB shows of them
LAB = [(100, 0, 0), (0, 0, 0), (53.59, 0, 0), (54.22, 38.2, 46.24), (48.56, -5.04, -38.24)]
LAB_SHOWN = [(255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 100, 50), (60, 120, 180)]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", [8, 9], ids=["CIELab", "ICCLab"])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "planes"])
@pytest.mark.parametrize("extra", [0, 1])
def test_lab_is_read_with_signs_and_with_an_offset(bits: int, photometric: int, apart: bool, extra: int) -> None:
    step = 1 << (bits - 8)
    white = 255 * step if photometric == 9 else 2**bits - 1
    offset = 128 * step if photometric == 9 else 0
    values = [(round(L / 100 * white), *(round(v * step) + offset for v in ab), *[7] * extra) for L, *ab in LAB]
    raw = (np.array(values * 2) % 2**bits).astype("<u2" if bits == 16 else "u1").reshape(2, len(LAB), 3 + extra)
    strips = [raw[..., band].tobytes() for band in range(3 + extra)] if apart else [raw.tobytes()]
    tags = {256: len(LAB), 257: 2, 258: [bits] * (3 + extra), 259: 1, 262: photometric, 277: 3 + extra, 278: 2}
    made = shown(tiff_of(tags | {284: 1 + apart} | ({338: [2]} if extra else {}), strips))
    np.testing.assert_allclose(made[0], LAB_SHOWN, atol=4)


def test_a_palette_of_eight_bits_is_no_black_picture() -> None:
    palette = [*range(256), *range(255, -1, -1), *[7] * 256]
    tags = {256: 256, 257: 1, 258: [8], 259: 1, 262: 3, 277: 1, 278: 1, 320: palette}
    made = shown(tiff_of(tags, [bytes(range(256))]))
    np.testing.assert_array_equal(made[0], np.array(palette).reshape(3, 256).T)


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "deflated"])
@pytest.mark.parametrize(("bits", "samples"), [(12, 1), (16, 1), (12, 3), (16, 3)])
def test_bytes_with_their_lowest_bit_first_are_read(bits: int, samples: int, packed: bool) -> None:
    levels = np.rint(np.linspace(0, 2**bits - 1, 64 * samples)).astype(np.uint16).tolist()
    row = b"".join(value.to_bytes(2) for value in levels)
    if bits == 12:
        row = int("".join(f"{value:012b}" for value in levels), 2).to_bytes(96 * samples)
    tags = {256: 64, 257: 1, 258: [bits] * samples, 259: 8 if packed else 1, 262: 2 if samples > 1 else 1}
    strip = zlib.compress(row) if packed else row
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in strip)
    expected = shown(tiff_of(tags | {277: samples, 278: 1}, [strip], order=">"))
    assert (expected.min(), expected.max()) == (0, 255)
    np.testing.assert_array_equal(shown(tiff_of(tags | {266: 2, 277: samples, 278: 1}, [turned], order=">")), expected)
