"""A sound picture with a small fault in its file is taken, with a remark; one whose pixels are damaged is refused."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from tests.unit.media import icc
from tests.unit.media.pngs import chunk, png
from tests.unit.media.samples import encoded, noise

from retllm.errors import MediaRejected
from retllm.media.decoder import load
from retllm.media.decoding import png_stream
from retllm.media.decoding.facts import Refused
from retllm.media.ingest import Ingest
from retllm.media.pictures import inspect_picture, load_picture
from retllm.media.query_pictures import inspect as inspect_query
from retllm.settings import Settings

PICTURE = noise(7, (160, 128))
PIXELS = np.asarray(PICTURE)
METADATA = "Some of its metadata is damaged and was left out."
LONG_TEXT = "It holds more than 1 MB of text, which was not read."
PROFILE = "Its colour profile can't be used: the colours are shown without it."
END = "The file does not end with its end marker; the picture itself is complete."
TRAILING = "Other data follows the picture in its file and was left out."
MIB = 1 << 20


def wrong(name: bytes, body: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return chunk(name, body, checksum=zlib.crc32(name + body) ^ 1)


def text(kind: bytes, size: int) -> bytes:
    """A chunk with so many bytes of text, packed where its kind allows that."""
    words = bytes(size)
    body = {
        b"tEXt": b"workflow\0" + words.replace(b"\0", b"x"),
        b"zTXt": b"workflow\0\0" + zlib.compress(words),
        b"iTXt": b"workflow\0\1\0de\0Ablauf\0" + zlib.compress(words),
    }
    return chunk(kind, body[kind])


def remark_and_pixels(data: bytes, settings: Settings) -> tuple[str | None, np.ndarray]:  # type: ignore[type-arg]
    inspect_query(io.BytesIO(data), settings)
    remark = inspect_picture(io.BytesIO(data), settings).remark
    return remark, np.asarray(load_picture(io.BytesIO(data), settings))


@pytest.mark.parametrize(
    ("before", "remark"),
    [
        (chunk(b"tEXt", b"Title\0a robin"), None),
        *((wrong(name, b"Title\0\0x"), METADATA) for name in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"tIME", b"prVt")),
        (wrong(b"gAMA", struct.pack(">I", 100_000)), METADATA),
        (wrong(b"eXIf", b"MM\0*" + bytes(40)), METADATA),
        (wrong(b"tRNS", bytes(6)), METADATA),
        (chunk(b"gAMA", b"\1"), METADATA),
        (chunk(b"pHYs", b""), METADATA),
        (text(b"zTXt", 2 * MIB), LONG_TEXT),
        (text(b"iTXt", 2 * MIB), LONG_TEXT),
        (text(b"zTXt", 20 * MIB), LONG_TEXT),
        (text(b"zTXt", 600_000) * 120, LONG_TEXT),
        (text(b"zTXt", 900_000), None),
        (text(b"tEXt", 1_900_000), LONG_TEXT),
        (wrong(b"tEXt", b"a\0b") + text(b"zTXt", 2 * MIB), f"{METADATA} {LONG_TEXT}"),
        (chunk(b"zTXt", b"Title\0\0not packed"), None),
        (chunk(b"zTXt", b"Title\0\1packed in another way"), METADATA),
        (chunk(b"tRNS", b"\0\1"), METADATA),
        (wrong(b"PLTE", bytes(6)), METADATA),  # a proposal only, as the picture has no palette
        *((chunk(b"iCCP", body), PROFILE) for body in (b"", b"p3", b"p3\0\0not packed", b"p3\0\1packed")),
        (chunk(b"acTL", bytes(8)) + chunk(b"fcTL", b"short") + chunk(b"fdAT", b""), None),
    ],
)
def test_faulty_or_long_metadata_of_a_png_is_left_out(before: bytes, remark: str | None, settings: Settings) -> None:
    said, pixels = remark_and_pixels(png(PIXELS, before), settings)
    assert said == remark
    np.testing.assert_array_equal(pixels, PIXELS)


def test_opacities_for_more_colours_than_a_palette_has_are_left_out(settings: Settings) -> None:
    data = encoded(PICTURE.quantize(16), "PNG")
    at = data.index(b"IDAT") - 4
    said, pixels = remark_and_pixels(data[:at] + chunk(b"tRNS", bytes(300)) + data[at:], settings)
    assert said == METADATA
    np.testing.assert_array_equal(pixels, np.asarray(PICTURE.quantize(16).convert("RGB")))


def test_a_profile_of_more_than_a_mebibyte_is_used_and_one_without_measure_is_not(settings: Settings) -> None:
    profile = icc.rgb_profile(1.0, icc.P3)
    large = struct.pack(">I", 3 * MIB) + profile[4:] + bytes(3 * MIB - len(profile))
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    expected = ImageCms.profileToProfile(PICTURE, source, ImageCms.createProfile("sRGB"))
    assert expected is not None
    said, pixels = remark_and_pixels(png(PIXELS, [(b"iCCP", b"p3\0\0" + zlib.compress(large))]), settings)
    assert said is None
    np.testing.assert_allclose(pixels, np.asarray(expected), atol=1)
    bomb = zlib.compress(profile + bytes(50 * MIB), 9)
    said, pixels = remark_and_pixels(png(PIXELS, [(b"iCCP", b"p3\0\0" + bomb)]), settings)
    assert said == PROFILE
    np.testing.assert_array_equal(pixels, PIXELS)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_marker_is_taken_and_one_without_pixels_is_not(
    mode: str, progressive: bool, settings: Settings
) -> None:
    # the thumbnail in the metadata has an end marker of its own
    exif = b"Exif\0\0" + encoded(noise(1), "JPEG")
    bands = [*PICTURE.split(), noise(8, PICTURE.size).getchannel(0)]
    stored = Image.merge(mode, bands[: len(Image.new(mode, (1, 1)).getbands())])
    data = encoded(stored, "JPEG", quality=90, progressive=progressive, exif=exif)
    said, whole = remark_and_pixels(data, settings)
    assert said is None
    for cut in (1, 2):
        said, pixels = remark_and_pixels(data[:-cut], settings)
        assert said == END
        np.testing.assert_array_equal(pixels, whole)
    for cut in (4, 20, len(data) // 3):
        for refuse in (inspect_picture, load_picture, inspect_query):
            with pytest.raises(MediaRejected, match="damaged or truncated"):
                refuse(io.BytesIO(data[:-cut]), settings)


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize(
    "options",
    [{}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 1}, {"progressive": True}]
    + [{"progressive": True, "restart_marker_blocks": blocks, "subsampling": 0} for blocks in (1, 3)],
    ids=str,
)
def test_of_a_jpeg_that_is_cut_short_no_pixel_is_made_up(options: dict[str, Any]) -> None:
    data = encoded(noise(3, (12, 9)).resize((72, 50)), "JPEG", quality=90, **options)
    whole, taken = np.asarray(load(data, 10**6)), 0
    for cut in (*range(1, 25), *range(25, len(data) - 700, 23)):
        try:
            made = np.asarray(load(data[:-cut], 10**6))
        except Refused:
            assert cut > 2
            continue
        np.testing.assert_array_equal(made, whole)
        taken += 1
    assert taken >= 2


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("end", [b"\xff\xd9", bytes(9_000), bytes(9_000) + b"\xff\xd9"], ids=["end", "zeros", "both"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_of_which_half_is_lost_is_refused_whatever_follows(end: bytes, options: dict[str, Any]) -> None:
    data = encoded(PICTURE, "JPEG", quality=90, **options)
    with pytest.raises(Refused) as refused:
        load(data[: len(data) // 2] + end, 10**6)
    assert refused.value.facts == {"refused": "damaged", "reason": "the file is cut short"}


@pytest.mark.usefixtures("decoding_here")
def test_a_flat_end_is_no_lost_data() -> None:
    gray = Image.new("RGB", (800, 800), (128, 128, 128))
    gray.paste(PICTURE)
    for end in (0, 2):
        data = encoded(gray, "JPEG", optimize=True)
        made = np.asarray(load(data[: len(data) - end], 10**6))
        np.testing.assert_array_equal(made[400:], np.full((400, 800, 3), 128))
    padded = encoded(PICTURE, "JPEG")[:-2] + bytes(4_000)
    np.testing.assert_array_equal(np.asarray(load(padded, 10**6)), np.asarray(load(encoded(PICTURE, "JPEG"), 10**6)))


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_png_of_which_rows_are_missing_is_refused(interlaced: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 5, 8, 0, 0, 0, interlaced))
    # Adam7 of 7 x 5: passes of 1x1, 1x1, 2x1, 2x2, 4x1, 3x3 and 7x2 pixels
    whole = 2 + 2 + 3 + 2 * 3 + 5 + 3 * 4 + 2 * 8 if interlaced else 5 * 8
    for length, is_taken in ((whole, True), (whole + 9, True), (whole - 1, False), (whole // 2, False), (0, False)):
        pixels = chunk(b"IDAT", zlib.compress(bytes(length)))
        data = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
        if is_taken:
            assert load(data, 100).size == (7, 5)
            continue
        with pytest.raises(Refused) as refused:
            load(data, 100)
        assert refused.value.facts == {"refused": "damaged", "reason": "the file is cut short"}


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_rows_are_unpacked_once_and_missing_ones_are_seen_in_every_mode(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = PICTURE.crop((0, 0, 60, 50))
    stored = small.convert("L").convert(mode) if mode == "I;16" else small.convert(mode)
    data = encoded(stored, "PNG")
    at = data.index(b"IDAT")
    rows = zlib.decompress(data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at])])
    cut = data[: at - 4] + chunk(b"IDAT", zlib.compress(rows[: -len(rows) // 50])) + data[-12:]
    with pytest.raises(Refused) as refused:
        load(cut, 10**6)
    assert refused.value.facts == {"refused": "damaged", "reason": "the file is cut short"}
    monkeypatch.setattr(png_stream, "checked", lambda _: pytest.fail("unpacked twice"))
    assert load(data, 10**6).size == small.size


@pytest.mark.usefixtures("decoding_here")
def test_colours_of_16_bits_are_exact_also_under_a_wrong_checksum() -> None:
    values = np.arange(40 * 30 * 3, dtype=np.uint16).reshape(40, 30, 3)  # of 12 bits
    data = png(values)
    at = data.index(b"IDAT")
    wrongly = data[: at - 4] + chunk(b"IDAT", data[at + 4 : -20] + b"\1\2\3\4") + data[-12:]
    np.testing.assert_array_equal(np.asarray(load(wrongly, 10**6)), np.asarray(load(data, 10**6)))


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["cut", "ended"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_that_lacks_scans_is_refused(mode: str, end: bytes) -> None:
    data = encoded(PICTURE.convert(mode), "JPEG", quality=90, progressive=True)
    scans = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    assert len(scans) > 5
    for start in scans[1:]:
        with pytest.raises(Refused) as refused:
            load(data[:start] + end, 10**6)
        assert refused.value.facts == {"refused": "damaged", "reason": "the file is cut short"}
    assert load(data, 10**6).size == PICTURE.size


def test_a_png_without_its_end_marker_is_taken_and_one_without_pixels_is_not(settings: Settings) -> None:
    data = png(PIXELS)
    after = data[:-12] + chunk(b"tEXt", b"a\0" + bytes(50))
    for part in (data[:-3], data[:-12], after, after[:-30]):
        said, pixels = remark_and_pixels(part, settings)
        assert said == END
        np.testing.assert_array_equal(pixels, PIXELS)
    for cut in (30, 100, len(data) // 2):
        with pytest.raises(MediaRejected):
            inspect_picture(io.BytesIO(data[:-cut]), settings)


def test_a_png_whose_end_marker_has_a_wrong_checksum_has_a_remark(settings: Settings) -> None:
    data = png(PIXELS)
    for after, remark in ((b"", METADATA), (b"other data", f"{METADATA} {TRAILING}")):
        said, pixels = remark_and_pixels(data[:-12] + wrong(b"IEND", b"") + after, settings)
        assert said == remark
        np.testing.assert_array_equal(pixels, PIXELS)


def test_a_gif_without_its_trailer_is_taken_and_one_without_pixels_is_not(settings: Settings) -> None:
    data = encoded(PICTURE, "GIF")
    said, pixels = remark_and_pixels(data[:-1], settings)
    assert said == END
    np.testing.assert_array_equal(pixels, np.asarray(load_picture(io.BytesIO(data), settings)))
    with pytest.raises(MediaRejected):
        inspect_picture(io.BytesIO(data[:-20]), settings)


@pytest.mark.parametrize(("kind", "remark"), [("PNG", TRAILING), ("JPEG", TRAILING), ("WEBP", TRAILING), ("GIF", END)])
def test_data_after_the_picture_is_left_out(kind: str, remark: str, settings: Settings) -> None:
    data = encoded(PICTURE, kind)
    said, pixels = remark_and_pixels(data + b"<script>alert(1)</script>", settings)
    assert said == remark
    np.testing.assert_array_equal(pixels, np.asarray(load_picture(io.BytesIO(data), settings)))


def test_a_webp_without_its_last_padding_byte_is_taken(settings: Settings) -> None:
    made = (encoded(noise(seed, (33, 20)), "WEBP", lossless=True) for seed in range(20))
    data = next(data for data in made if int.from_bytes(data[16:20], "little") % 2)
    assert data.endswith(b"\0")
    said, pixels = remark_and_pixels(data[:-1], settings)
    assert said is None
    np.testing.assert_array_equal(pixels, np.asarray(load_picture(io.BytesIO(data), settings)))
    with pytest.raises(MediaRejected):
        inspect_picture(io.BytesIO(data[:-2]), settings)


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("declared", [0, 0xFFFFFFFF, -1, 100])
def test_a_webp_that_states_a_wrong_size_is_taken(declared: int) -> None:
    data = encoded(PICTURE, "WEBP", lossless=True)
    size = declared + len(data) - 8 if declared in (-1, 100) else declared
    wrong_size = data[:4] + struct.pack("<I", size) + data[8:]
    np.testing.assert_array_equal(np.asarray(load(wrong_size, 10**6)), PIXELS)
    with pytest.raises(Refused):
        load(wrong_size[:-200], 10**6)


@pytest.mark.usefixtures("decoding_here")
def test_a_png_of_which_only_the_checksum_of_the_rows_is_wrong_is_taken() -> None:
    data = png(PIXELS)
    at = data.index(b"IDAT")
    packed = data[at + 4 : -16]
    for parts in ((packed[:-4] + b"\1\2\3\4",), (packed[:-2], b"\3\4"), (packed[:-4],)):
        pixels = b"".join(chunk(b"IDAT", part) for part in parts)
        np.testing.assert_array_equal(np.asarray(load(data[: at - 4] + pixels + data[-12:], 10**6)), PIXELS)
    with pytest.raises(Refused):  # here the data itself was changed
        load(data[: at - 4] + wrong(b"IDAT", packed[:-4] + b"\1\2\3\4") + data[-12:], 10**6)


@pytest.mark.parametrize(
    ("frame", "precision", "message"),
    [
        (0xC1, 12, "a JPEG of 12 bits a sample: export it as"),
        (0xC3, 8, "a lossless or hierarchical JPEG: export"),
        (0xF7, 8, "a JPEG-LS picture: export"),
    ],
)
def test_a_jpeg_of_a_kind_that_is_not_read_is_called_by_its_name(
    frame: int, precision: int, message: str, settings: Settings
) -> None:
    data = bytearray(encoded(PICTURE, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = frame, precision
    with pytest.raises(MediaRejected, match=message):
        inspect_picture(io.BytesIO(data), settings)


def test_a_png_in_the_form_of_apples_apps_is_called_by_its_name(settings: Settings) -> None:
    data = png(PIXELS)
    with pytest.raises(MediaRejected, match=r"a PNG in a form of Apple's own \(CgBI\), .*: export it as JPEG or PNG"):
        inspect_picture(io.BytesIO(data[:8] + chunk(b"CgBI", b"P\0 \2") + data[8:]), settings)


def _idat(change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(png(PIXELS))
    change(data)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        _idat(lambda data: data.__setitem__(len(data) // 2, data[len(data) // 2] ^ 0xFF)),
        _idat(lambda data: data.__setitem__(30, data[30] ^ 1)),  # the checksum of the header
        b"\x89PNG\r\n\x1a\n" + png(PIXELS)[33:],  # no header
        b"\x89PNG\r\n\x1a\n",
        png(PIXELS)[:33] + chunk(b"IEND", b""),
    ],
    ids=["flipped pixels", "header checksum", "no header", "signature", "no pixels"],
)
def test_a_png_with_damage_that_matters_is_refused(data: bytes, settings: Settings) -> None:
    with pytest.raises(MediaRejected):
        inspect_picture(io.BytesIO(data), settings)


def test_the_outcome_of_an_upload_has_the_remark(ingest: Ingest) -> None:
    outcome = ingest.add_picture("a.jpg", io.BytesIO(encoded(PICTURE, "JPEG")[:-2]))
    assert (outcome.status, outcome.remark) == ("added", END)
    assert ingest.add_picture("b.png", io.BytesIO(png(PIXELS))).remark is None


def test_a_png_of_many_small_chunks_is_read_in_reasonable_time(settings: Settings) -> None:
    said, _ = remark_and_pixels(png(PIXELS, chunk(b"prVt", b"x") * 20_000), settings)
    assert said is None


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("kind", [1, 3, 4], ids=["byte", "short", "long"])
def test_the_orientation_may_be_an_integer_of_any_size(kind: int) -> None:
    value = (6).to_bytes({1: 1, 3: 2, 4: 4}[kind], "little").ljust(4, b"\0")
    exif = b"II*\0" + struct.pack("<IHHHI", 8, 1, 274, kind, 1) + value + bytes(4)
    expected = np.rot90(PIXELS, -1)
    np.testing.assert_array_equal(np.asarray(load(png(PIXELS, chunk(b"eXIf", exif)), 10**6)), expected)


def test_a_damaged_header_is_called_damage(settings: Settings) -> None:
    jpeg, indexed = bytearray(encoded(PICTURE, "JPEG")), bytearray(encoded(PICTURE.quantize(16), "PNG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 7] = bytes(2)  # the height
    indexed[indexed.index(b"PLTE") + 5] ^= 1
    header = _idat(lambda data: data.__setitem__(30, data[30] ^ 1))
    for data in (bytes(jpeg), bytes(indexed), header):
        with pytest.raises(MediaRejected, match=r"damaged or truncated \(its header can't be read\)"):
            inspect_picture(io.BytesIO(data), settings)
