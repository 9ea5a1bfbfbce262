"""The directory of a ZIP: checked before it is read, and its names decoded."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO, BinaryIO, cast

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams, unpacking
from retllm.media.name_encodings import decoded
from retllm.media.unpacking import EntryLocation, are_apart, locate
from retllm.settings import Settings

SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
# APPNOTE.TXT 6.3.10, sections 4.3.16 and 4.3.14
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64_SIZE = 20
_COMMENT = 65535
# a directory entry has 46 bytes and a name; zipfile reads all of them into memory
_DIRECTORY_BYTES_PER_FILE = 512
_DIRECTORY_BYTES_MORE = 1 << 20
_UTF8_NAME = 0x800
# section 4.6.9: Info-ZIP Unicode Path, with its version and the CRC of the name that it stands for
_UNICODE_PATH = 0x7075
_PATH_HEAD = struct.Struct("<BL")
_EXTRA_HEAD = struct.Struct("<2H")
# section 4.4.15: the attribute of a folder in MS-DOS
_DOS_FOLDER = 0x10
# entries that identify a ZIP as the container of a document
_DOCUMENTS = frozenset({"[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF", "META-INF/container.xml"})


class Zip:
    """A ZIP whose directory could be read; see :class:`retllm.media.archives.Reader`."""

    def __init__(self, stream: BinaryIO, entries: Sequence[zipfile.ZipInfo], end: int) -> None:
        self._stream = stream
        self._places = _places(stream, entries, end)
        self._entries: list[zipfile.ZipInfo] = []
        self.files: list[tuple[str, int]] = []
        names = _names(entries)
        # some tools join names by backslashes
        paths = [name.replace("\\", "/") for name in names]
        ordered = sorted(paths)
        for entry, name, path in zip(entries, names, paths, strict=True):
            if not _is_folder(entry, path, ordered):
                self._entries.append(entry)
                self.files.append((name, entry.file_size))

    def unpacked(self, number: int) -> unpacking.Unpacked:
        """Return a stream of the file's bytes, which can be read once.

        Raises:
            MediaRejected: see :func:`retllm.media.unpacking.check`.
        """
        entry = self._entries[number]
        place = self._places[entry.header_offset]
        unpacking.check(entry, place)
        return unpacking.Unpacked(self._stream, entry, place)


def opened(stream: BinaryIO, settings: Settings, stack: ExitStack) -> Zip:
    """Read the directory of a ZIP.

    Raises:
        MediaRejected: the ZIP can't be read, its files share bytes, or it contains a document (docx, epub, jar).
        TooLarge: the directory is larger than that of ``max_archive_files`` files.
    """
    _check_directory(stream, settings)
    try:
        reader = stack.enter_context(zipfile.ZipFile(cast("IO[bytes]", stream)))
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise _broken() from error
    entries = reader.infolist()
    if any(entry.filename in _DOCUMENTS for entry in entries[:64]):
        raise MediaRejected("The file is a document or program in ZIP format: send its contents.")
    return Zip(stream, entries, reader.start_dir)


def _places(stream: BinaryIO, entries: Sequence[zipfile.ZipInfo], end: int) -> dict[int, EntryLocation]:
    """Return the location of every entry, including folders, by the offset of its header."""
    if all(0 <= entry.header_offset < end for entry in entries):
        found = [locate(stream, entry) for entry in entries]
        if are_apart(found, end):
            return {place.start: place for place in found}
    raise MediaRejected("The files in the ZIP overlap each other or its directory: pack it again.")


def _names(entries: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Return the entries' names: Unicode where an entry says so, the others decoded all alike.

    The standard says code page 437 for those, but tools write UTF-8 or the code page of their system.
    """
    raw = [entry.orig_filename.encode(_codec(entry)) for entry in entries]
    names = [_unicode_path(entry, name) for entry, name in zip(entries, raw, strict=True)]
    guessed = iter(decoded([name for name, known in zip(raw, names, strict=True) if known is None], dos=True))
    # the standard library cuts a name at NUL too
    return [(next(guessed) if name is None else name).partition("\0")[0] for name in names]


def _codec(entry: zipfile.ZipInfo) -> str:
    return "utf-8" if entry.flag_bits & _UTF8_NAME else "cp437"


def _unicode_path(entry: zipfile.ZipInfo, raw: bytes) -> str | None:
    if entry.flag_bits & _UTF8_NAME:
        return entry.orig_filename
    for kind, field in _extra_fields(entry.extra):
        if kind == _UNICODE_PATH and len(field) > _PATH_HEAD.size:
            version, crc = _PATH_HEAD.unpack_from(field)
            # the CRC tells whether a tool that does not know the field has renamed the entry
            if version == 1 and crc == zlib.crc32(raw):
                return field[_PATH_HEAD.size :].decode("utf-8", "replace")
    return None


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _EXTRA_HEAD.size <= len(extra):
        kind, size = _EXTRA_HEAD.unpack_from(extra, at)
        at += _EXTRA_HEAD.size
        yield kind, extra[at : at + size]
        at += size


def _is_folder(entry: zipfile.ZipInfo, path: str, paths: Sequence[str]) -> bool:
    """Return whether an entry is a folder; ``paths`` has all paths of the archive in order."""
    if path.endswith("/"):
        return True
    if entry.file_size:
        return False
    inside = bisect_left(paths, f"{path}/")
    says_so = entry.external_attr & _DOS_FOLDER or stat.S_ISDIR(entry.external_attr >> 16)
    return bool(says_so) or (inside < len(paths) and paths[inside].startswith(f"{path}/"))


def _broken() -> MediaRejected:
    return MediaRejected("The ZIP can't be read because it is damaged or truncated: pack it again.")


def _check_directory(stream: BinaryIO, settings: Settings) -> None:
    """Reject a directory that is too large before ``zipfile`` reads it into memory."""
    size = streams.length(stream)
    start = max(0, size - _END.size - _COMMENT)
    stream.seek(start)
    tail = stream.read(_END.size + _COMMENT)
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < _END.size:
        raise _broken()
    directory = _END.unpack_from(tail, position)[5]
    before = start + position - _LOCATOR64_SIZE - _END64.size
    if before >= 0:
        stream.seek(before)
        record = stream.read(_END64.size)
        if record.startswith(b"PK\x06\x06"):
            directory = max(directory if directory != 0xFFFFFFFF else 0, _END64.unpack(record)[8])
    stream.seek(0)
    if directory > settings.max_archive_files * _DIRECTORY_BYTES_PER_FILE + _DIRECTORY_BYTES_MORE:
        raise TooLarge(
            f"The ZIP contains more files than RETLLM_MAX_ARCHIVE_FILES allows ({settings.max_archive_files:,}): "
            "send it in parts.",
            limit=settings.max_archive_files,
        )
