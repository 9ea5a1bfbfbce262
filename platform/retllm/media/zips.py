"""ZIP archives: names are decoded, and no two files share bytes."""

from __future__ import annotations

import stat
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import BinaryIO

from retllm.errors import MediaRejected, TooLarge
from retllm.media import other_kinds, streams, unpacking
from retllm.media import zip_recovery as recovery
from retllm.media.name_encodings import decoded_paths
from retllm.media.special_files import pointed
from retllm.media.unpacking import EntryLocation, are_apart, locate
from retllm.media.zip_directory import UNICODE_PATH, ZipEntry, broken, extra_fields, read_directory
from retllm.settings import Settings

# an archive that was to be split, but fits into one file, begins with the mark of the first part or of none
_SPLIT = (b"PK\x07\x08", b"PK00")
_FILE = b"PK\x03\x04"
SIGNATURES = (_FILE, b"PK\x05\x06", *(mark + _FILE for mark in _SPLIT))
_UTF8_NAME = 0x800
_PATH_HEAD = struct.Struct("<BL")
# section 4.4.15: the attribute of a folder in MS-DOS
_DOS_FOLDER = 0x10
# bytes of what a link points to, as many as systems allow
_MAX_LINK = 4096
_OFFICE = b"[Content_Types].xml"
# entries that make a ZIP the container of a document or program
_DOCUMENTS = {
    _OFFICE: "a document of Microsoft Office: save it as PDF",
    b"mimetype": "a document (OpenDocument, EPUB or the like): save it as PDF, or a table as CSV",
    b"Index/Document.iwa": "a document of Pages, Numbers or Keynote: save it as PDF, or a table as CSV",
    b"AndroidManifest.xml": "a program for Android, no archive of pictures",
    b"META-INF/MANIFEST.MF": "a document or program of Java, no archive of pictures",
    b"META-INF/container.xml": "a document in EPUB: save it as PDF",
    b"Document.archive": other_kinds.PROCREATE,
    b"canvas.fig": other_kinds.FIGMA,
}
_SCENES = (b".usdc", b".usda", b".usd")
_OFFICE_FOLDERS = {
    b"word/": other_kinds.WORD,
    b"xl/": other_kinds.EXCEL,
    b"ppt/": other_kinds.POWERPOINT,
}


class Zip:
    """A ZIP whose directory could be read; see :class:`retllm.media.archives.Reader`."""

    def __init__(self, stream: BinaryIO, entries: Sequence[ZipEntry], end: int, check: Callable[[], None]) -> None:
        self.remark: str | None = None
        self.is_cut = False
        self.rewritten: Callable[[], BinaryIO] | None = None
        self._stream = stream
        self._places = _places(stream, entries, end)
        self._entries: list[ZipEntry] = []
        self.files: list[tuple[str, int]] = []
        self.raw_names: list[bytes] = []
        self.links: dict[int, str | None] = {}
        names = _names(entries, check)
        # some tools join names by backslashes
        paths = [name.replace("\\", "/") for name in names]
        ordered = sorted(paths)
        for entry, name, path in zip(entries, names, paths, strict=True):
            if not _is_folder(entry, path, ordered):
                if stat.S_IFMT(entry.attributes >> 16) == stat.S_IFLNK:
                    self._add_link(entry, path)
                self._entries.append(entry)
                self.files.append((name, entry.size))
                self.raw_names.append(entry.name)

    def _add_link(self, entry: ZipEntry, path: str) -> None:
        """Note what a link points to; one that can't be read has its reason when it is unpacked."""
        with suppress(MediaRejected):
            target = b""
            if entry.size <= _MAX_LINK:
                place = self._places[entry.offset]
                unpacking.check(entry, place)
                unpacked = unpacking.Unpacked(self._stream, entry, place)
                while data := unpacked.read(_MAX_LINK):
                    target += data
            self.links[len(self.files)] = pointed(path, target.decode(errors="replace")) if target else None

    def unpacked(self, number: int) -> unpacking.Unpacked:
        """Return a stream of the file's bytes, which can be read once.

        Raises:
            MediaRejected: see :func:`retllm.media.unpacking.check`.
        """
        entry = self._entries[number]
        place = self._places[entry.offset]
        unpacking.check(entry, place)
        return unpacking.Unpacked(self._stream, entry, place)


def opened(stream: BinaryIO, settings: Settings, stack: ExitStack, check: Callable[[], None]) -> Zip:
    """Read the directory of a ZIP; of one that was cut off, find the files that are whole.

    Args:
        stack: closes temporary files.
        check: called for each name; what it raises ends the reading.

    Raises:
        MediaRejected: the ZIP can't be read, its files share bytes, or it contains a document (docx, epub, jar).
        TooLarge: the directory is larger than that of ``max_archive_files`` files.
    """
    directory = read_directory(stream, settings)
    head = streams.head(stream, len(_FILE) + 4)
    first = len(_SPLIT[0]) if head.startswith(_SPLIT) else 0
    # the directory of a ZIP that is the last file in a cut one is not that of the outer one
    if directory is None or (directory.shift > first and head.startswith(_FILE, first)):
        found = recovery.recovered(stream, first, settings)
        if not found.entries:
            raise broken()
        archive = Zip(stream, _checked(found.entries), found.end, check)
        archive.rewritten = partial(recovery.rewritten, stream, found, stack, check)
        archive.is_cut = not found.is_complete
        archive.remark = (
            None if archive.is_cut else "The ZIP was cut off in its directory; all its files could be read."
        )
        return archive
    return Zip(stream, _checked(directory.entries), directory.start, check)


def check_no_document(stream: BinaryIO, settings: Settings) -> None:
    """Check that a file that begins like an archive is no document in ZIP format.

    Raises:
        MediaRejected: it is one; the message names it.
    """
    try:
        directory = read_directory(stream, settings)
    except (MediaRejected, TooLarge):
        return
    if directory is not None:
        _checked(directory.entries)


def _checked(entries: Sequence[ZipEntry]) -> Sequence[ZipEntry]:
    if (document := _document(entries)) is not None:
        raise MediaRejected(f"The file is {document}.")
    return entries


def _document(entries: Sequence[ZipEntry]) -> str | None:
    """Return what kind of document or program these are the entries of; None if they are those of an archive."""
    names = [entry.name for entry in entries[:64]]
    # OpenUSD, "Usdz File Format Specification": the first file is the scene
    if names and names[0].lower().endswith(_SCENES):
        return other_kinds.SCENE
    found = next((name for name in _DOCUMENTS if name in names), None)
    if found is None:
        return None
    folder = next((f for f in _OFFICE_FOLDERS if found == _OFFICE and any(name.startswith(f) for name in names)), b"")
    return _OFFICE_FOLDERS.get(folder, _DOCUMENTS[found])


def _places(stream: BinaryIO, entries: Sequence[ZipEntry], end: int) -> dict[int, EntryLocation]:
    """Return the location of every entry, including folders, by the offset of its header."""
    if all(0 <= entry.offset < end for entry in entries):
        found = [locate(stream, entry) for entry in entries]
        if are_apart(found, end):
            return {place.start: place for place in found}
    raise MediaRejected("The files in the ZIP overlap each other or its directory: pack it again.")


def _names(entries: Sequence[ZipEntry], check: Callable[[], None]) -> list[str]:
    """Return the entries' names: Unicode where an entry says so, the others decoded all alike.

    The standard says code page 437 for those, but tools write UTF-8 or the code page of their system.
    """
    names = [_stated(entry) for entry in entries]
    raw = [entry.name for entry, name in zip(entries, names, strict=True) if name is None]
    guessed = iter(decoded_paths(raw, dos=True, check=check))
    # the standard library cuts a name at NUL too
    return [(next(guessed) if name is None else name).partition("\0")[0] for name in names]


def _stated(entry: ZipEntry) -> str | None:
    """Return the name of an entry that says its encoding; None if it says none, or has other bytes than it says."""
    raw = entry.name if entry.flags & _UTF8_NAME else _unicode_path(entry)
    try:
        return raw.decode("utf-8") if raw is not None else None
    except UnicodeDecodeError:
        return None


def _unicode_path(entry: ZipEntry) -> bytes | None:
    # only the first, because an extra field has room for thousands, and each has a CRC of the whole name
    field = next((field for kind, field in extra_fields(entry.extra) if kind == UNICODE_PATH), b"")
    if len(field) > _PATH_HEAD.size:
        version, crc = _PATH_HEAD.unpack_from(field)
        # the CRC tells whether a tool that does not know the field has renamed the entry
        if version == 1 and crc == zlib.crc32(entry.name):
            return field[_PATH_HEAD.size :]
    return None


def _is_folder(entry: ZipEntry, path: str, paths: Sequence[str]) -> bool:
    """Return whether an entry is a folder; ``paths`` has all paths of the archive in order."""
    if path.endswith("/"):
        return True
    if entry.size:
        return False
    inside = bisect_left(paths, f"{path}/")
    says_so = entry.attributes & _DOS_FOLDER or stat.S_ISDIR(entry.attributes >> 16)
    return bool(says_so) or (inside < len(paths) and paths[inside].startswith(f"{path}/"))
