"""Open a picture of any accepted format, with its size checked before it is decoded."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from retllm.media.decoding import blemishes, camera, deep, heif, jpegxl, photoshop, png_stream, strict_jpeg, tiff
from retllm.media.decoding.blemishes import Mended
from retllm.media.decoding.facts import Blemish, Refused, Source, damage
from retllm.media.decoding.signatures import media_type_of
from retllm.media.decoding.texts import NO_TEXTS, TIFFS, Texts, texts_in, texts_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
JPEGS = ("JPEG", "MPO")
# imported before the limits apply; Pillow would import them for the first picture
_PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
_HEAD = 64
_COUNT = re.compile(r"(\d+) pixels")
_ORIENTATION = 274
_PLAIN = ("image/jpeg", "image/png")  # all of whose kinds are read, or called by their name
# how libraries say that the file may be sound
_UNSUPPORTED = ("unsupported", "not supported", "not yet supported", "not been built in", "unknown raw mode")


def prepare() -> None:
    """Set up the libraries for this process."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # longer texts are left out before; profiles have a limit of their own
    PngImagePlugin.MAX_TEXT_CHUNK = blemishes.MAX_PROFILE
    tiff.add_kinds()


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Source]:
    """Open the picture and check its size in the header; raise every error of a decoder as ``Refused``."""
    with refusing(max_pixels):
        source = _open(data, max_pixels)
        with source.picture:
            yield source


def count_pages(data: bytes) -> int:
    """Return how many pages a TIFF has, whether they can be read or not; 1 for all other pictures."""
    if media_type_of(data[:_HEAD]) != "image/tiff":
        return 1
    try:
        raw_format, pages = _pages(data)
    except Exception:  # the reason is found when it is opened
        return 1
    return 1 if raw_format else max(1, len(pages))


@contextmanager
def refusing(max_pixels: int) -> Iterator[None]:
    """Raise every error of a decoder as ``Refused``."""
    # Pillow's own guard rejects from twice this number on; the checks elsewhere are exact
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        yield
    except Refused:
        raise
    except MemoryError as error:
        raise Refused("memory") from error
    except Image.DecompressionBombError as error:
        # it tells the number of pixels only in its message
        found = _COUNT.search(str(error))
        raise Refused("pixels", count=int(found[1]) if found else None) from error
    except UnidentifiedImageError as error:
        raise Refused("unknown") from error
    except Exception as error:  # decoders raise anything (struct.error, SyntaxError, KeyError) on hostile bytes
        if any(word in str(error).lower() for word in _UNSUPPORTED):
            raise Refused("unsupported", reason="of a kind that is not read here") from error
        raise Refused("damaged", reason=damage(error)) from error


def _open(data: bytes, max_pixels: int) -> Source:
    media_type = media_type_of(data[:_HEAD])
    if media_type in ("image/heic", "image/avif") and (avif := heif.as_avif(data)):
        return _pillow(avif, max_pixels)
    if media_type == "image/heic":
        return heif.read(data, max_pixels)
    if media_type == "image/vnd.adobe.photoshop":
        return photoshop.read(data, max_pixels)
    if media_type == "image/jxl":
        read = jpegxl.read(data, max_pixels)
        return read if isinstance(read, Source) else _inside(read, "JXL", max_pixels)
    if raw_format := camera.raw_format(media_type, data):
        return _raw(data, raw_format, max_pixels)
    if media_type == "image/tiff":
        return _tiff(data, max_pixels)
    return _pillow(data, max_pixels)


def _raw(data: bytes, raw_format: str, max_pixels: int) -> Source:
    read = camera.read(data, raw_format, max_pixels)
    if isinstance(read, Image.Image):
        return Source(read, raw_format, texts=_texts_of_raw(data))
    source = _inside(read if isinstance(read, bytes) else read.jpeg, raw_format, max_pixels)
    if not isinstance(read, bytes):
        source.blemishes.add(Blemish.PREVIEW)
        if read.orientation is not None:
            source.picture.getexif().setdefault(_ORIENTATION, read.orientation)
    if source.texts is None or not source.texts.shot:
        source.texts = replace(source.texts or NO_TEXTS, shot=_texts_of_raw(data).shot)
    return source


def _texts_of_raw(data: bytes) -> Texts:
    """Return what a raw file says that is a TIFF, as most are."""
    return texts_in(exif=data) if data[:4] in TIFFS else NO_TEXTS


def _inside(jpeg: bytes, outer: str, max_pixels: int) -> Source:
    """Open a JPEG that was inside a file of another format."""
    source = _pillow(jpeg, max_pixels)
    source.format = outer
    return source


def _tiff(data: bytes, max_pixels: int) -> Source:
    """Open the first page of a TIFF, or what a camera has in one."""
    raw_format, pages = _pages(data)
    if raw_format:
        return _raw(data, raw_format, max_pixels)
    again = partial(tiff.opened, io.BytesIO(data), pages[0] if pages else 0)
    return _source(again(), Mended(data), again, max_pixels)


def _pages(data: bytes) -> tuple[str | None, list[int]]:
    """Return the camera's format of a TIFF, if it is one, and which directories are pages."""
    with tiff.Directories(io.BytesIO(data)) as picture:
        return camera.raw_format_of_tiff(picture.tag_v2), tiff.page_numbers(picture)


def _pillow(data: bytes, max_pixels: int) -> Source:
    mended = blemishes.mended(data)
    again = partial(_opened_by_pillow, mended)
    return _source(again(), mended, again, max_pixels)


def _opened_by_pillow(mended: Mended) -> ImageFile.ImageFile:
    if kind := blemishes.unread_kind(mended.data):
        raise Refused("unsupported", reason=kind)
    try:
        picture = Image.open(io.BytesIO(mended.data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if media_type_of(mended.data[:_HEAD]) in _PLAIN:
            raise Refused("damaged", reason="its header can't be read") from error
        raise
    if picture.format in JPEGS and (Blemish.END in mended.blemishes or blemishes.is_suspect(mended.data)):
        _check_jpeg(mended.data)
    return picture


def _check_jpeg(data: bytes) -> None:
    if not blemishes.is_complete(blemishes.up_to_end(data)):
        raise Refused("damaged", reason="the file is cut short")


def load_checked(source: Source, least: tuple[int, int]) -> None:
    """Decode an opened picture as :func:`load` does, and note damage inside of a JPEG.

    Args:
        least: a JPEG may be decoded smaller, but with at least this width and height in pixels.

    Raises:
        Refused: as :func:`load` does.
    """
    if source.picture.format not in JPEGS or not source.data:
        load(source)
        return
    try:
        made = strict_jpeg.decoded(source.data, source.picture, least)
    except strict_jpeg.Damaged:
        source.blemishes.add(Blemish.INSIDE)
        made = None
    if made is not None:
        source.picture = made
        return
    assert isinstance(source.picture, ImageFile.ImageFile)
    source.picture.draft(None, least)
    load(source)


def load(source: Source) -> None:
    """Decode an opened picture.

    Raises:
        Refused: a part of its data is missing, which its decoder does not say.
    """
    if source.format == "PNG":
        _load_png(source)
        return
    source.picture.load()
    if source.format in JPEGS and source.data and blemishes.is_filled(source.picture):
        _check_jpeg(source.data)


def _load_png(source: Source) -> None:
    """Decode a PNG; its rows are unpacked once more only if they can't be decoded, or some of them may be missing."""
    try:
        source.picture.load()
    except (OSError, SyntaxError):
        if (data := _checked_png(source.data)) is source.data:
            raise
        again = partial(_opened_by_pillow, Mended(data))
        source.data, source.picture, source.again = data, again(), source.again and again
        _forget_other_orientations(source.picture)
        source.picture.load()
    else:
        if not png_stream.is_filled(source.picture):
            _checked_png(source.data)


def _forget_other_orientations(picture: Image.Image) -> None:
    """Leave EXIF, or an AVIF's own rotation, as the only word on orientation, as browsers do; Pillow takes others."""
    for name in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        picture.info.pop(name, None)


def _checked_png(data: bytes) -> bytes:
    checked = png_stream.checked(data)
    if checked is None:
        raise Refused("damaged", reason="the file is cut short")
    return checked


def _source(
    picture: ImageFile.ImageFile, mended: Mended, again: Callable[[], ImageFile.ImageFile], max_pixels: int
) -> Source:
    if picture.width * picture.height > max_pixels:
        raise Refused("pixels", width=picture.width, height=picture.height)
    texts = texts_of(picture, mended.texts)
    _forget_other_orientations(picture)
    if picture.format == "AVIF" and "icc_profile" not in picture.info:
        mended.code_points = heif.code_points(mended.data)
    reopened = again if deep.is_deep(picture) else None
    return Source(
        picture, picture.format or "", mended.blemishes, mended.bits, texts, mended.code_points, reopened, mended.data
    )
