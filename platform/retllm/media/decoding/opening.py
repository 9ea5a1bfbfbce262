"""Open a picture of any accepted format, with its size checked before it is decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

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

from retllm.media.decoding import blemishes, camera, heif, jpegxl, photoshop, tiff
from retllm.media.decoding.blemishes import Mended
from retllm.media.decoding.facts import MAX_REASON, Blemish, Refused, Source
from retllm.media.decoding.signatures import media_type_of
from retllm.media.decoding.texts import texts_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
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


def prepare() -> None:
    """Set up the libraries for this process."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # longer texts are left out before; profiles have a limit of their own
    PngImagePlugin.MAX_TEXT_CHUNK = blemishes.MAX_PROFILE
    kinds = TiffImagePlugin.OPEN_INFO
    # gray of 12 and 16 bits in the byte order or with the polarity that Pillow leaves out; colour.to_rgb reads both
    kinds[(b"MM", 0, (1,), 1, (16,), ())] = kinds[(b"MM", 1, (1,), 1, (16,), ())]
    for order in (b"II", b"MM"):
        kinds[(order, 0, (1,), 1, (12,), ())] = kinds[(order, 1, (1,), 1, (12,), ())] = ("I;16", "I;12")


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Source]:
    """Open the picture and check its size in the header; raise every error of a decoder as ``Refused``."""
    with refusing(max_pixels):
        source = _open(data, max_pixels)
        with source.picture:
            yield source


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
        raise Refused("pixels") from error
    except UnidentifiedImageError as error:
        raise Refused("unknown") from error
    except Exception as error:  # decoders raise anything (struct.error, SyntaxError, KeyError) on hostile bytes
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise Refused("damaged", reason=reason) from error


def _open(data: bytes, max_pixels: int) -> Source:
    media_type = media_type_of(data[:_HEAD])
    if media_type == "image/heic":
        return heif.read(data, max_pixels)
    if media_type == "image/vnd.adobe.photoshop":
        return photoshop.read(data, max_pixels)
    if media_type == "image/jxl":
        read = jpegxl.read(data, max_pixels)
        return read if isinstance(read, Source) else _inside(read, "JXL", max_pixels)
    if raw_format := camera.raw_format(media_type, data):
        return _raw(data, raw_format, max_pixels)
    return _pillow(data, max_pixels)


def _raw(data: bytes, raw_format: str, max_pixels: int) -> Source:
    read = camera.read(data, raw_format, max_pixels)
    return _inside(read, raw_format, max_pixels) if isinstance(read, bytes) else Source(read, raw_format)


def _inside(jpeg: bytes, outer: str, max_pixels: int) -> Source:
    """Open a JPEG that was inside a file of another format."""
    source = _pillow(jpeg, max_pixels)
    source.format = outer
    return source


def _pillow(data: bytes, max_pixels: int) -> Source:
    mended = blemishes.mended(data)
    picture = _opened_by_pillow(mended, max_pixels)
    format_ = picture.format or ""
    if format_ == "TIFF" and (raw_format := camera.raw_format_of_tiff(picture.tag_v2)):  # type: ignore[attr-defined]
        return _raw(data, raw_format, max_pixels)
    pages = 1
    if format_ == "TIFF":
        pages = len(tiff.page_numbers(picture)) or 1  # type: ignore[arg-type]
        picture.seek(0)
    texts = texts_of(picture)
    if format_ == "AVIF":
        # Pillow has put the file's own rotation into EXIF, beside which XMP does not count
        picture.info.pop("xmp", None)
    return Source(picture, format_, mended.blemishes, mended.bits, pages, texts)


def _opened_by_pillow(mended: Mended, max_pixels: int) -> ImageFile.ImageFile:
    picture = Image.open(io.BytesIO(mended.data), formats=FORMATS)
    if picture.width * picture.height > max_pixels:
        raise Refused("pixels", width=picture.width, height=picture.height)
    if picture.format in ("JPEG", "MPO") and Blemish.END in mended.blemishes and not blemishes.is_complete(mended.data):
        raise Refused("damaged", reason="the file is cut short")
    return picture
