"""Pictures of phones, cameras, browsers and Photoshop are decoded to upright RGB; hostile ones are refused."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers the format, to write it
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from tests.unit.media import icc
from tests.unit.media.films import film
from tests.unit.media.photoshop import psd
from tests.unit.media.raws import dng
from tests.unit.media.samples import encoded, noise
from tests.unit.media.test_pictures import STORED_AS, is_like, quarters

from retllm.errors import MediaRejected, TooLarge
from retllm.media import sandbox
from retllm.media.decoding import jpegxl
from retllm.media.ingest import Ingest
from retllm.media.pictures import inspect_picture, load_picture
from retllm.media.query_pictures import inspect as inspect_query
from retllm.settings import Settings

pillow_heif.register_heif_opener()
NEW = {"HEIF": "image/heic", "AVIF": "image/avif", "JXL": "image/jxl"}
BEST: dict[str, dict[str, Any]] = {
    "HEIF": {"quality": -1, "chroma": 444},
    "AVIF": {"quality": 100, "speed": 10, "subsampling": "4:4:4"},
    "JXL": {"lossless": True, "effort": 1},
}


def load(data: bytes, settings: Settings) -> Image.Image:
    return load_picture(io.BytesIO(data), settings)


def written(picture: Image.Image, kind: str, **options: Any) -> bytes:
    return encoded(picture, kind, **{**BEST[kind], **options})


@pytest.mark.parametrize("kind", NEW)
def test_new_formats_are_taken_with_their_size_type_and_thumbnail(kind: str, settings: Settings) -> None:
    data = written(quarters((128, 64)), kind)
    seen = inspect_picture(io.BytesIO(data), settings)
    assert (seen.media_type, seen.width, seen.height, seen.remark) == (NEW[kind], 128, 64, None)
    assert is_like(load(data, settings), quarters((128, 64)), tolerance=4)
    with Image.open(io.BytesIO(seen.thumbnail)) as small:
        assert is_like(small.convert("RGB"), quarters(), tolerance=40)
    inspect_query(io.BytesIO(data), settings)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_of_a_phone_is_applied_once(kind: str, orientation: int, settings: Settings) -> None:
    turn = STORED_AS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = written(quarters() if turn is None else quarters().transpose(turn), kind, exif=exif.tobytes())
    seen = inspect_picture(io.BytesIO(data), settings)
    assert (seen.width, seen.height) == (64, 32)
    assert is_like(load(data, settings), quarters(), tolerance=12)


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_the_rotation_in_exif_does_not_count_where_the_format_has_its_own(kind: str, settings: Settings) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    before, after = (b"\x01\x12\x00\x03\x00\x00\x00\x01\x00" + bytes((value,)) for value in (1, 6))
    data = written(quarters(), kind, exif=exif.tobytes())
    assert before in data
    for file in (data, data.replace(before, after)):
        assert is_like(load(file, settings), quarters(), tolerance=12)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_a_rotation_that_is_not_in_exif_does_not_count_as_in_browsers(kind: str, settings: Settings) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exif = Image.Exif()
    exif[0x0112] = 6
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
    texts.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n")
    options: dict[str, dict[str, Any]] = {"PNG": {"pnginfo": texts}, "TIFF": {"tiffinfo": {700: xmp}}}
    data = encoded(quarters(), kind, **options.get(kind, {"xmp": xmp}))
    seen = inspect_picture(io.BytesIO(data), settings)
    assert (seen.width, seen.height) == (64, 32)
    assert is_like(load(data, settings), quarters(), tolerance=12)
    assert seen.texts.xmp == xmp


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_colour_profiles_of_new_formats_count(kind: str, settings: Settings) -> None:
    profile = icc.rgb_profile(2.2, icc.P3)
    picture = Image.new("RGB", (64, 64), (200, 60, 30))
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    expected = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"))
    assert expected is not None
    made = load(written(picture, kind, icc_profile=profile), settings)
    np.testing.assert_allclose(np.asarray(made)[32, 32], np.asarray(expected)[32, 32], atol=4)


@pytest.mark.parametrize("kind", NEW)
def test_transparent_pixels_of_new_formats_are_white(kind: str, settings: Settings) -> None:
    clear = Image.new("RGBA", (64, 64), (200, 60, 30, 0))
    assert load(written(clear, kind), settings).getpixel((32, 32)) == (255, 255, 255)


@pytest.mark.parametrize("kind", NEW)
def test_a_new_format_with_too_many_pixels_is_refused_before_it_is_decoded(kind: str, settings: Settings) -> None:
    data = written(Image.new("RGB", (2048, 2048)), kind)
    with pytest.raises(TooLarge, match=r"has 4,194,304 pixels \(2,048 × 2,048\); RETLLM_MAX_PIXELS"):
        inspect_picture(io.BytesIO(data), settings)


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_a_new_format_that_is_cut_short_is_refused(kind: str, share: float, settings: Settings) -> None:
    whole = written(noise(0, (160, 120)), kind)
    with pytest.raises(MediaRejected):
        inspect_picture(io.BytesIO(whole[: int(len(whole) * share)]), settings)


def test_a_heic_whose_header_hides_its_size_is_refused(settings: Settings) -> None:
    """The box says 64 × 64, the stream has 2048 × 2048."""
    data = written(Image.new("RGB", (2048, 2048)), "HEIF")
    size = b"ispe" + bytes(4) + struct.pack(">II", 2048, 2048)
    assert size in data
    with pytest.raises((MediaRejected, TooLarge)):
        inspect_picture(io.BytesIO(data.replace(size, size[:8] + struct.pack(">II", 64, 64))), settings)


@pytest.mark.parametrize("major", [b"avif", b"mif1", b"msf1", b"miaf", b"MA1A", b"1pic"])
@pytest.mark.parametrize("named", [True, False])
def test_an_avif_is_told_by_its_codec(major: bytes, named: bool, settings: Settings) -> None:
    data = written(quarters(), "AVIF")
    assert b"avifmif1miaf" in data
    data = data[:8] + major + data[12:]
    if not named:
        data = data.replace(b"avifmif1miaf", b"mif1mif1miaf")
    seen = inspect_picture(io.BytesIO(data), settings)
    assert (seen.media_type, seen.width) == ("image/avif", 64)
    assert is_like(load(data, settings), quarters(), tolerance=12)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"])
@pytest.mark.parametrize("others", ["as written", "the same"])
def test_a_heic_of_any_brand_is_taken(brand: bytes, others: str, settings: Settings) -> None:
    data = written(quarters(), "HEIF")
    end = int.from_bytes(data[:4], "big")
    compatible = data[16:end] if others == "as written" else brand * ((end - 16) // 4)
    data = data[:8] + brand + data[12:16] + compatible + data[end:]
    inspect_query(io.BytesIO(data), settings)
    assert inspect_picture(io.BytesIO(data), settings).media_type == "image/heic"
    assert is_like(load(data, settings), quarters(), tolerance=4)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_heic_without_compatible_brands_is_taken_if_it_is_sound(brand: bytes, settings: Settings) -> None:
    data = written(quarters(), "HEIF")
    end = int.from_bytes(data[:4], "big")
    place = data.index(b"iloc") + 16  # of the number that says where the pixels are
    (start,) = struct.unpack_from(">I", data, place)
    assert data[start - 4 : start] == b"mdat"
    moved = data[:place] + struct.pack(">I", start - end + 16) + data[place + 4 :]
    without = struct.pack(">I", 16) + b"ftyp" + brand + bytes(4) + moved[end:]
    inspect_query(io.BytesIO(without), settings)
    assert inspect_picture(io.BytesIO(without), settings).media_type == "image/heic"
    assert is_like(load(without, settings), quarters(), tolerance=4)
    for damaged in (without[:-200], without[:16], without[:16] + bytes(40)):
        with pytest.raises(MediaRejected):
            inspect_picture(io.BytesIO(damaged), settings)


def test_a_heif_sequence_without_a_still_picture_is_called_so(settings: Settings) -> None:
    data = film([quarters()])
    with pytest.raises(MediaRejected, match="The file is a HEIF sequence without a still picture"):
        inspect_picture(io.BytesIO(data[:8] + b"hevc" + data[12:]), settings)


def test_a_heic_in_another_codec_is_called_so(settings: Settings) -> None:
    data = written(quarters(), "HEIF").replace(b"hvc1", b"vvc1").replace(b"hvcC", b"vvcC")
    with pytest.raises(MediaRejected, match="of a kind that is not read here"):
        inspect_picture(io.BytesIO(data), settings)


def test_the_first_picture_of_an_animated_avif_is_taken(settings: Settings) -> None:
    data = written(quarters(), "AVIF", save_all=True, append_images=[Image.new("RGB", (64, 32))] * 2)
    assert data[8:12] == b"avis"
    assert is_like(load(data, settings), quarters(), tolerance=12)


@pytest.mark.parametrize("size", [(8, 8), (64, 32), (257, 3), (1000, 1500), (1, 1), (40, 30), (320, 180), (9000, 2)])
@pytest.mark.parametrize("container", [False, True])
def test_the_size_of_a_jpeg_xl_is_read_from_its_header(size: tuple[int, int], container: bool) -> None:
    data = encoded(Image.new("L", size), "JXL", effort=1, use_container=container)
    assert data.startswith(b"\xff\x0a") is not container
    assert jpegxl.size(data) == size


def test_a_jpeg_packed_as_jpeg_xl_is_taken(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(quarters((160, 80)), "JPEG", quality=95))
    with Image.open(tmp_path / "a.jpg") as jpeg:
        data = encoded(jpeg, "JXL", lossless_jpeg=True)
    seen = inspect_picture(io.BytesIO(data), settings)
    assert (seen.media_type, seen.width, seen.height) == ("image/jxl", 160, 80)
    assert is_like(load(data, settings), quarters((160, 80)), tolerance=12)


def test_the_profile_of_a_jpeg_packed_as_jpeg_xl_counts(settings: Settings, tmp_path: Path) -> None:
    profile, picture = icc.rgb_profile(1.0, icc.P3), Image.new("RGB", (64, 64), (200, 120, 60))
    (tmp_path / "a.jpg").write_bytes(encoded(picture, "JPEG", quality=95, icc_profile=profile))
    with Image.open(tmp_path / "a.jpg") as jpeg:
        data = encoded(jpeg, "JXL", lossless_jpeg=True)
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    expected = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"))
    assert expected is not None
    np.testing.assert_allclose(np.asarray(load(data, settings))[32, 32], np.asarray(expected)[32, 32], atol=3)


def test_a_heic_is_added_to_a_collection(ingest: Ingest) -> None:
    outcome = ingest.add_picture("IMG_0001.HEIC", io.BytesIO(written(quarters(), "HEIF")))
    assert (outcome.status, outcome.error) == ("added", None)


# Photoshop

RGB = np.asarray(quarters((32, 16)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_the_composite_of_a_photoshop_file_is_taken(packed: bool, large: bool, depth: int, settings: Settings) -> None:
    pixels = RGB if depth == 8 else RGB.astype(np.uint16) * 257
    # a layer section of any content is skipped, and a fourth channel is no transparency
    fourth = np.dstack([pixels, np.zeros_like(pixels[..., 0])])
    for channels in (pixels, fourth):
        data = psd(channels, "RGB", packed=packed, large=large, layers=b"any layers")
        seen = inspect_picture(io.BytesIO(data), settings)
        assert (seen.media_type, seen.width, seen.height) == ("image/vnd.adobe.photoshop", 32, 16)
        np.testing.assert_array_equal(np.asarray(load(data, settings)), RGB)
    if depth == 8 and not large:  # the one kind that Pillow reads
        with Image.open(io.BytesIO(psd(pixels, "RGB", packed=packed))) as reference:
            np.testing.assert_array_equal(np.asarray(reference), RGB)


def test_photoshop_files_of_other_modes_are_taken(settings: Settings) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(np.asarray(load(psd(gray, "L"), settings))[..., 0], gray[..., 0])
    palette = bytes(range(256)) + bytes(range(255, -1, -1)) + bytes(256)
    made = np.asarray(load(psd(gray, "P", palette=palette), settings))
    np.testing.assert_array_equal(made, np.dstack([gray[..., 0], 255 - gray[..., 0], np.zeros_like(gray[..., 0])]))
    dots = (np.arange(240).reshape(12, 20, 1) % 3 == 0).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(load(psd(dots, "1", depth=1), settings))[..., 0], 255 * (1 - dots[..., 0]))
    light = np.array([[[0.0], [0.2140], [1.0], [np.nan]]], np.float32)  # 0.2140 is half of white in sRGB
    np.testing.assert_allclose(np.asarray(load(psd(light, "L"), settings))[0, :, 0], [0, 127.5, 255, 0], atol=2)


def test_ink_and_lab_of_photoshop_are_converted(settings: Settings) -> None:
    profile = icc.cmyk_profile()
    inks = np.asarray(quarters((32, 16)).convert("CMYK"))
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    expected = ImageCms.profileToProfile(
        Image.fromarray(inks, "CMYK"), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert expected is not None
    made = load(psd(255 - inks, "CMYK", resources={1039: profile}), settings)
    np.testing.assert_allclose(np.asarray(made), np.asarray(expected), atol=1)
    # CIE Lab of sRGB's red
    red = np.full((4, 4, 3), (round(53.2 * 2.55), 128 + 80, 128 + 67), np.uint8)
    np.testing.assert_allclose(np.asarray(load(psd(red, "LAB"), settings))[0, 0], (255, 0, 0), atol=12)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (psd(RGB, "RGB", resources={1057: b"\0\0\0\1\0"}), "without a composite"),
        (psd(RGB, "RGB")[:-9], "damaged or truncated"),
        (psd(RGB, "RGB", packed=True)[:-9], "damaged or truncated"),
        (psd(RGB, "RGB")[:30], "damaged or truncated"),
        (psd(RGB, "RGB")[:26] + b"\xff" * 40, "damaged or truncated"),
        (psd(RGB, "RGB").replace(struct.pack(">HH", 8, 3), struct.pack(">HH", 8, 7)), "Photoshop file of mode 7"),
        (psd(RGB, "RGB").replace(struct.pack(">II", 16, 32), struct.pack(">II", 0, 32)), "damaged or truncated"),
        (psd(RGB, "RGB", large=True, packed=True)[:80], "damaged or truncated"),
    ],
)
def test_a_photoshop_file_without_a_picture_to_show_is_refused(data: bytes, message: str, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match=message):
        inspect_picture(io.BytesIO(data), settings)


@pytest.mark.parametrize("size", [(2001, 2000), (300_000, 300_000), (2**31, 2**31)])
def test_a_photoshop_file_with_too_many_pixels_is_refused(size: tuple[int, int], settings: Settings) -> None:
    head = psd(RGB, "RGB", large=True)
    with pytest.raises(TooLarge, match="RETLLM_MAX_PIXELS"):
        inspect_picture(io.BytesIO(head.replace(struct.pack(">II", 16, 32), struct.pack(">II", *size))), settings)


# cameras


def test_a_raw_file_is_developed_and_its_thumbnail_is_not_taken(settings: Settings) -> None:
    seen = inspect_picture(io.BytesIO(dng()), settings)
    assert (seen.media_type, seen.width, seen.height) == ("image/x-adobe-dng", 64, 48)
    made = load(dng(), settings)
    assert np.argmax(made.getpixel((32, 8))) == 0  # type: ignore[arg-type]
    assert np.argmax(made.getpixel((32, 40))) == 2  # type: ignore[arg-type]


def test_a_raw_file_is_upright(settings: Settings) -> None:
    made = load(dng(orientation=6), settings)
    assert made.size == (48, 64)
    assert np.argmax(made.getpixel((40, 32))) == 0  # type: ignore[arg-type]
    assert np.argmax(made.getpixel((8, 32))) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(("orientation", "turn"), [(1, None), (6, Image.Transpose.ROTATE_270)])
def test_a_large_preview_of_a_raw_file_is_taken_upright(
    orientation: int, turn: Image.Transpose | None, settings: Settings
) -> None:
    preview = quarters((64, 48))
    data = dng(orientation=orientation, preview=encoded(preview, "JPEG", quality=95))
    expected = preview if turn is None else preview.transpose(turn)
    seen = inspect_picture(io.BytesIO(data), settings)
    assert (seen.media_type, (seen.width, seen.height)) == ("image/x-adobe-dng", expected.size)
    assert is_like(load(data, settings), expected, tolerance=20)


def test_a_small_preview_of_a_raw_file_is_not_taken(settings: Settings) -> None:
    made = load(dng(preview=encoded(Image.new("RGB", (16, 12), "green"), "JPEG")), settings)
    assert made.size == (64, 48)
    assert np.argmax(made.getpixel((32, 8))) == 0  # type: ignore[arg-type]


def test_a_raw_file_with_too_many_pixels_is_refused(settings: Settings) -> None:
    few = settings.model_copy(update={"max_pixels": 64 * 48 - 1})
    with pytest.raises(TooLarge, match=r"3,072 pixels \(64 × 48\); RETLLM_MAX_PIXELS allows 3,071"):
        inspect_picture(io.BytesIO(dng()), few)


CR2 = b"II*\0\x10\0\0\0CR\2\0\0\0\0\0" + struct.pack("<H", 0) + bytes(200)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (CR2, "a CR2 picture of a camera that LibRaw does not know"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(300), "a RAF picture"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(300), "a CR3 picture"),
        (dng()[:-300] + bytes(40), "readable|damaged"),
    ],
)
def test_a_raw_file_that_cannot_be_read_is_called_by_its_name(data: bytes, message: str, settings: Settings) -> None:
    with pytest.raises(MediaRejected, match=message):
        inspect_picture(io.BytesIO(data), settings)


@pytest.fixture
def without_rawpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decoders for which rawpy is not installed."""
    (tmp_path / "rawpy.py").write_text("raise ImportError")
    sandbox.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path), *sys.path])
        yield
    sandbox.close()


@pytest.mark.usefixtures("without_rawpy")
def test_without_the_extra_a_raw_file_is_refused_with_the_name_of_the_extra(settings: Settings) -> None:
    for data in (dng(), CR2):
        with pytest.raises(MediaRejected, match=r"pip install 'retllm-platform\[raw\]'"):
            inspect_picture(io.BytesIO(data), settings)


@pytest.mark.parametrize("maker", [lambda: written(noise(1, (300, 200)), "HEIF"), lambda: dng((300, 200))])
def test_damaged_new_formats_never_take_the_decoder_of_the_next_picture(maker: Any, settings: Settings) -> None:
    data, chance = maker(), np.random.default_rng(4)
    for _ in range(25):
        changed = bytearray(data)
        for place in chance.integers(0, len(data), 20):
            changed[place] ^= 1 << int(chance.integers(8))
        try:
            seen = inspect_picture(io.BytesIO(bytes(changed)), settings)
        except (MediaRejected, TooLarge):
            continue
        assert seen.width * seen.height <= settings.max_pixels
    assert inspect_picture(io.BytesIO(encoded(quarters(), "PNG")), settings).width == 64
