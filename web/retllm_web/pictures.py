"""Sending stored pictures: streamed, cached by the browser of whoever may see them, never run as a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from flask import Response, request
from PIL import Image

from retllm.media.decoder import FORMATS
from retllm_web.middleware import MEDIA_POLICY
from retllm_web.services import services

_CHUNK = 1 << 18
# an item's picture never changes; after an hour the browser asks again whether it may still see it
_MAX_AGE_SECONDS = 3600


def send(key: str, media_type: str | None, etag: str, *, size: int | None = None) -> Response:
    """The file stored under ``key``, or 304 if the browser has it; ``media_type`` None is read from its header.

    Raises:
        NotFound: there is no such file.
    """
    if etag in request.if_none_match:
        response = Response(status=304)
        del response.headers["Content-Type"]
    else:
        file = services().storage.open(key)
        response = Response(_chunks(file), mimetype=media_type or _media_type(file))
        response.call_on_close(file.close)
        if size is not None:
            response.content_length = size
        response.headers["Content-Disposition"] = "inline"
    response.set_etag(etag)
    response.cache_control.private = True
    response.cache_control.max_age = _MAX_AGE_SECONDS
    response.headers["Content-Security-Policy"] = MEDIA_POLICY
    return response


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _media_type(file: BinaryIO) -> str:
    with Image.open(file, formats=FORMATS) as picture:
        name = picture.format or ""
    file.seek(0)
    # MPO is a JPEG with more pictures behind it; browsers know it by that name
    return "image/jpeg" if name == "MPO" else Image.MIME[name]
