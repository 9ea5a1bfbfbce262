"""Read a file of several pictures part by part: pages of a TIFF or a PDF, key frames of a film.

A decoder in a separate process does the work. It gets the file once and returns one part after the other.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import structlog

from retllm.errors import MediaRejected
from retllm.media import sandbox
from retllm.media.messages import hash_of, pieces_of, reason_of, rejection, remark_of, unreadable
from retllm.media.sandbox import DecoderDied, DecodeResponse, DecoderHung, SplitRequest
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

log = structlog.get_logger(__name__)

PART_SIDE = 2400
"""Longest side of a part in pixels: small print on a page can be read, and more than any model takes."""
PART_MEDIA_TYPE = "image/jpeg"
_KINDS = {FileKind.PICTURE: "tiff", FileKind.PDF: "pdf", FileKind.FILM: "film"}
# parts of one file that may crash or block their decoder before the rest is left out
_MAX_FAILURES = 3


@dataclass(frozen=True, slots=True)
class RenderedPart:
    """A picture out of a file: ``page`` (from 1, of ``pages``), or the frame at ``seconds`` from the film's beginning.

    ``data`` is the upright picture in ``media_type``; width and height are in pixels. ``thumbnail``, ``copy`` and
    ``perceptual_hash`` are those of :class:`retllm.media.pictures.Inspected`. ``remark`` says what is wrong with the
    part; ``left_out``, of the last part, what was left out of the file.
    """

    page: int | None
    pages: int | None
    seconds: float | None
    width: int
    height: int
    data: bytes
    thumbnail: bytes
    copy: bytes
    remark: str | None = None
    left_out: str | None = None
    media_type: str = PART_MEDIA_TYPE
    perceptual_hash: int | None = None


@dataclass(frozen=True, slots=True)
class BrokenPart:
    """A part that can't be read, and why; other parts of its file can. ``left_out`` as of a :class:`RenderedPart`."""

    page: int | None
    pages: int | None
    seconds: float | None
    reason: str
    left_out: str | None = None


def read_parts(stream: BinaryIO, kind: FileKind, settings: Settings) -> Generator[RenderedPart | BrokenPart]:
    """Yield the parts of the file in ``stream`` (seekable), in their order; close it to end before the last one.

    Args:
        kind: of a picture, the pages of a TIFF are read; smaller versions and thumbnails in it are no pages.

    Raises:
        MediaRejected: no part can be read: the file is damaged or locked, a film without pictures, or what reads it is
            not installed.
        TooLarge: a film has more than ``max_pixels`` pixels.
        StackError: no decoder process can be started.
    """
    yield from _Reader(stream, kind, settings).parts()


class _Reader:
    """Reads one file; goes on after a part that its decoder did not survive."""

    def __init__(self, stream: BinaryIO, kind: FileKind, settings: Settings) -> None:
        self._stream = stream
        self._settings = settings
        self._kind = kind
        self._most = settings.film_frames if kind is FileKind.FILM else settings.max_parts
        self._given = 0
        self._rendered = False
        self._pages: int | None = None

    def parts(self) -> Iterator[RenderedPart | BrokenPart]:
        for _ in range(_MAX_FAILURES):
            try:
                yield from self._until_failure()
                return
            except DecoderHung as error:
                reason, cause = f"it took longer than {self._settings.decode_seconds:g} s to decode", error
            except DecoderDied as error:
                reason, cause = "the decoder crashed", error  # type: ignore[assignment]
            log.warning("a part could not be decoded", part=self._given + 1, reason=reason)
            if self._pages is None and (self._given or self._kind is FileKind.FILM):
                # not even the number of parts is known: it is the file, not the part
                raise unreadable(reason) from cause
            if self._given >= min(self._most, self._pages or self._most):
                return
            yield self._broken(reason)
        if not self._rendered:
            raise unreadable("the decoder failed at its first pages")
        yield self._broken("the decoder failed several times: the rest was left out")

    def _until_failure(self) -> Iterator[RenderedPart | BrokenPart]:
        settings = self._settings
        request = SplitRequest(
            _KINDS[self._kind],
            settings.max_pixels,
            PART_SIDE,
            self._most,
            settings.thumbnail_size,
            settings.copy_side,
            first=self._given,
        )
        for response in sandbox.split(request, self._stream, settings):
            if "refused" in response.facts:
                error = rejection(response.facts, self._settings.max_pixels, self._settings)
                if not self._rendered:
                    raise error
                yield self._broken(error.message)
                return
            yield self._part(response)

    def _part(self, response: DecodeResponse) -> RenderedPart | BrokenPart:
        facts = response.facts
        page, pages = _whole(facts.get("page")), _whole(facts.get("pages"))
        seconds, left_out = _seconds(facts.get("seconds")), self._left_out(facts, pages)
        self._given, self._pages = self._given + 1, pages
        width, height = _whole(facts.get("width")), _whole(facts.get("height"))
        if "reason" in facts:
            return BrokenPart(page, pages, seconds, reason_of(facts) + ".", left_out)
        data, thumbnail, copy = pieces_of(response.facts, response.payload, 3)
        if not width or not height or max(width, height) > PART_SIDE or not data.startswith(b"\xff\xd8\xff"):
            raise MediaRejected("The file can't be read: the decoder returned an invalid picture.")
        self._rendered = True
        made = (data, thumbnail, copy, remark_of(facts), left_out)
        return RenderedPart(page, pages, seconds, width, height, *made, perceptual_hash=hash_of(facts))

    def _left_out(self, facts: dict[str, Any], pages: int | None) -> str | None:
        count = _whole(facts.get("left_out"))
        if not count:
            return None
        if self._kind is FileKind.FILM:
            return f"The film has {count:,} more scenes; RETLLM_FILM_FRAMES allows {self._most:,} frames."
        return f"The file has {pages or 0:,} pages; RETLLM_MAX_PARTS allows {self._most:,}: the rest was left out."

    def _broken(self, reason: str) -> BrokenPart:
        self._given += 1
        page = self._given if self._kind is not FileKind.FILM else None
        return BrokenPart(page, self._pages, None, reason)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value >= 0 else None
