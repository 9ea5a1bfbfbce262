"""The pages of a TIFF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

from retllm.media.decoding.colour import to_rgb
from retllm.media.decoding.facts import Blemish, Part, Refused, Source, Split

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT = 254, 255, 256, 257
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED = 2
_MAX_DIRECTORIES = 10_000
# a picture with a smaller share of the largest page's pixels is a thumbnail of it
_THUMBNAIL = 1 / 16


@dataclass(frozen=True, slots=True)
class _Directory:
    number: int
    width: int
    height: int
    is_page: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height


def page_numbers(picture: TiffImagePlugin.TiffImageFile) -> list[int]:
    """Return which directories are pages: no smaller versions of another, no thumbnails, no masks."""
    directories = [found for found in _directories(picture) if found.is_page]
    if len(directories) < 2:
        return [found.number for found in directories]
    largest = max(directories, key=lambda found: found.pixels)
    return [
        found.number
        for found in directories
        if found.pixels >= largest.pixels * _THUMBNAIL and not _is_level(found, largest)
    ]


def pages(file: BinaryIO, asked: Split) -> Iterator[Part]:
    """Yield the pages of a TIFF.

    Raises:
        Refused: it is no TIFF.
    """
    with TiffImagePlugin.TiffImageFile(file) as picture:
        numbers = page_numbers(picture)
        given = numbers[: asked.most]
        for place, number in enumerate(given, 1):
            if place <= asked.first:
                continue
            left_out = len(numbers) - len(given) if place == len(given) else 0
            try:
                page, blemishes = _page(picture, number, asked.max_pixels)
                yield Part(page, page=place, pages=len(numbers), blemishes=blemishes, left_out=left_out)
            except Exception as error:  # decoders raise anything on hostile bytes
                yield Part(reason=_reason(error), page=place, pages=len(numbers), left_out=left_out)


def _page(
    picture: TiffImagePlugin.TiffImageFile, number: int, max_pixels: int
) -> tuple[Image.Image, frozenset[Blemish]]:
    picture.seek(number)
    if picture.width * picture.height > max_pixels:
        raise Refused("pixels", width=picture.width, height=picture.height)
    picture.load()
    source = Source(picture, "TIFF")
    rgb = to_rgb(source)
    return (rgb.copy() if rgb is picture else rgb), frozenset(source.blemishes)


def _directories(picture: TiffImagePlugin.TiffImageFile) -> Iterator[_Directory]:
    for number in range(_MAX_DIRECTORIES):
        try:
            picture.seek(number)
        except EOFError:
            return
        except Exception:  # of a kind that is not read; its tags are
            if number and picture.tell() != number:
                return
        tags = picture.tag_v2
        subfile, old = tags.get(_SUBFILE, 0), tags.get(_OLD_SUBFILE, 0)
        flagged = isinstance(subfile, int) and subfile & (_REDUCED | _MASK)
        width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
        if isinstance(width, int) and isinstance(height, int):
            yield _Directory(number, width, height, not flagged and old != _OLD_REDUCED)


def _is_level(smaller: _Directory, largest: _Directory) -> bool:
    """Whether a picture is a level of a pyramid: a half, a quarter and so on of the largest, rounded anyhow."""
    for power in range(1, 16):
        width, height = largest.width / 2**power, largest.height / 2**power
        if abs(smaller.width - width) < 1 and abs(smaller.height - height) < 1:
            return True
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, Refused):
        return f"it has {error.facts['width']:,} × {error.facts['height']:,} pixels"
    return " ".join(str(error).split()) or type(error).__name__
