"""What a decoder reports about a picture besides its pixels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from PIL import Image, ImageFile

from retllm.media.decoding.texts import Texts

MAX_REASON = 120
"""Characters of a reason that are passed on."""
_ENDS_EARLY = re.compile(
    r"truncat|premature|\beof\b|end of (?:file|data|stream|image)|cut short|incomplete|not enough|too short",
    re.IGNORECASE,
)


def damage(error: BaseException) -> str:
    """Return what is wrong with a file that a library can't decode, without capital and full stop.

    What the library says is meant for its programmers: people are told no more than whether the file ends too early.
    """
    return "it ends too early" if _ENDS_EARLY.search(str(error)) else "its data can't be decoded"


class Refused(Exception):
    """The file is rejected; ``cause`` is pixels, unknown, damaged, memory, unsupported, locked or extra."""

    def __init__(self, cause: str, **facts: Any) -> None:
        super().__init__(cause)
        self.facts = {"refused": cause, **facts}


class Blemish(StrEnum):
    """A fault of a picture that is taken nevertheless."""

    METADATA = "metadata"  # a chunk that pixels don't need has a wrong checksum or is too short
    LONG_TEXT = "long_text"  # more text than is read
    PROFILE = "profile"  # the colour profile can't be used
    END = "end"  # no end marker at the end; the pixels are complete
    TRAILING = "trailing"  # other data after the end of the picture
    PREVIEW = "preview"  # a raw file that can't be developed: what the camera made of it
    INSIDE = "inside"  # a JPEG whose data is damaged between its begin and its end
    REST = "rest"  # what follows in a film is damaged


@dataclass(slots=True)
class Source:
    """An opened picture, not yet decoded where its format allows that."""

    picture: Image.Image
    format: str  # that of the file; ``picture.format`` may be that of a preview inside it
    blemishes: set[Blemish] = field(default_factory=set)
    bits: int | None = None  # significant bits of a sample, if the file says so
    texts: Texts | None = None  # None: they are to be read from the picture
    code_points: tuple[int, int] | None = None  # primaries and transfer (ITU-T H.273), if they count
    # opens a picture with colours of 16 bits once more; it is not decoded
    again: Callable[[], ImageFile.ImageFile] | None = None
    data: bytes = b""  # what Pillow decodes


@dataclass(frozen=True, slots=True)
class Part:
    """One page (from 1, of ``pages``) or one frame at ``seconds``: its picture (RGB, upright), or why it has none."""

    picture: Image.Image | None = None
    reason: str = ""
    page: int | None = None
    pages: int | None = None
    seconds: float | None = None
    blemishes: frozenset[Blemish] = frozenset()
    left_out: int = 0  # of the last part: how many are not given because of the limit


@dataclass(frozen=True, slots=True)
class Split:
    """What is asked of a file: parts after number ``first`` (0 for all), at most ``most`` of all, no side longer."""

    first: int
    most: int
    side: int
    max_pixels: int
