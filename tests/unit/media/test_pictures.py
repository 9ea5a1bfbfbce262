"""Pictures of every format and mode are decoded to upright RGB; other data is refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.Image import Transpose
from tests.unit.media.pngs import png

from retllm.db.tables import Item
from retllm.errors import MediaRejected, NotFound, TooLarge
from retllm.media import decoder
from retllm.media.pictures import decoded_bytes, inspect_picture, load_picture, open_picture
from retllm.media.storage import Storage
from retllm.settings import Settings

QUARTERS = {(0, 0): (255, 0, 0), (1, 0): (0, 255, 0), (0, 1): (0, 0, 255), (1, 1): (255, 255, 0)}


def quarters(size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Red and green above blue and yellow, so that every orientation looks different."""
    made = Image.new("RGB", size)
    for (x, y), colour in QUARTERS.items():
        made.paste(colour, (x * size[0] // 2, y * size[1] // 2, (x + 1) * size[0] // 2, (y + 1) * size[1] // 2))
    return made


def encoded(picture: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    made = io.BytesIO()
    picture.save(made, kind, **options)
    made.seek(0)
    return made


def is_like(picture: Image.Image, other: Image.Image, tolerance: float = 12) -> bool:
    """Whether both have the same size and mode and nearly the same colours in each quarter."""
    if picture.size != other.size or picture.mode != other.mode:
        return False
    points = [(picture.width * x // 4, picture.height * y // 4) for x in (1, 3) for y in (1, 3)]
    return all(
        max(abs(a - b) for a, b in zip(picture.getpixel(p), other.getpixel(p), strict=True)) <= tolerance  # type: ignore[arg-type]
        for p in points
    )


@pytest.mark.parametrize(
    ("kind", "options", "media_type"),
    [
        ("JPEG", {"quality": 95}, "image/jpeg"),
        ("JPEG", {"quality": 95, "progressive": True}, "image/jpeg"),
        ("MPO", {"save_all": True, "append_images": [Image.new("RGB", (64, 32))]}, "image/jpeg"),
        ("PNG", {}, "image/png"),
        ("PNG", {"save_all": True, "append_images": [Image.new("RGB", (64, 32))]}, "image/png"),
        ("WEBP", {"lossless": True}, "image/webp"),
        ("WEBP", {"save_all": True, "append_images": [Image.new("RGB", (64, 32))]}, "image/webp"),
        ("GIF", {}, "image/gif"),
        ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (64, 32))]}, "image/gif"),
        ("TIFF", {}, "image/tiff"),
        ("TIFF", {"compression": "tiff_lzw"}, "image/tiff"),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, "image/tiff"),
        ("TIFF", {"save_all": True, "append_images": [Image.new("RGB", (64, 32))]}, "image/tiff"),
        ("TIFF", {"big_tiff": True}, "image/tiff"),
        ("BMP", {}, "image/bmp"),
    ],
)
def test_the_first_frame_or_page_of_every_format_is_decoded(
    kind: str, options: dict[str, Any], media_type: str, settings: Settings
) -> None:
    file = encoded(quarters(), kind, **options)
    seen = inspect_picture(file, settings)
    assert (seen.media_type, seen.width, seen.height) == (media_type, 64, 32)
    assert is_like(load_picture(file, settings), quarters())
    with Image.open(io.BytesIO(seen.thumbnail)) as small:
        assert is_like(small.convert("RGB"), quarters(), tolerance=40)


# EXIF 2.32 says how a viewer transforms the stored picture; these are the inverse transformations
STORED_AS = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_decoded_upright(kind: str, orientation: int, settings: Settings) -> None:
    turn = STORED_AS[orientation]
    stored = quarters() if turn is None else quarters().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(stored, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    seen = inspect_picture(file, settings)
    assert (seen.width, seen.height) == (64, 32)
    assert is_like(load_picture(file, settings), quarters())
    with Image.open(io.BytesIO(seen.thumbnail)) as small:
        assert is_like(small.convert("RGB"), quarters(), tolerance=40)
        assert not small.getexif()


def test_a_large_jpeg_has_its_true_size_and_a_correct_thumbnail(settings: Settings) -> None:
    seen = inspect_picture(encoded(quarters((1600, 1000)), "JPEG", quality=90), settings)
    assert (seen.width, seen.height) == (1600, 1000)
    with Image.open(io.BytesIO(seen.thumbnail)) as small:
        assert small.size == (64, 40)
        assert is_like(small.convert("RGB"), quarters((64, 40)), tolerance=40)


def test_a_thumbnail_is_never_larger_than_its_picture_and_never_empty(settings: Settings) -> None:
    for size in ((5, 3), (1, 1), (4000, 1), (1, 4000)):
        with Image.open(
            io.BytesIO(inspect_picture(encoded(Image.new("RGB", size), "PNG"), settings).thumbnail)
        ) as small:
            assert 1 <= max(small.size) <= 64
            assert small.width <= size[0]
            assert small.height <= size[1]


def test_a_thumbnail_has_no_metadata(settings: Settings) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    seen = inspect_picture(encoded(quarters(), "JPEG", exif=exif, icc_profile=profile), settings)
    with Image.open(io.BytesIO(seen.thumbnail)) as small:
        assert not {"exif", "icc_profile", "xmp"} & set(small.info)
    assert b"where I live" not in seen.thumbnail


def test_sixteen_bit_gray_keeps_its_tones(settings: Settings) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(4, 0)
    for file in (io.BytesIO(png(ramp)), encoded(Image.fromarray(ramp), "TIFF")):
        made = np.asarray(load_picture(file, settings))
        assert made.shape == (4, 256, 3)
        np.testing.assert_allclose(made[0, :, 0], ramp[0] / 257, atol=0.51)
        assert (made[..., 0] == made[..., 1]).all()


def test_sixteen_bit_colour_keeps_its_colours(settings: Settings) -> None:
    made = load_picture(io.BytesIO(png(np.asarray(quarters()).astype(np.uint16) * 257)), settings)
    assert is_like(made, quarters(), tolerance=1)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-10.0, 0.0, 10.0]], np.float32), [0, 128, 255]),
        (np.array([[0, 1000, 100_000]], np.int32), [0, 3, 255]),
        (np.array([[7, 7, 7]], np.int32), [7, 7, 7]),
        (np.array([[np.nan, np.inf, 1.0]], np.float32), [0, 0, 255]),
    ],
)
def test_float_and_integer_values_are_scaled_to_gray(
    pixels: np.ndarray[Any, Any], expected: list[int], settings: Settings
) -> None:
    made = np.asarray(load_picture(encoded(Image.fromarray(pixels), "TIFF"), settings))
    np.testing.assert_allclose(made[0, :, 0], expected, atol=1)


def test_palette_gray_and_bilevel_pictures_become_rgb(settings: Settings) -> None:
    palette = load_picture(encoded(quarters().quantize(4), "PNG"), settings)
    assert is_like(palette, quarters(), tolerance=1)
    gray = load_picture(encoded(Image.new("L", (4, 4), 77), "PNG"), settings)
    assert gray.getpixel((0, 0)) == (77, 77, 77)
    bilevel = load_picture(encoded(Image.new("1", (4, 4), 1), "TIFF"), settings)
    assert bilevel.getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_becomes_rgb(settings: Settings) -> None:
    for kind in ("JPEG", "TIFF"):
        made = load_picture(encoded(quarters().convert("CMYK"), kind), settings)
        assert is_like(made, quarters(), tolerance=30)
        inspect_picture(encoded(quarters().convert("CMYK"), kind), settings)


def test_a_cmyk_picture_with_an_invalid_profile_is_decoded(settings: Settings) -> None:
    wrong = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (wrong, b"no profile"):
        made = load_picture(encoded(quarters().convert("CMYK"), "TIFF", icc_profile=profile), settings)
        assert is_like(made, quarters(), tolerance=30)


def test_transparent_pixels_are_blended_with_white(settings: Settings) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert load_picture(encoded(clear, kind, **options), settings).getpixel((0, 0)) == (255, 255, 255)
        red, green, blue = load_picture(encoded(half, kind, **options), settings).getpixel((0, 0))  # type: ignore[misc]
        assert (red, green, blue) == (255, pytest.approx(127, abs=1), pytest.approx(127, abs=1))
    gray = Image.new("LA", (4, 4), (0, 0))
    assert load_picture(encoded(gray, "PNG"), settings).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    for kind in ("PNG", "GIF"):
        made = load_picture(encoded(palette, kind, transparency=0), settings)
        assert (made.mode, made.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    keyed = encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert load_picture(keyed, settings).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_truncated_picture_is_refused(kind: str, share: float, settings: Settings) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(pixels), kind).getvalue()
    part = io.BytesIO(whole[: int(len(whole) * share)])
    # in words for people, not in those of the library
    plain = r"truncated \((it ends too early|the file is cut short|its data can't be decoded)\): export|no.* picture"
    with pytest.raises(MediaRejected, match=plain):
        inspect_picture(part, settings)
    with pytest.raises(MediaRejected):
        load_picture(part, settings)


@pytest.mark.parametrize("position", [0.3, 0.6, 0.9])
def test_a_png_with_a_flipped_byte_is_refused(position: float, settings: Settings) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    damaged = bytearray(encoded(Image.fromarray(pixels), "PNG").getvalue())
    damaged[int(len(damaged) * position)] ^= 0xFF
    with pytest.raises(MediaRejected):
        inspect_picture(io.BytesIO(bytes(damaged)), settings)


def bomb_png(width: int, height: int) -> io.BytesIO:
    """A PNG whose header declares this size, almost without data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    ihdr = b"IHDR" + header
    idat = b"IDAT" + zlib.compress(b"\0")
    parts = (struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in (ihdr, idat))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(("width", "height"), [(2001, 2000), (50_000, 50_000), (1 << 30, 1 << 30)])
def test_a_picture_whose_header_declares_too_many_pixels_is_refused(
    width: int, height: int, settings: Settings
) -> None:
    told = f"{width * height:,} pixels.*; RETLLM_MAX_PIXELS allows 4,000,000"
    with pytest.raises(TooLarge, match=told):
        inspect_picture(bomb_png(width, height), settings)
    with pytest.raises(TooLarge, match="RETLLM_MAX_PIXELS"):
        load_picture(bomb_png(width, height), settings)


def test_a_picture_with_exactly_the_maximum_number_of_pixels_is_accepted(settings: Settings) -> None:
    seen = inspect_picture(encoded(Image.new("L", (2000, 2000)), "PNG"), settings)
    assert seen.width * seen.height == settings.max_pixels


def test_the_pixel_limit_overrides_the_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    file = encoded(Image.new("L", (100, 100)), "PNG")
    assert decoder.load(file.getvalue(), 4_000_000).size == (100, 100)


def test_a_query_picture_with_too_many_bytes_is_refused(settings: Settings) -> None:
    file = io.BytesIO(encoded(quarters(), "PNG").getvalue() + bytes(settings.max_file_bytes))
    with pytest.raises(TooLarge, match="RETLLM_MAX_FILE_BYTES"):
        load_picture(file, settings)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"],
)
def test_data_that_is_not_a_picture_is_refused(data: bytes, settings: Settings) -> None:
    with pytest.raises(MediaRejected):
        load_picture(io.BytesIO(data), settings)


def test_unsupported_formats_are_refused_even_if_pillow_reads_them(settings: Settings) -> None:
    for kind in ("PPM", "ICO", "TGA", "JPEG2000", "EPS"):
        with pytest.raises(MediaRejected):
            load_picture(encoded(quarters(), kind), settings)


def test_a_picture_with_broken_exif_data_is_decoded(settings: Settings) -> None:
    file = encoded(quarters(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken", quality=95)
    assert inspect_picture(file, settings).width == 64
    assert is_like(load_picture(file, settings), quarters())


def test_the_picture_of_an_item_is_opened_from_the_storage(storage: Storage) -> None:
    item = Item(picture_key="items/aa/x/original", width=64, height=32)
    with pytest.raises(NotFound):
        open_picture(storage, item)
    storage.put("items/aa/x/original", encoded(quarters(), "PNG"))
    assert is_like(open_picture(storage, item), quarters())
    storage.put("items/aa/x/original", io.BytesIO(b"damaged"))
    with pytest.raises(MediaRejected):
        open_picture(storage, item)
    with pytest.raises(NotFound):
        open_picture(storage, Item(id=None, picture_key=None))


@pytest.mark.parametrize(
    ("least", "size"), [(0, (1600, 800)), (801, (1600, 800)), (401, (1600, 800)), (400, (800, 400)), (50, (200, 100))]
)
def test_a_jpeg_is_decoded_at_the_smallest_allowed_size(least: int, size: tuple[int, int], settings: Settings) -> None:
    made = load_picture(encoded(quarters((1600, 800)), "JPEG"), settings, least)
    assert is_like(made, quarters(size))
    assert decoded_bytes((1600, 800), "image/jpeg", (least, least)) == 4 * made.width * made.height


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_downscaled_jpeg_is_upright(orientation: int, settings: Settings) -> None:
    turn = STORED_AS[orientation]
    large = quarters((1603, 801))
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = load_picture(encoded(large if turn is None else large.transpose(turn), "JPEG", exif=exif), settings, 100)
    assert made.size in ((201, 101), (200, 100), (201, 100), (200, 101))
    assert is_like(made, quarters(made.size))


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_a_downscaled_cmyk_or_gray_jpeg_keeps_its_colours(mode: str, settings: Settings) -> None:
    file = encoded(quarters((1600, 800)).convert(mode), "JPEG")
    whole, made = load_picture(file, settings), load_picture(file, settings, 100)
    assert made.size == (200, 100)
    assert is_like(made, whole.resize((200, 100)))


def test_other_formats_are_decoded_at_full_size(settings: Settings) -> None:
    sixteen = Image.fromarray(np.full((400, 800), 30_000, dtype=np.uint16))
    for file in (encoded(quarters((800, 400)), "PNG"), encoded(sixteen, "PNG"), encoded(sixteen, "TIFF")):
        made = load_picture(file, settings, 50)
        assert made.size == (800, 400)
        assert decoded_bytes((800, 400), "image/png", (50, 50)) == 4 * made.width * made.height


def test_a_truncated_jpeg_is_refused_when_it_is_downscaled(settings: Settings) -> None:
    data = encoded(quarters((1600, 800)), "JPEG").getvalue()
    with pytest.raises(MediaRejected, match="damaged"):
        load_picture(io.BytesIO(data[: len(data) * 2 // 3]), settings, 100)
