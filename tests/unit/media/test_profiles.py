"""Pictures are shown in sRGB, whatever colour space their file names or describes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms
from tests.unit.media import icc
from tests.unit.media.pngs import png
from tests.unit.media.samples import encoded, shown

from retllm.media.pictures import inspect_picture
from retllm.settings import Settings

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


def managed(picture: Image.Image, profile: bytes) -> np.ndarray[Any, Any]:
    """The picture as Pillow's colour management shows it."""
    made = ImageCms.profileToProfile(picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), SRGB, outputMode="RGB")
    assert made is not None
    return np.asarray(made)


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
