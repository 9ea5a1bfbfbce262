"""Sidecars: files beside a picture that say something of this one only."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from retllm.errors import MediaRejected
from retllm.media import streams
from retllm.media.names import base_name, one_line, suffix_of
from retllm.media.sheets import xmp
from retllm.media.sheets.column_names import CAPTIONS, FILES, role
from retllm.media.sheets.columns import file_in, flat
from retllm.media.sheets.encodings import ESCAPED, NOT_UTF8, as_text, encoding_of, escaped
from retllm.media.sheets.entries import names_a_file, with_answer
from retllm.media.sheets.matching import LONG_NAME, path_stem
from retllm.media.sheets.objects import loads
from retllm.media.sheets.references import is_url, names_a_picture, whole_of
from retllm.media.sniffing import FileKind
from retllm.media.texts import clean_text, read_text, without_words
from retllm.settings import Settings

SUFFIXES = (".txt", ".text", ".caption", ".json", ".xmp")
"""Suffixes of sidecars; the first one wins if a picture has several."""
_MAX_JSON = 1 << 20
# Google Takeout: a.jpg.json, a.jpg.supplemental-metadata.json, with the number of a second file of the name, and cut
_TAKEOUT = ".supplemental-metadata"
_COUNTED = re.compile(r"\(\d+\)$")
_COUNT = re.compile(r"\(\d+\)")
# a field of its records of pictures, in which it writes texts as in HTML
_TAKEN = "photoTakenTime"
# fields of its record of an album, besides others; that of a picture has "photoTakenTime" instead of "date"
_OF_ALBUM = ({"title", "access", "date"}, {"title", "description", "date"})
# what Google Photos appends to the name of a picture that was changed there, in the language of its user
_EDITED = (
    *("edited", "effects", "bearbeitet", "modifié", "modificato", "editado", "ha editado", "editat", "bewerkt"),
    *("edytowane", "redigeret", "redigert", "redigerad", "muokattu", "upraveno", "изменено", "編集済み", "已修改"),
)
# in what it saves these, if the picture is in a format that browsers do not show
_EDITED_SUFFIX = ".jpg"
# darktable: a_01.jpg.xmp for the second version of a.jpg
_VERSION = re.compile(r"_\d{2}$")


@dataclass(frozen=True, slots=True)
class Beside:
    """Where the picture of a sidecar may lie.

    Attributes:
        path: the path without the picture's suffix.
        suffix: the picture's suffix in lower case; None if the sidecar does not tell it.
        edited: the paths of edited pictures that share the sidecar with it.
    """

    path: str
    suffix: str | None = None
    edited: tuple[str, ...] = field(default=(), compare=False)

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that a picture may have."""
        return (self.path, *self.edited)

    def fits(self, picture: str) -> bool:
        """Return whether a picture with this name is meant, in any case of letters."""
        path, suffix = path_stem(picture).lower(), suffix_of(picture)
        if path == self.path.lower():
            return self.suffix in (None, suffix)
        return suffix in (self.suffix, _EDITED_SUFFIX) and path in map(str.lower, self.edited)

    def named_like(self, picture: str) -> bool:
        """Return whether a picture with this name is meant, whatever their folders."""
        return Beside(base_name(self.path), self.suffix, tuple(map(base_name, self.edited))).fits(base_name(picture))


def places(name: str) -> list[Beside]:
    """Return where the picture of the sidecar ``name`` may lie, the likeliest first; none if it is no sidecar."""
    suffix = suffix_of(name)
    if suffix not in SUFFIXES:
        return []
    path = name[: -len(suffix)]
    place_of = _takeout_place if suffix == ".json" else _place
    found = [place_of(path)] if names_a_picture(path) else [Beside(path)]
    if suffix == ".json":
        found += _takeout(path)
    elif suffix == ".xmp" and names_a_picture(path) and _VERSION.search(path_stem(path)):
        found.append(Beside(path_stem(path)[:-3], suffix_of(path)))
    elif role(suffix_of(path)) in CAPTIONS:
        # WebDataset: a.caption.txt
        found.append(Beside(path.removesuffix(path[path.rindex(".") :])))
    if names_a_picture(path):
        # a picture that was converted may have kept the suffix of the other format: a.heic.jpg
        found.append(Beside(path))
    return found


def wholes(name: str) -> list[Beside]:
    """Return where the file may lie of which the sidecar ``name`` describes a page or a frame."""
    return [_place(whole) for place in places(name) if (whole := whole_of(place.path)) is not None]


def is_of_one(name: str) -> bool:
    """Return whether a name says that the file is about one picture, since it contains that one's name."""
    return any(place.suffix is not None for place in places(name))


def _place(picture: str) -> Beside:
    return Beside(path_stem(picture), suffix_of(picture))


def _takeout_place(picture: str, count: str = "") -> Beside:
    """Return the place of a picture of Google Takeout, and of those that were made of it."""
    path = path_stem(picture)
    # a picture that was numbered before it was edited has its number at the end of both names
    own = _COUNTED.search(path) if not count else None
    bare, number = (path[: own.start()], own[0]) if own else (path, count)
    return Beside(bare + number, suffix_of(picture), tuple(f"{bare}-{word}{number}" for word in _EDITED))


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
            yield _takeout_place(picture, count)
    if counted and names_a_picture(plain):
        yield _takeout_place(plain, count)


def cut_path(name: str) -> str | None:
    """Return the beginning of a picture's path if Google Takeout may have cut it in its sidecar's name; else None."""
    path = name.removesuffix(".json")
    return path if path != name and len(base_name(path)) >= LONG_NAME else None


def by_rank(name: str) -> tuple[int, bool]:
    """Return the place of a sidecar among those of its picture; the first one wins."""
    suffix = suffix_of(name)
    return SUFFIXES.index(suffix), suffix == ".xmp" and bool(_VERSION.search(path_stem(name[: -len(suffix)])))


def caption(
    stream: BinaryIO, kind: FileKind, pictures: Iterable[str], settings: Settings
) -> tuple[str | None, str | None]:
    """Return the caption in a sidecar of ``pictures`` (their names), None if it has none, and a remark.

    Raises:
        MediaRejected: it can't be read.
        TooLarge: it is too long.
    """
    if kind is FileKind.TEXT:
        read = read_text(stream, settings)
        if (reason := without_words(read.text)) is not None:
            raise MediaRejected(reason)
        return read
    if kind is FileKind.XMP:
        found = xmp.description(stream)
        return clean_text(found, settings) if found else None, None
    fields = read_object(stream)
    if fields is None:
        raise MediaRejected("The JSON is no object, so it says nothing of the picture beside it.")
    names = {base_name(picture).lower() for picture in pictures}
    for column in CAPTIONS:
        for name, value in fields.items():
            # in Google Takeout the title is the name of the file
            texts = [text for text in flat(value) if text.lower() not in names and not names_a_picture(text)]
            if role(name) == column and texts:
                if any(map(ESCAPED.search, texts)):
                    raise MediaRejected(f"Its caption {NOT_UTF8}")
                if _TAKEN in fields:
                    texts = list(map(html.unescape, texts))
                return clean_text("\n".join(dict.fromkeys(texts)), settings), None
    return None, None


def has_caption(fields: Mapping[str, object]) -> bool:
    """Return whether an object says itself what a picture shows, and not in the rows that it has."""
    return any(role(field) in CAPTIONS and flat(value) for field, value in fields.items())


def is_record(name: str, stream: BinaryIO) -> bool:
    """Return whether JSON is named like a picture with a number, and says where that was taken from.

    In img2dataset each picture has such a record; the last part of its address is no name of another picture.

    Raises:
        MediaRejected: the file is not text.
    """
    if not any(base_name(place.path).isdecimal() for place in places(name)):
        return False
    fields = read_object(stream) or {}
    is_from_address = any(role(field) in FILES and is_url(file_in(value)) for field, value in fields.items())
    return is_from_address and has_caption(fields) and not names_a_file(fields)


def is_of_album(stream: BinaryIO) -> bool:
    """Return whether a file is Google Takeout's record of an album, whose name depends on the language.

    Raises:
        MediaRejected: the file is not text.
    """
    fields = read_object(stream) or {}
    album = fields.get("albumData", fields)
    if not isinstance(album, dict):
        return False
    title = album.get("title")
    return isinstance(title, str) and not names_a_picture(title) and any(keys <= album.keys() for keys in _OF_ALBUM)


def titled(name: str, fields: Mapping[str, object]) -> str | None:
    """Return the path of the picture in the folder of Google Takeout's record ``name`` that has its title; else None.

    The title is the name before the picture was counted, so that of a counted record may be another picture's.
    """
    title, last = fields.get("title"), base_name(name)
    if _TAKEN not in fields or not isinstance(title, str) or not names_a_picture(title) or set(title) & set("/\\"):
        return None
    is_counted = not set(_COUNT.findall(last)) <= set(_COUNT.findall(title))
    return None if is_counted else name.removesuffix(last) + one_line(title)


def read_object(stream: BinaryIO) -> Mapping[str, object] | None:
    """Return the JSON object that a short file is, of a conversation its answer; None if it is long or anything else.

    Raises:
        MediaRejected: the file is not text.
    """
    if streams.length(stream) > _MAX_JSON:
        return None
    with as_text(stream, encoding_of(stream, _MAX_JSON, western=False, scattered=True)) as text:
        try:
            parsed = loads(escaped(text.read().lstrip("\ufeff")))
        except (ValueError, RecursionError):
            return None
    return with_answer(parsed) if isinstance(parsed, dict) else None
