"""Pictures are shown in sRGB, whatever colours, depth and polarity their file has."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms
from tests.unit.media import icc
from tests.unit.media.pngs import png
from tests.unit.media.samples import encoded

from retllm.errors import MediaRejected
from retllm.media import decoder
from retllm.media.pictures import inspect_picture, load_picture
from retllm.settings import Settings

Pixels = np.ndarray[Any, Any]
COLOURS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (200, 120, 60),
    (40, 90, 160),
    (128, 128, 128),
    (20, 10, 5),
    (0, 0, 0),
]
SRGB = ImageCms.createProfile("sRGB")
ADOBE, P3, LINEAR = icc.rgb_profile(2.2, icc.ADOBE), icc.rgb_profile(2.2, icc.P3), icc.rgb_profile(1.0, icc.P3)


def patches(mode: str = "RGB") -> Image.Image:
    """Eight colours, 16 pixels each."""
    made = Image.new("RGB", (16 * len(COLOURS), 16))
    for at, colour in enumerate(COLOURS):
        made.paste(colour, (16 * at, 0, 16 * at + 16, 16))
    return made.convert(mode)


def managed(picture: Image.Image, profile: bytes) -> Pixels:
    """The picture as Pillow's colour management shows it."""
    made = ImageCms.profileToProfile(picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), SRGB, outputMode="RGB")
    assert made is not None
    return np.asarray(made)


def shown(data: bytes, settings: Settings) -> Pixels:
    return np.asarray(load_picture(io.BytesIO(data), settings))


@pytest.mark.parametrize("profile", [ADOBE, P3, LINEAR], ids=["Adobe RGB", "Display P3", "linear"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100, "subsampling": 0})],
)
def test_a_picture_with_an_rgb_profile_is_converted_to_srgb(
    kind: str, options: dict[str, Any], profile: bytes, settings: Settings
) -> None:
    data = encoded(patches(), kind, icc_profile=profile, **options)
    expected = managed(Image.open(io.BytesIO(data)).convert("RGB"), profile)
    assert np.abs(expected.astype(int) - np.asarray(patches())).max() > 20
    np.testing.assert_allclose(shown(data, settings), expected, atol=1)


def test_a_known_colour_of_adobe_rgb_has_its_known_value_in_srgb(settings: Settings) -> None:
    """(0.5, 0.5, 0.2) in Adobe RGB, by the matrices and curves of both standards."""
    data = encoded(Image.new("RGB", (8, 8), (128, 128, 51)), "PNG", icc_profile=ADOBE)
    light = (np.array([128, 128, 51]) / 255) ** 2.2
    to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    to_srgb = np.array([[3.24045, -1.53714, -0.49853], [-0.96927, 1.87601, 0.04156], [0.05564, -0.20403, 1.05723]])
    linear = to_srgb @ to_xyz @ light
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.clip(linear, 0, 1) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(shown(data, settings)[0, 0], expected, atol=2)


def test_thumbnails_are_in_srgb_too(settings: Settings) -> None:
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 95})):
        data = encoded(Image.new("RGB", (900, 600), (200, 120, 60)), kind, icc_profile=LINEAR, **options)
        seen = inspect_picture(io.BytesIO(data), settings)
        assert seen.remark is None
        with Image.open(io.BytesIO(seen.thumbnail)) as small:
            centre = small.convert("RGB").getpixel((30, 20))
        np.testing.assert_allclose(
            np.array(centre), managed(Image.new("RGB", (1, 1), (200, 120, 60)), LINEAR)[0, 0], atol=4
        )


def test_a_picture_in_srgb_keeps_its_values_exactly(settings: Settings) -> None:
    for profile in (ImageCms.ImageCmsProfile(SRGB).tobytes(), None):
        data = encoded(patches(), "PNG", icc_profile=profile)
        np.testing.assert_array_equal(shown(data, settings), np.asarray(patches()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_a_gray_picture_with_a_profile_is_converted(kind: str, settings: Settings) -> None:
    gray = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(8, 0))
    data = encoded(gray, kind, icc_profile=icc.gray_profile(1.0), **({"quality": 100} if kind == "JPEG" else {}))
    made = shown(data, settings)
    np.testing.assert_allclose(made, managed(Image.open(io.BytesIO(data)), icc.gray_profile(1.0)), atol=1)
    # linear half is 188 in sRGB (IEC 61966-2-1)
    assert abs(int(made[0, 128, 0]) - 188) <= 1


def test_a_gray_picture_with_an_rgb_profile_takes_its_curve(settings: Settings) -> None:
    made = shown(encoded(Image.new("L", (4, 4), 128), "PNG", icc_profile=LINEAR), settings)
    np.testing.assert_allclose(made[0, 0], 188, atol=1)


def test_a_sixteen_bit_gray_picture_with_a_profile_is_converted(settings: Settings) -> None:
    levels = np.array([[0, 6554, 32768, 65535]], np.uint16).repeat(4, 0)
    made = shown(png(levels, [(b"iCCP", b"linear\0\0" + zlib.compress(icc.gray_profile(1.0)))]), settings)
    light = levels[0] / 65535
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(made[0, :, 0], expected, atol=2)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_a_cmyk_picture_with_a_profile_is_converted(kind: str, settings: Settings) -> None:
    profile = icc.cmyk_profile()
    data = encoded(patches("CMYK"), kind, icc_profile=profile, **({"quality": 100} if kind == "JPEG" else {}))
    expected = managed(Image.open(io.BytesIO(data)), profile)
    assert np.abs(expected.astype(int) - np.asarray(patches())).max() > 50
    np.testing.assert_allclose(shown(data, settings), expected, atol=1)


@pytest.mark.parametrize("profile", [None, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()])
def test_a_lab_picture_is_converted(profile: bytes | None, settings: Settings) -> None:
    lab = ImageCms.profileToProfile(patches(), SRGB, ImageCms.createProfile("LAB"), outputMode="LAB")
    assert lab is not None
    options = {"icc_profile": profile} if profile else {}
    expected = managed(lab, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    # eight bits of L, a and b are coarse in saturated colours
    np.testing.assert_allclose(expected, np.asarray(patches()), atol=25)
    np.testing.assert_allclose(shown(encoded(lab, "TIFF", **options), settings), expected, atol=1)


def test_a_palette_with_a_profile_is_converted(settings: Settings) -> None:
    palette = patches().quantize(8, dither=Image.Dither.NONE)
    data = encoded(palette, "PNG", icc_profile=P3)
    np.testing.assert_allclose(shown(data, settings), managed(palette.convert("RGB"), P3), atol=1)


def test_colours_under_transparency_are_converted_before_they_are_blended_with_white(settings: Settings) -> None:
    layer = patches("RGBA")
    layer.putalpha(128)
    opaque = managed(patches(), LINEAR).astype(float)
    made = shown(encoded(layer, "PNG", icc_profile=LINEAR), settings)
    np.testing.assert_allclose(made, opaque * 128 / 255 + 255 * 127 / 255, atol=2)
    gray = Image.new("LA", (4, 4), (128, 128))
    made = shown(encoded(gray, "PNG", icc_profile=icc.gray_profile(1.0)), settings)
    np.testing.assert_allclose(made, 188 * 128 / 255 + 255 * 127 / 255, atol=2)


@pytest.mark.parametrize("opacity", [0, 128])
def test_a_fourth_channel_of_a_bmp_that_is_all_zero_is_no_transparency(opacity: int, settings: Settings) -> None:
    pixels = np.full((4, 4, 4), (60, 120, 200, opacity), np.uint8)  # blue, green, red
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 4, 4, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0) + masks
    start = 14 + 108
    file = b"BM" + struct.pack("<IHHI", start + pixels.nbytes, 0, 0, start) + head.ljust(108, b"\0") + pixels.tobytes()
    share = opacity / 255 if opacity else 1
    expected = np.array([200, 120, 60]) * share + 255 * (1 - share)
    np.testing.assert_allclose(shown(file, settings)[0, 0], expected, atol=1)


@pytest.mark.parametrize(
    "profile",
    [b"no profile", ADOBE[:200], ADOBE[:128] + b"\xff" * 200, icc.cmyk_profile(), icc.gray_profile(1.0), b"\0" * 500],
    ids=["words", "cut short", "broken table", "of a press", "of gray", "zeros"],
)
def test_a_picture_with_an_unusable_profile_is_taken_as_it_is_with_a_remark(profile: bytes, settings: Settings) -> None:
    data = encoded(patches(), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(shown(data, settings), np.asarray(patches()))
    remark = inspect_picture(io.BytesIO(data), settings).remark
    assert remark == "Its colour profile can't be used: the colours are shown without it."


def test_gamma_and_primaries_of_a_png_without_profile_count(settings: Settings) -> None:
    pixels = np.asarray(patches())
    points = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)  # Adobe RGB (1998)
    chunks = [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", struct.pack(">8I", *(round(p * 100_000) for p in points)))]
    np.testing.assert_allclose(shown(png(pixels, chunks), settings), managed(patches(), ADOBE), atol=2)
    linear = shown(png(np.full((4, 4), 128, np.uint8), [(b"gAMA", struct.pack(">I", 100_000))]), settings)
    np.testing.assert_allclose(linear, 188, atol=1)
    # sRGB in other words, and numbers without sense
    for body in (45455, 0, 1, 2**32 - 1):
        np.testing.assert_array_equal(shown(png(pixels, [(b"gAMA", struct.pack(">I", body))]), settings), pixels)
    senseless = [(b"cHRM", bytes(32)), (b"sRGB", b"\0")]
    for at in (0, 1):
        np.testing.assert_array_equal(shown(png(pixels, senseless[: at + 1]), settings), pixels)


# primaries of ITU-R BT.2020, adapted to D50: XYZ of red, green, blue
REC2020 = ((0.6734, 0.2790, -0.0019), (0.1657, 0.6753, 0.0300), (0.1251, 0.0457, 0.7968))


@pytest.mark.parametrize(("primaries", "points"), [(12, icc.P3), (9, REC2020)], ids=["Display P3", "BT.2020"])
def test_code_points_of_a_png_an_avif_and_a_heic_count(primaries: int, points: Any, settings: Settings) -> None:
    picture = Image.new("RGB", (64, 64), (180, 130, 90))
    # on these colours a curve of 2.2 is nearly that of sRGB
    expected = managed(picture, icc.rgb_profile(2.2, points))
    assert np.abs(expected[0, 0].astype(int) - (180, 130, 90)).max() > 8
    chunks = [(b"cICP", bytes((primaries, 13, 0, 1))), (b"iCCP", b"a\0\0" + zlib.compress(ADOBE))]
    np.testing.assert_allclose(shown(png(np.asarray(picture), chunks), settings), expected, atol=2)
    pillow_heif.register_heif_opener()
    best = {"AVIF": {"quality": 100, "speed": 10, "subsampling": "4:4:4"}, "HEIF": {"quality": -1, "chroma": 444}}
    for kind, options in best.items():
        data = encoded(picture, kind, **options)
        at = data.index(b"colrnclx") + 8
        data = data[:at] + struct.pack(">HH", primaries, 13) + data[at + 4 :]
        np.testing.assert_allclose(shown(data, settings)[32, 32], expected[0, 0], atol=5)
    # those of sRGB, and unknown ones, change nothing; the former although there is a profile
    for known in (1, 200):
        chunks = [(b"cICP", bytes((known, 13, 0, 1)))] + chunks[1:] * (known == 1)
        np.testing.assert_array_equal(shown(png(np.asarray(picture), chunks), settings), np.asarray(picture))


@pytest.mark.parametrize(
    ("transfer", "signal", "expected"),
    [
        # ITU-R BT.2408, table 1: the signals of white paper at 203 cd/m2, and of a gray card at 26 cd/m2
        (16, 0.58, 255),
        (16, 0.38, 100),
        (18, 0.75, 255),
        (18, 0.38, 100),
        (16, 1, 255),
        (18, 0, 0),
        (8, 0.5, 188),
    ],
)
def test_white_paper_of_hdr_is_white(transfer: int, signal: float, expected: int, settings: Settings) -> None:
    gray = np.full((4, 4, 3), round(signal * 65535), np.uint16)
    made = shown(png(gray, [(b"cICP", bytes((9, transfer, 0, 1)))]), settings)
    np.testing.assert_allclose(made, expected, atol=4)


# depth


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
