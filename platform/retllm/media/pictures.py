"""Check, load and scale pictures; a decoder in a separate process does the work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO

import structlog
from PIL import Image

from retllm.db.tables import Item
from retllm.errors import NotFound, TooLarge
from retllm.media import sandbox, streams
from retllm.media.decoding.texts import NO_TEXTS, TEXTS, Texts
from retllm.media.formats import MEDIA_TYPES
from retllm.media.messages import hash_of, pieces_of, rejection, remark_of, unreadable
from retllm.media.sandbox import DecoderDied, DecodeRequest, DecodeResponse, DecoderHung
from retllm.media.sniffing import check_is_picture
from retllm.media.storage import Storage
from retllm.settings import Settings, get_settings

log = structlog.get_logger(__name__)

SMALL_MEDIA_TYPE = "image/webp"
# the small picture, the working copy, and what the file says of itself
_PIECES = 2 + TEXTS


@dataclass(frozen=True, slots=True)
class Inspected:
    """A picture that was decoded completely. Width and height are those of the upright picture, in pixels.

    ``remark`` says what is wrong with the file of a picture that is taken nevertheless. ``copy`` is its working copy
    (JPEG); empty if it needs none. ``texts`` is what the file says of itself. ``perceptual_hash`` is that of
    :mod:`retllm.media.decoding.perceptual`.
    """

    media_type: str
    width: int
    height: int
    thumbnail: bytes
    copy: bytes
    remark: str | None = None
    texts: Texts = NO_TEXTS
    perceptual_hash: int | None = None


def inspect_picture(
    stream: BinaryIO, settings: Settings, max_pixels: int | None = None, setting: str = "RETLLM_MAX_PIXELS"
) -> Inspected:
    """Decode the whole picture once, and make its thumbnail (WebP) and its working copy, both without metadata.

    Of a file of several pages, this is the first one.

    Args:
        max_pixels: another limit than that of the settings, and ``setting`` its name.

    Raises:
        MediaRejected: the format is not accepted, the picture is damaged or truncated, or it can't be decoded within
            the limits of time and memory in the settings.
        TooLarge: it has more than ``max_pixels`` pixels by its header; nothing is decoded.
        StackError: no decoder process can be started.
    """
    request = DecodeRequest(max_pixels or settings.max_pixels, settings.thumbnail_size, copy_side=settings.copy_side)
    return _inspected(request, _decode(request, stream, streams.length(stream), settings, setting))


def inspect_single(stream: BinaryIO, settings: Settings) -> Inspected | None:
    """Return what :func:`inspect_picture` does; None for a file of several pages (:mod:`retllm.media.parts`).

    Raises:
        MediaRejected, TooLarge, StackError: as in :func:`inspect_picture`.
    """
    request = DecodeRequest(settings.max_pixels, settings.thumbnail_size, copy_side=settings.copy_side, split=True)
    response = _decode(request, stream, streams.length(stream), settings)
    return None if "pages" in response.facts else _inspected(request, response)


def _inspected(request: DecodeRequest, response: DecodeResponse) -> Inspected:
    width, height = _size(response, request.max_pixels)
    media_type = MEDIA_TYPES.get(str(response.facts.get("format")))
    if media_type is None:
        raise unreadable("its format is not accepted")
    thumbnail, copy, *texts = pieces_of(response.facts, response.payload, _PIECES)
    remark, hashed = remark_of(response.facts), hash_of(response.facts)
    return Inspected(media_type, width, height, thumbnail, copy, remark, Texts(*texts), hashed)


def make_copy(stream: BinaryIO, max_pixels: int, settings: Settings) -> bytes:
    """Return the working copy (JPEG) of the picture in ``stream`` (seekable); empty if it needs none.

    Raises:
        MediaRejected, TooLarge, StackError: as in :func:`inspect_picture`.
    """
    request = DecodeRequest(max_pixels, copy_side=settings.copy_side)
    response = _decode(request, stream, streams.length(stream), settings)
    return pieces_of(response.facts, response.payload, _PIECES)[1]


def load_picture(stream: BinaryIO, settings: Settings, min_side: int = 0) -> Image.Image:
    """Load the picture in ``stream`` (seekable) as upright RGB: the first frame or page, transparency over white.

    Args:
        min_side: a JPEG may be loaded smaller, with both sides at least so many pixels; 0 means full size.

    Raises:
        MediaRejected, TooLarge, StackError: as in :func:`inspect_picture`; TooLarge also for a file of more than
            ``max_file_bytes``.
    """
    request = DecodeRequest(settings.max_pixels, min_side=min_side)
    return _pixels(stream, check_length(stream, settings), request, settings)


def open_picture(storage: Storage, item: Item, settings: Settings | None = None, min_side: int = 0) -> Image.Image:
    """Load the stored picture of ``item`` as upright RGB, like :func:`load_picture`.

    Raises:
        NotFound: the item has no picture (any more), or its file is missing.
        MediaRejected: the stored file is damaged.
        StackError: no decoder process can be started.
    """
    if item.picture_key is None:
        raise NotFound("This item has no picture.", item_id=str(item.id))
    with storage.open(item.picture_key) as stream:
        # it was within the limits when it was added; they may be lower now
        max_pixels = (item.width or 0) * (item.height or 0) or Image.MAX_IMAGE_PIXELS or 0
        request = DecodeRequest(max_pixels, min_side=min_side)
        return _pixels(stream, streams.length(stream), request, settings or get_settings())


def load_stored(stream: BinaryIO, settings: Settings, min_side: int = 0) -> Image.Image:
    """Load a picture that this platform made, like :func:`load_picture` but without limits of an upload."""
    # the decoder that made it may have been taken over, so the pixels are limited all the same
    request = DecodeRequest(max(settings.max_pixels, settings.copy_side**2), min_side=min_side)
    return _pixels(stream, streams.length(stream), request, settings)


def decoded_bytes(size: tuple[int, int], media_type: str | None, least: tuple[int, int] = (0, 0)) -> int:
    """Return the bytes of pixels of a decoded picture.

    Args:
        size: of the picture, in pixels.
        least: a JPEG is decoded to 1/2, 1/4 or 1/8 of its size, but not below this size; 0 means full size.
    """
    width, height = size
    scale = 1
    if all(least) and media_type == "image/jpeg":
        scale = next((scale for scale in (8, 4, 2) if min(width // least[0], height // least[1]) >= scale), 1)
    # Pillow stores a fourth byte for each pixel of RGB
    return 4 * math.ceil(width / scale) * math.ceil(height / scale)


def render_picture(stream: BinaryIO, side: int, settings: Settings) -> bytes:
    """Render the picture in ``stream`` (seekable) for other people: WebP, upright, without metadata.

    Args:
        side: maximum of its longer side, in pixels.

    Raises:
        MediaRejected, StackError: as in :func:`inspect_picture`.
    """
    request = DecodeRequest(max(settings.max_pixels, Image.MAX_IMAGE_PIXELS or 0), side, quality=85)
    response = _decode(request, stream, streams.length(stream), settings)
    return pieces_of(response.facts, response.payload, _PIECES)[0]


def check_length(stream: BinaryIO, settings: Settings) -> int:
    """Return the length of a file (seekable) that should be a picture, after a look at its first bytes.

    Raises:
        MediaRejected: it is something else.
        TooLarge: it has more than ``max_file_bytes``.
    """
    length = streams.length(stream)
    if length > settings.max_file_bytes:
        raise TooLarge(
            f"The picture is larger than {streams.exact_size(settings.max_file_bytes)}, the limit set by "
            "RETLLM_MAX_FILE_BYTES.",
            limit=settings.max_file_bytes,
        )
    check_is_picture(streams.head(stream))
    return length


def _pixels(stream: BinaryIO, length: int, request: DecodeRequest, settings: Settings) -> Image.Image:
    response = _decode(request, stream, length, settings)
    width, height = _size(response, request.max_pixels)
    if len(response.payload) != width * height * 3:
        raise unreadable("the decoder returned an invalid picture")
    return Image.frombytes("RGB", (width, height), response.payload)


def _decode(
    request: DecodeRequest,
    stream: BinaryIO,
    length: int,
    settings: Settings,
    setting: str = "RETLLM_MAX_PIXELS",
) -> DecodeResponse:
    try:
        response = sandbox.ask(request, stream, length, settings)
    except DecoderHung as error:
        log.warning("a decoder timed out", seconds=settings.decode_seconds)
        raise unreadable(f"it took longer than {settings.decode_seconds:g} s to decode") from error
    except DecoderDied as error:
        raise unreadable("the decoder crashed") from error
    if "refused" in response.facts:
        raise rejection(response.facts, request.max_pixels, settings, setting)
    return response


def _size(response: DecodeResponse, max_pixels: int) -> tuple[int, int]:
    width, height = response.facts.get("width"), response.facts.get("height")
    if not isinstance(width, int) or not isinstance(height, int):
        raise unreadable("the decoder returned an invalid picture")
    if width < 1 or height < 1 or width * height > max_pixels:
        raise unreadable("the decoder returned an invalid picture")
    return width, height
