"""Responses with stored pictures: re-encoded for display, or the original as an attachment; cacheable by browsers."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

from flask import Response, request

from retllm.db.tables import Item, Source
from retllm.errors import MediaRejected, NotFound
from retllm.media import copies, query_pictures, streams
from retllm.media.decoding.signatures import media_type_of
from retllm.media.file_table import FileRole, role_of
from retllm.media.formats import SUFFIXES, WHOLE_SUFFIXES
from retllm.media.names import base_name, suffix_of
from retllm.media.pictures import SMALL_MEDIA_TYPE, render_picture
from retllm_web.http import decoding, long_answers
from retllm_web.http.middleware import MEDIA_POLICY
from retllm_web.http.services import services

# pixels of the longer side of a displayed picture: enough for most screens, small to transfer
RENDITION_SIDE = 1600
_CHUNK = 1 << 16
# pictures never change; after an hour the browser revalidates, so that a lost permission takes effect
_MAX_AGE_SECONDS = 3600
_MAX_NAME_LENGTH = 100
_SUFFIXES = SUFFIXES | WHOLE_SUFFIXES
_WITH_PICTURES = (FileRole.PICTURE, FileRole.PAGES, FileRole.FILM)
_UNKNOWN = "application/octet-stream"


def send_small(key: str, etag: str, media_type: str = SMALL_MEDIA_TYPE) -> Response:
    """Return the thumbnail or working copy stored under ``key``, or 304 if the browser has it.

    Raises:
        NotFound: there is no such file.
    """
    if etag in request.if_none_match:
        return _unchanged(etag)
    response = _file(services().storage.open(key), media_type)
    response.headers["Content-Disposition"] = "inline"
    return _cacheable(response, etag)


def send_item_rendition(item: Item) -> Response:
    """Return an item's picture for display, at most ``RENDITION_SIDE`` pixels: its working copy if that has this size.

    Otherwise its copy, or the picture if it has none, is encoded as in :func:`send_rendition`.

    Raises:
        The errors of :func:`send_rendition`.
    """
    if copies.is_shown_as_it_is(item, RENDITION_SIDE):
        with suppress(NotFound):
            return send_small(item.copy_key or "", f"{item.content_sha256}-{copies.side_of(item)}", copies.MEDIA_TYPE)
    return send_rendition(item.picture_key or "", item.content_sha256, smaller=item.copy_key)


def send_query_thumbnail(key: str, etag: str) -> Response:
    """Return the thumbnail of a query's picture; that of an earlier release is made.

    Raises:
        The errors of :func:`send_rendition`.
    """
    with suppress(NotFound):
        return send_small(query_pictures.thumbnail_key(key), f"{etag}-thumbnail")
    return send_rendition(key, etag, services().settings.thumbnail_size)


def send_query_rendition(key: str, etag: str) -> Response:
    """Return the picture of a query for display, as :func:`send_rendition` does it, made of its working copy if any.

    Raises:
        The errors of :func:`send_rendition`.
    """
    return send_rendition(key, etag, smaller=copies.key_beside(key, services().settings))


def send_rendition(key: str, etag: str, side: int = RENDITION_SIDE, *, smaller: str | None = None) -> Response:
    """Return the picture stored under ``key`` as WebP, upright, without metadata, at most ``side`` pixels; or 304.

    It is encoded on request, so that no browser decodes an uploaded file or learns where a picture was taken, and kept
    for a while.

    Args:
        smaller: the key of a file that shows the same and is decoded instead, if it is there and not damaged.

    Raises:
        NotFound: there is no such file.
        MediaRejected: the stored file cannot be decoded.
        Busy: too many wait for a decoder.
        StackError: the decoder process cannot be started.
    """
    etag = f"{etag}-{side}"
    if etag in request.if_none_match:
        return _unchanged(etag)
    try:
        data = decoding.rendered(etag, lambda: _rendered(key, side, smaller))
    except MediaRejected as error:
        raise MediaRejected(
            f"This picture cannot be displayed; its original can still be downloaded. {error.message}"
        ) from error
    response = Response(data, mimetype=SMALL_MEDIA_TYPE)
    response.headers["Content-Disposition"] = "inline"
    return _cacheable(response, etag)


def send_original(
    key: str, etag: str, name: str, *, media_type: str | None = None, size: int | None = None
) -> Response:
    """Return the original or whole file stored under ``key`` as an attachment with a name like ``name``; or 304.

    Args:
        media_type: the file's media type; if None, it is detected from the first bytes.

    Raises:
        NotFound: there is no such file.
    """
    if etag in request.if_none_match:
        return _unchanged(etag)
    file = services().storage.open(key)
    kind = media_type or media_type_of(streams.head(file, 64))
    kind = kind if kind in _SUFFIXES else _UNKNOWN
    response = _file(file, kind, of_any_size=True)
    if size is not None:
        response.content_length = size
    response.headers["Content-Disposition"] = attachment(name, _SUFFIXES.get(kind, ".bin"))
    return _cacheable(response, etag)


def send_item_picture(item: Item, *, is_original: bool) -> Response:
    """Return an item's picture as an attachment: its original, or a copy that does not tell where it was made.

    Raises:
        The errors of :func:`send_original` and :func:`plain_copy`.
    """
    if not is_original:
        return send_plain_copy(plain_copy(item.picture_key or "", item.content_sha256, item.copy_key), item.name)
    return send_original(
        item.picture_key or "", item.content_sha256, item.name, media_type=item.media_type, size=item.size_bytes
    )


def send_source(source: Source) -> Response:
    """Return the whole file of an item as an attachment, as :func:`send_original` does."""
    return send_original(
        source.file_key, source.content_sha256, source.name, media_type=source.media_type, size=source.size_bytes
    )


@dataclass(frozen=True)
class PlainCopy:
    """A picture without what its file says of itself, upright, in at most the size of working copies.

    ``tag`` identifies its bytes.
    """

    stream: BinaryIO
    media_type: str
    tag: str


def plain_copy(picture_key: str, tag: str, copy_key: str | None) -> PlainCopy:
    """Return a picture as a file that does not tell where it was made: its working copy, or made of it as that is.

    Args:
        tag: identifies the picture.
        copy_key: the key of its working copy, if it has one.

    Raises:
        The errors of :func:`send_rendition`.
    """
    found = services()
    if copy_key is not None:
        with suppress(NotFound):
            return PlainCopy(found.storage.open(copy_key), copies.MEDIA_TYPE, f"{tag}-{base_name(copy_key)}")
    side = found.settings.copy_side
    tag = f"{tag}-{side}"
    data = decoding.rendered(tag, lambda: _rendered(picture_key, side, None))
    return PlainCopy(io.BytesIO(data), SMALL_MEDIA_TYPE, tag)


def send_plain_copy(copy: PlainCopy, name: str) -> Response:
    """Return a copy as an attachment with a name like ``name``; or 304."""
    if copy.tag in request.if_none_match:
        copy.stream.close()
        return _unchanged(copy.tag)
    response = _file(copy.stream, copy.media_type)
    response.headers["Content-Disposition"] = attachment(name, _SUFFIXES[copy.media_type])
    return _cacheable(response, copy.tag)


def _rendered(key: str, side: int, smaller: str | None) -> bytes:
    found = services()
    if smaller is not None:
        with suppress(NotFound, MediaRejected), found.storage.open(smaller) as file:
            return render_picture(file, side, found.settings)
    with found.storage.open(key) as file:
        return render_picture(file, side, found.settings)


def _file(file: BinaryIO, media_type: str, *, of_any_size: bool = False) -> Response:
    chunks = long_answers.outside(_chunks(file)) if of_any_size else _chunks(file)
    response = Response(chunks, mimetype=media_type)
    response.call_on_close(file.close)
    return response


def _unchanged(etag: str) -> Response:
    response = Response(status=304)
    del response.headers["Content-Type"]
    return _cacheable(response, etag)


def _cacheable(response: Response, etag: str) -> Response:
    response.set_etag(etag)
    response.cache_control.private = True
    response.cache_control.max_age = _MAX_AGE_SECONDS
    response.headers["Content-Security-Policy"] = MEDIA_POLICY
    return response


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def attachment(name: str, suffix: str) -> str:
    """Return the header value by RFC 6266: an ASCII name, and the full name in UTF-8; the suffix fits the content."""
    last = base_name(name)
    stem = last[: -len(suffix_of(last))] if role_of(last) in _WITH_PICTURES else last
    # no leading dots of hidden files, and no trailing spaces and dots, which Windows drops
    stem = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", stem).strip(" .")[:_MAX_NAME_LENGTH].rstrip(" .") or "picture"
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode("ascii")
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("_.") or "picture"
    value = f'attachment; filename="{plain}{suffix}"'
    return value if plain == stem else f"{value}; filename*=UTF-8''{quote(stem + suffix, safe='')}"
