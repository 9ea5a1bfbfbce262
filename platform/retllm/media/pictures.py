"""Pictures: checked, opened as right RGB, and made small."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from PIL.Image import Resampling, Transpose

from retllm.db.tables import Item
from retllm.errors import MediaRejected, NotFound, RetllmError, TooLarge
from retllm.media import streams
from retllm.media.storage import Storage
from retllm.settings import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
# MPO is what some phones and cameras write: a JPEG with further pictures behind it
_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
}
THUMBNAIL_MEDIA_TYPE = "image/webp"
_ORIENTATION = 0x0112
# EXIF 2.32, table 6: how the picture was stored, and what turns it upright
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_SIXTEEN_BITS = 65535.0


@dataclass(frozen=True, slots=True)
class Inspected:
    """A picture that was decoded from end to end. Width and height are those of the upright picture, in pixels."""

    media_type: str
    width: int
    height: int
    thumbnail: bytes


def inspect_picture(stream: BinaryIO, settings: Settings) -> Inspected:
    """Decode the picture whole and make its thumbnail (WebP, without metadata).

    Raises:
        MediaRejected: it is no picture of a format that is taken, or is damaged or cut short.
        TooLarge: it has more than ``max_pixels`` pixels; found in its header, before anything is decoded.
    """
    with _opened(stream, settings.max_pixels) as picture:
        width, height = picture.size
        media_type = _MEDIA_TYPES[picture.format or ""]
        if picture.format in ("JPEG", "MPO"):
            # a JPEG decodes to 1/2, 1/4 or 1/8 for much less; every byte of it is still read
            side = 2 * settings.thumbnail_size
            picture.draft(None, (side, side))
        picture.load()
        turn = _turn(picture)
        small = _to_rgb(picture)
        small.thumbnail((settings.thumbnail_size, settings.thumbnail_size), Resampling.LANCZOS, reducing_gap=2.0)
        if turn is not None:
            small = small.transpose(turn)
            if turn not in (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_TOP_BOTTOM, Transpose.ROTATE_180):
                width, height = height, width
        small.info = {}
        target = io.BytesIO()
        small.save(target, "WEBP", quality=80, method=2)
    return Inspected(media_type=media_type, width=width, height=height, thumbnail=target.getvalue())


def load_picture(stream: BinaryIO, settings: Settings) -> Image.Image:
    """The picture in ``stream`` (seekable) as upright RGB: the first frame or page, alpha over white.

    Raises:
        MediaRejected: it is no picture of a format that is taken, or is damaged or cut short.
        TooLarge: it has more than ``max_file_bytes`` bytes or ``max_pixels`` pixels.
    """
    if streams.length(stream) > settings.max_file_bytes:
        raise TooLarge(
            f"The picture is larger than {streams.mebibytes(settings.max_file_bytes)}, the limit set by "
            "RETLLM_MAX_FILE_BYTES.",
            limit=settings.max_file_bytes,
        )
    return _load(stream, settings.max_pixels)


def open_picture(storage: Storage, item: Item) -> Image.Image:
    """The stored picture of ``item`` as upright RGB, as :func:`load_picture` gives it.

    Raises:
        NotFound: the item has no picture (any more), or its file is gone.
        MediaRejected: the stored file was damaged.
    """
    if item.picture_key is None:
        raise NotFound("This item has no picture.", item_id=str(item.id))
    with storage.open(item.picture_key) as stream:
        # it was within the limit when it came in; the limit may have become smaller since
        return _load(stream, (item.width or 0) * (item.height or 0) or Image.MAX_IMAGE_PIXELS or 0)


def _load(stream: BinaryIO, max_pixels: int) -> Image.Image:
    with _opened(stream, max_pixels) as picture:
        picture.load()
        turn = _turn(picture)
        rgb = _to_rgb(picture)
        rgb = rgb.copy() if rgb is picture else rgb
    rgb.info = {}
    return rgb if turn is None else rgb.transpose(turn)


@contextmanager
def _opened(stream: BinaryIO, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """The picture with its header read and its size allowed; whatever a decoder raises becomes a rejection."""
    if (Image.MAX_IMAGE_PIXELS or max_pixels) < max_pixels:
        # Pillow's own guard refuses from twice this number on: the setting decides instead
        Image.MAX_IMAGE_PIXELS = max_pixels
    stream.seek(0)
    try:
        with Image.open(stream, formats=FORMATS) as picture:
            _check_size(picture.size, max_pixels)
            yield picture
    except RetllmError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"The picture has more pixels than RETLLM_MAX_PIXELS allows ({max_pixels:,}).") from error
    except UnidentifiedImageError as error:
        raise MediaRejected(
            "The file is no picture that can be read here. Taken are JPEG, PNG, WebP, GIF, TIFF and BMP; if it is a "
            "rare kind of one of these, save it as PNG."
        ) from error
    except Exception as error:  # decoders raise anything (struct.error, SyntaxError, KeyError) on hostile bytes
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise MediaRejected(f"The picture is damaged or cut short ({reason}): export it again.") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLarge(
            f"The picture has {width:,} × {height:,} pixels; RETLLM_MAX_PIXELS allows {max_pixels:,}: "
            "make it smaller and send it again.",
            limit=max_pixels,
        )


def _turn(picture: Image.Image) -> Transpose | None:
    """What turns the decoded picture upright. Pillow turns a TIFF itself while it decodes and forgets the tag."""
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make a broken picture
        return None


def _to_rgb(picture: Image.Image) -> Image.Image:
    """The decoded picture as 8-bit RGB; ``picture`` itself if it is that already."""
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    if picture.mode.startswith("I;16"):
        return _gray(np.asarray(picture, dtype=np.float32) * (255 / _SIXTEEN_BITS))
    if picture.mode in ("I", "F"):
        return _gray(_stretched(np.asarray(picture, dtype=np.float32)))
    if picture.mode == "CMYK":
        return _from_cmyk(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _gray(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def _stretched(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Measured values (32-bit integers or floats have no agreed white) from their least to their greatest."""
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        return finite * np.float32(255)
    if low >= 0 and high <= 255:  # eight bits in a wider type
        return finite
    return (finite - np.float32(low)) * np.float32(255 / (high - low) if high > low else 0)


def _from_cmyk(picture: Image.Image) -> Image.Image:
    """Printing inks through the profile of the picture, where it has a usable one."""
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            turned = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            return picture.convert("RGB")
        if turned is not None:
            return turned
    return picture.convert("RGB")
