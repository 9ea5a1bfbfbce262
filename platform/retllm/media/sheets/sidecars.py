"""Sidecars: files beside a picture that say something of this one only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from retllm.errors import MediaRejected
from retllm.media import streams
from retllm.media.names import base_name, suffix_of
from retllm.media.sheets import xmp
from retllm.media.sheets.columns import CAPTIONS, flat, role
from retllm.media.sheets.encodings import as_text, encoding_of
from retllm.media.sheets.matching import LONG_NAME, path_stem
from retllm.media.sheets.references import names_a_picture
from retllm.media.sniffing import FileKind
from retllm.media.texts import clean_text, read_text
from retllm.settings import Settings

SUFFIXES = (".txt", ".text", ".caption", ".json", ".xmp")
"""Suffixes of sidecars; the first one wins if a picture has several."""
_MAX_JSON = 1 << 20
# Google Takeout: a.jpg.json, a.jpg.supplemental-metadata.json, with the number of a second file of the name, and cut
_TAKEOUT = ".supplemental-metadata"
_COUNTED = re.compile(r"\(\d+\)$")


@dataclass(frozen=True, slots=True)
class Beside:
    """Where the picture of a sidecar may lie.

    Attributes:
        path: the path without the picture's suffix.
        suffix: the picture's suffix in lower case; None if the sidecar does not tell it.
    """

    path: str
    suffix: str | None = None

    def fits(self, picture: str) -> bool:
        """Return whether a picture with this name is meant."""
        return path_stem(picture) == self.path and self.suffix in (None, suffix_of(picture))


def places(name: str) -> list[Beside]:
    """Return where the picture of the sidecar ``name`` may lie, the likeliest first; none if it is no sidecar."""
    suffix = suffix_of(name)
    if suffix not in SUFFIXES:
        return []
    path = name[: -len(suffix)]
    found = [_place(path)] if names_a_picture(path) else [Beside(path)]
    return [*found, *_takeout(path)] if suffix == ".json" else found


def _place(picture: str, count: str = "") -> Beside:
    return Beside(path_stem(picture) + count, suffix_of(picture))


def _takeout(path: str) -> Iterator[Beside]:
    """Yield where the picture of Google Takeout's sidecar at ``path`` may lie."""
    counted = _COUNTED.search(path)
    count = counted[0] if counted else ""
    plain = path[: counted.start()] if counted else path
    last = base_name(plain)
    for at in (i for i, character in enumerate(last) if character == "."):
        # a part of ".supplemental-metadata" ends the name, down to the dot alone
        picture = plain[: len(plain) - len(last) + at]
        if _TAKEOUT.startswith(last[at:]) and names_a_picture(picture):
            # a.jpg.supplemental-metadata(1).json is that of a(1).jpg
            yield _place(picture, count)
    if counted and names_a_picture(plain):
        yield _place(plain, count)


def cut_path(name: str) -> str | None:
    """Return the beginning of a picture's path if Google Takeout may have cut it in its sidecar's name; else None."""
    path = name.removesuffix(".json")
    return path if path != name and len(base_name(path)) >= LONG_NAME else None


def by_rank(name: str) -> int:
    """Return the place of a sidecar among those of its picture; the first one wins."""
    return SUFFIXES.index(suffix_of(name))


def caption(stream: BinaryIO, kind: FileKind, pictures: Iterable[str], settings: Settings) -> str | None:
    """Return the caption in a sidecar of ``pictures`` (their names); None if it has none.

    Raises:
        MediaRejected: it can't be read.
        TooLarge: it is too long.
    """
    if kind is FileKind.TEXT:
        return read_text(stream, settings)
    if kind is FileKind.XMP:
        found = xmp.description(stream)
        return clean_text(found, settings) if found else None
    fields = read_object(stream)
    if fields is None:
        raise MediaRejected("The JSON is no object, so it says nothing of the picture beside it.")
    names = {base_name(picture).lower() for picture in pictures}
    for column in CAPTIONS:
        for field, value in fields.items():
            # in Google Takeout the title is the name of the file
            texts = [text for text in flat(value) if text.lower() not in names and not names_a_picture(text)]
            if role(field) == column and texts:
                return clean_text("\n".join(dict.fromkeys(texts)), settings)
    return None


def read_object(stream: BinaryIO) -> Mapping[str, object] | None:
    """Return the JSON object that a short file is; None if it is long or anything else.

    Raises:
        MediaRejected: the file is not text.
    """
    if streams.length(stream) > _MAX_JSON:
        return None
    with as_text(stream, encoding_of(stream, _MAX_JSON, western=False)) as text:
        try:
            parsed = json.loads(text.read().lstrip("\ufeff"))
        except (ValueError, RecursionError):
            return None
    return parsed if isinstance(parsed, dict) else None
