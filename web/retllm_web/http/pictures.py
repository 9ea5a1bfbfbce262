"""Sending stored pictures: encoded anew to be shown, as they came to be saved; browsers keep them for their users."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

from flask import Response, request

from retllm.errors import MediaRejected
from retllm.media import streams
from retllm.media.names import base_name, suffix_of
from retllm.media.pictures import SMALL_MEDIA_TYPE, SUFFIXES, render_picture
from retllm.media.sniffing import PICTURE_SUFFIXES, media_type_of
from retllm_web.http.middleware import MEDIA_POLICY
from retllm_web.http.services import services

# pixels of the longer side of what a page shows: more than a window of most screens, little to send
RENDITION_SIDE = 1600
_CHUNK = 1 << 16
# an item's picture never changes; after an hour the browser asks again whether it may still see it
_MAX_AGE_SECONDS = 3600
_MAX_NAME_LENGTH = 100
_UNKNOWN = "application/octet-stream"


def send_small(key: str, etag: str) -> Response:
    """The thumbnail stored under ``key``, which was encoded here, or 304 if the browser has it.

    Raises:
        NotFound: there is no such file.
    """
    if etag in request.if_none_match:
        return _unchanged(etag)
    response = _file(services().storage.open(key), SMALL_MEDIA_TYPE)
    response.headers["Content-Disposition"] = "inline"
    return _kept(response, etag)


def send_rendition(key: str, etag: str, side: int = RENDITION_SIDE) -> Response:
    """The picture stored under ``key`` as WebP, upright, without metadata, ``side`` pixels at most; or 304.

    No browser decodes what a stranger wrote, nor learns where a picture was taken. It is made when it is asked for.

    Raises:
        NotFound: there is no such file.
        MediaRejected: the stored file can't be decoded (any more).
        StackError: no process can be started to decode it.
    """
    etag = f"{etag}-{side}"
    if etag in request.if_none_match:
        return _unchanged(etag)
    found = services()
    with found.storage.open(key) as file:
        try:
            data = render_picture(file, side, found.settings)
        except MediaRejected as error:
            raise MediaRejected(f"This picture can't be shown, though its original is kept. {error.message}") from error
    response = Response(data, mimetype=SMALL_MEDIA_TYPE)
    response.headers["Content-Disposition"] = "inline"
    return _kept(response, etag)


def send_original(
    key: str, etag: str, name: str, *, media_type: str | None = None, size: int | None = None
) -> Response:
    """The file stored under ``key`` as it came, to be saved under a name like ``name`` and never shown; or 304.

    Args:
        media_type: of the picture; if it was not kept, the first bytes tell.

    Raises:
        NotFound: there is no such file.
    """
    if etag in request.if_none_match:
        return _unchanged(etag)
    file = services().storage.open(key)
    kind = media_type or media_type_of(streams.head(file, 16))
    kind = kind if kind in SUFFIXES else _UNKNOWN
    response = _file(file, kind)
    if size is not None:
        response.content_length = size
    response.headers["Content-Disposition"] = _attachment(name, SUFFIXES.get(kind, ".bin"))
    return _kept(response, etag)


def _file(file: BinaryIO, media_type: str) -> Response:
    response = Response(_chunks(file), mimetype=media_type)
    response.call_on_close(file.close)
    return response


def _unchanged(etag: str) -> Response:
    response = Response(status=304)
    del response.headers["Content-Type"]
    return _kept(response, etag)


def _kept(response: Response, etag: str) -> Response:
    response.set_etag(etag)
    response.cache_control.private = True
    response.cache_control.max_age = _MAX_AGE_SECONDS
    response.headers["Content-Security-Policy"] = MEDIA_POLICY
    return response


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _attachment(name: str, suffix: str) -> str:
    """RFC 6266: the name in plain letters for all, as it is for those that read UTF-8; its suffix is what it holds."""
    last = base_name(name)
    stem = last[: -len(suffix_of(last))] if suffix_of(last) in PICTURE_SUFFIXES else last
    # neither the first characters of a hidden file nor blanks and dots that Windows would drop
    stem = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", stem).strip(" .")[:_MAX_NAME_LENGTH].rstrip(" .") or "picture"
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode("ascii")
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("_.") or "picture"
    value = f'attachment; filename="{plain}{suffix}"'
    return value if plain == stem else f"{value}; filename*=UTF-8''{quote(stem + suffix, safe='')}"
