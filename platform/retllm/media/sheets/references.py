"""How a row names its picture: paths of any system, addresses, names without suffix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from retllm.media.file_table import SUFFIXES, FileRole
from retllm.media.names import base_name, coded, one_line

# of pictures that are not taken, but may have been where the sheet was made, or lie beside their captions
_NOT_TAKEN = (
    ".svg .tga .ppm .pgm .pbm .pnm .jp2 .j2k .jpx .jxr .ico .exr .hdr .dds .qoi .pcx .xcf .eps .xbm .xpm .wmf .emf"
)
_SUFFIXES = frozenset(
    (*SUFFIXES[FileRole.PICTURE], *SUFFIXES[FileRole.PAGES], *SUFFIXES[FileRole.FILM], *_NOT_TAKEN.split())
)
# a longer one first, since it may begin like another
_SUFFIX = rf"\.(?:{'|'.join(sorted((suffix[1:] for suffix in _SUFFIXES), reverse=True))})"
# Flickr8k numbers the captions of a picture: a.jpg#0
_NUMBER = re.compile(rf"({_SUFFIX})#\d+$", re.IGNORECASE)
_PART = re.compile(rf"(.*{_SUFFIX}), (?:page \d+|\d+:\d\d[\d:.]*)$", re.IGNORECASE)
_FIRST_PAGE = ", page 1"
_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_DRIVE = re.compile(r"^[a-z]:(?=/)", re.IGNORECASE)
_MAX_CHARS = 4096
# COCO writes the number 9 as 000000000009, and in 2014 as COCO_val2014_000000000009
_ID_DIGITS = 12
_ID_PREFIXES = ("", "COCO_train2014_", "COCO_val2014_", "COCO_test2014_", "COCO_test2015_")
# suffixes of one format
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif", ".heif": ".heic", ".hif": ".heic"}

SUFFIX_PATTERN = _SUFFIX
"""The pattern of a picture's suffix, without groups; ignore the case."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A name of a picture in a sheet.

    Attributes:
        parts: the parts of its path, of an address without percent encoding; the first ones may be ``..``.
        decoded: the parts read the other way, without percent encoding or of an address with it, if that differs.
        coded: the parts that the picture may have if another file took its clean name
            (:func:`retllm.media.names.coded`).
        absolute: whether the path began at a root, so that it is not relative to the sheet.
    """

    parts: tuple[str, ...]
    decoded: tuple[str, ...] | None
    absolute: bool
    coded: tuple[tuple[str, ...], ...] = ()

    @property
    def very(self) -> tuple[Reference, ...]:
        """References to the picture with a code that has this very name."""
        return tuple(Reference(parts, None, self.absolute) for parts in self.coded)

    @property
    def bases(self) -> tuple[str, ...]:
        """The last parts that the picture may have, the best first."""
        return (self.parts[-1],) if self.decoded is None else (self.parts[-1], self.decoded[-1])

    @property
    def paged(self) -> str | None:
        """The file whose first page is meant: if that is its only one, the picture has the file's name."""
        last = self.parts[-1]
        return whole_of(last) if last.lower().endswith(_FIRST_PAGE) else None

    @property
    def whole(self) -> Reference | None:
        """The file whose page or frame is meant."""
        paths = (self.parts, self.decoded, *self.coded)
        parts, decoded, *coded = (path and _whole_path(path) for path in paths)
        return Reference(parts, decoded, self.absolute, tuple(filter(None, coded))) if parts else None


def whole_of(name: str) -> str | None:
    """Return the file whose page or frame has this name: ``scan.pdf, page 3`` or ``film.mp4, 0:12.5``; else None."""
    found = _PART.match(name)
    return found[1] if found else None


def _whole_path(path: tuple[str, ...]) -> tuple[str, ...] | None:
    last = whole_of(path[-1])
    return None if last is None else (*path[:-1], last)


def names_a_picture(name: str) -> bool:
    """Return whether ``name`` ends like the name or the address of a picture."""
    name = name[:_MAX_CHARS].strip()
    if _URL.match(name):
        name = _name_in_url(name)
    return bool(_suffix(_NUMBER.sub(r"\1", name)))


def is_url(name: str) -> bool:
    """Return whether ``name`` is an address and nothing else."""
    return bool(_URL.match(name.strip())) and not any(map(str.isspace, name.strip()))


def stem(name: str) -> str:
    """Return the last part of ``name`` without the suffix of a picture."""
    base = base_name(name)
    return base.removesuffix(_suffix(base))


def _suffix(name: str) -> str:
    """Return the suffix of a picture that a name ends with; empty if it has none."""
    _, dot, last = name.rpartition(".")
    return dot + last if (dot + last).lower() in _SUFFIXES else ""


def keys(reference: Reference) -> set[str]:
    """Return the stems that the picture, or the file that it is a part of, may have, in lower case and as they are."""
    parts = (*reference.bases, *(path[-1] for path in reference.coded))
    bases = (*parts, *filter(None, map(whole_of, parts)))
    found = {stem(base) for base in bases}
    # converters write a.heic.jpg for a.heic
    found |= {base for base in bases if format_of(base)}
    found |= {prefix + key.zfill(_ID_DIGITS) for key in found if key.isdecimal() for prefix in _ID_PREFIXES}
    return found | {key.lower() for key in found}


def is_number_of(base: str, picture: str) -> bool:
    """Return whether ``base`` is the number in COCO's name of a picture."""
    return base.isdecimal() and stem(picture) in {prefix + base.zfill(_ID_DIGITS) for prefix in _ID_PREFIXES}


def format_of(name: str) -> str:
    """Return the suffix of a picture's name, the same for all suffixes of one format; empty without such a suffix."""
    suffix = _suffix(name).lower()
    return _SAME.get(suffix, suffix)


def reference(name: str) -> Reference | None:
    """Return the reference in a field of a sheet; None if it names nothing."""
    name = name[:_MAX_CHARS].strip()
    absolute = is_address = bool(_URL.match(name))
    if absolute and not name.lower().startswith("file:"):
        # the folders of an address are not those of a disk
        name = _name_in_url(name)
    elif absolute:
        name = _path_of_url(name)
    name = _NUMBER.sub(r"\1", name).replace("\\", "/")
    without_drive = _DRIVE.sub("", name)
    absolute = absolute or without_drive.startswith("/") or without_drive != name
    parts = _parts(without_drive)
    if not parts or parts[-1] == "..":
        return None
    readings = {parts: without_drive}
    whole = unquote(without_drive)
    if (decoded := _parts(whole)) and decoded[-1] != "..":
        # in an address a percent sign begins an encoded character
        readings = {decoded: whole} | readings if is_address else {parts: without_drive, decoded: whole} | readings
    first, other, *_ = (*readings, None)
    lasts = {path: base_name(read) for path, read in readings.items()}
    special = tuple((*path[:-1], coded(last)) for path, last in lasts.items() if last != path[-1])
    return Reference(first, other, absolute, special)


def _name_in_url(url: str) -> str:
    """Return the last part of an address, or what its query names if only that is a picture (``get?file=a.jpg``)."""
    name = base_name(_path_of_url(url))
    if _suffix(name):
        return name
    values = (base_name(value.replace("\\", "/")) for _, value in parse_qsl(url.partition("?")[2].partition("#")[0]))
    return next((value for value in values if _suffix(value)), name)


def _path_of_url(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return url.partition("://")[2].partition("?")[0]


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for raw in path.split("/") if (part := one_line(raw)) not in ("", "."))
