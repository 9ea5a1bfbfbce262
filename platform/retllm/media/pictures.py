"""Pictures: checked, opened as right RGB, and made small; a decoder in a process of its own does the work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import structlog
from PIL import Image

from retllm.db.tables import Item
from retllm.errors import MediaRejected, NotFound, RetllmError, TooLarge
from retllm.media import sandbox, streams
from retllm.media.sandbox import DecoderDied, DecodeRequest, DecodeResponse, DecoderHung
from retllm.media.storage import Storage
from retllm.settings import Settings, get_settings

log = structlog.get_logger(__name__)

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
SMALL_MEDIA_TYPE = "image/webp"
SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/tiff": ".tif",
    "image/bmp": ".bmp",
}
"""The media types of stored pictures, and how the name of such a file ends."""
_REASON = 120  # characters of a decoder's complaint that are shown


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
        MediaRejected: it is no picture of a format that is taken, is damaged or cut short, or can't be decoded in the
            time and memory that the settings give.
        TooLarge: it has more than ``max_pixels`` pixels; found in its header, before anything is decoded.
        StackError: no process can be started to decode it.
    """
    wish = DecodeRequest(settings.max_pixels, settings.thumbnail_size)
    answer = _asked(wish, stream, streams.length(stream), settings)
    width, height = _size(answer, wish.max_pixels)
    media_type = _MEDIA_TYPES.get(str(answer.facts.get("format")))
    if media_type is None:
        raise _unreadable("it is of no kind that is taken")
    return Inspected(media_type=media_type, width=width, height=height, thumbnail=bytes(answer.payload))


def load_picture(stream: BinaryIO, settings: Settings, least: int = 0) -> Image.Image:
    """The picture in ``stream`` (seekable) as upright RGB: the first frame or page, alpha over white.

    Args:
        least: a JPEG may come smaller, but with no side shorter than so many pixels; 0 for its full size.

    Raises:
        MediaRejected, TooLarge, StackError: as in :func:`inspect_picture`; TooLarge also from ``max_file_bytes`` on.
    """
    return _pixels(stream, _allowed_length(stream, settings), DecodeRequest(settings.max_pixels, least=least), settings)


def check_picture(stream: BinaryIO, settings: Settings) -> None:
    """Make sure that the picture in ``stream`` (seekable) can be loaded.

    Raises:
        MediaRejected, TooLarge, StackError: as :func:`load_picture` does.
    """
    _allowed_length(stream, settings)
    inspect_picture(stream, settings)


def open_picture(storage: Storage, item: Item, settings: Settings | None = None, least: int = 0) -> Image.Image:
    """The stored picture of ``item`` as upright RGB, as :func:`load_picture` gives it.

    Raises:
        NotFound: the item has no picture (any more), or its file is gone.
        MediaRejected: the stored file was damaged.
        StackError: no process can be started to decode it.
    """
    if item.picture_key is None:
        raise NotFound("This item has no picture.", item_id=str(item.id))
    with storage.open(item.picture_key) as stream:
        # it was within the limits when it came in; they may have become smaller since
        max_pixels = (item.width or 0) * (item.height or 0) or Image.MAX_IMAGE_PIXELS or 0
        return _pixels(
            stream, streams.length(stream), DecodeRequest(max_pixels, least=least), settings or get_settings()
        )


def decoded_bytes(item: Item, least: int = 0) -> int:
    """Bytes of the pixels that :func:`open_picture` gives."""
    width, height = item.width or 0, item.height or 0
    scale = 1
    if least and item.media_type == "image/jpeg":
        scale = next((scale for scale in (8, 4, 2) if min(width, height) // least >= scale), 1)
    return 3 * math.ceil(width / scale) * math.ceil(height / scale)


def render_picture(stream: BinaryIO, side: int, settings: Settings) -> bytes:
    """The picture in ``stream`` (seekable) as others may see it: WebP, upright, without metadata.

    Args:
        side: pixels that its longer side has at most.

    Raises:
        MediaRejected, StackError: as in :func:`inspect_picture`.
    """
    wish = DecodeRequest(max(settings.max_pixels, Image.MAX_IMAGE_PIXELS or 0), side, quality=85)
    return bytes(_asked(wish, stream, streams.length(stream), settings).payload)


def _allowed_length(stream: BinaryIO, settings: Settings) -> int:
    length = streams.length(stream)
    if length > settings.max_file_bytes:
        raise TooLarge(
            f"The picture is larger than {streams.mebibytes(settings.max_file_bytes)}, the limit set by "
            "RETLLM_MAX_FILE_BYTES.",
            limit=settings.max_file_bytes,
        )
    return length


def _pixels(stream: BinaryIO, length: int, wish: DecodeRequest, settings: Settings) -> Image.Image:
    answer = _asked(wish, stream, length, settings)
    width, height = _size(answer, wish.max_pixels)
    if len(answer.payload) != width * height * 3:
        raise _unreadable("what came of it is no picture")
    return Image.frombytes("RGB", (width, height), answer.payload)


def _asked(wish: DecodeRequest, stream: BinaryIO, length: int, settings: Settings) -> DecodeResponse:
    try:
        answer = sandbox.ask(wish, stream, length, settings)
    except DecoderHung as error:
        log.warning("a decoder hung", seconds=settings.decode_seconds)
        raise _unreadable(f"it took longer than {settings.decode_seconds:g} s to decode") from error
    except DecoderDied as error:
        raise _unreadable("the decoder gave up on it") from error
    if "refused" in answer.facts:
        raise _refusal(answer.facts, wish.max_pixels, settings)
    return answer


def _refusal(facts: dict[str, Any], max_pixels: int, settings: Settings) -> RetllmError:
    why = facts["refused"]
    if why == "pixels":
        width, height = facts.get("width"), facts.get("height")
        # Pillow's own guard does not tell the size
        what = f"{width:,} × {height:,} pixels" if isinstance(width, int) and isinstance(height, int) else "more pixels"
        return TooLarge(
            f"The picture has {what}; RETLLM_MAX_PIXELS allows {max_pixels:,}: make it smaller and send it again.",
            limit=max_pixels,
        )
    if why == "memory":
        return _unreadable(f"it takes more than {streams.mebibytes(settings.decode_memory)} to decode")
    if why == "unknown":
        return MediaRejected(
            "The file is no picture that can be read here. Taken are JPEG, PNG, WebP, GIF, TIFF and BMP; if it is a "
            "rare kind of one of these, save it as PNG."
        )
    reason = " ".join(str(facts.get("reason")).split())[:_REASON]
    return MediaRejected(f"The picture is damaged or cut short ({reason}): export it again.")


def _unreadable(why: str) -> MediaRejected:
    return MediaRejected(f"The picture can't be read: {why}. Save it anew, or make it smaller.")


def _size(answer: DecodeResponse, max_pixels: int) -> tuple[int, int]:
    width, height = answer.facts.get("width"), answer.facts.get("height")
    if not isinstance(width, int) or not isinstance(height, int):
        raise _unreadable("what came of it is no picture")
    if width < 1 or height < 1 or width * height > max_pixels:
        raise _unreadable("what came of it is no picture")
    return width, height
