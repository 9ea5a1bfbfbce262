"""ZIP archives; the directory is checked before anything is unpacked."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams, unpacking
from retllm.media.names import clean_name, is_clutter
from retllm.media.unpacking import EntryLocation, are_apart, locate
from retllm.settings import Settings

# APPNOTE.TXT 6.3.10, sections 4.3.16 and 4.3.14
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64_SIZE = 20
_COMMENT = 65535
# a directory entry has 46 bytes and a name; zipfile reads all of them into memory
_DIRECTORY_BYTES_PER_FILE = 512
_DIRECTORY_BYTES_MORE = 1 << 20
_UTF8_NAME = 0x800
# entries that identify a ZIP as the container of a document
_DOCUMENTS = frozenset({"[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF", "META-INF/container.xml"})


@dataclass(frozen=True, slots=True)
class Archive:
    """A ZIP whose directory is within the limits; ``entries`` lists its files."""

    entries: list[zipfile.ZipInfo]
    _stream: BinaryIO
    _places: Mapping[int, EntryLocation]
    _settings: Settings

    def spooled(self, entry: zipfile.ZipInfo) -> BinaryIO:
        """Unpack the entry into a seekable file, positioned at its start; the caller closes it.

        Raises:
            MediaRejected: the entry is encrypted, a link or a device, not compressed with Deflate, a ZIP bomb, or
                damaged, or it unpacks to more than the directory says, which would bypass the checks of the directory.
            TooLarge: the entry has more than ``max_file_bytes``.
        """
        place = self._places[entry.header_offset]
        unpacking.check(entry, place)
        unpacked = unpacking.Unpacked(self._stream, entry, place)
        return streams.spool(cast("BinaryIO", unpacked), self._settings.max_file_bytes)


@contextmanager
def opened(stream: BinaryIO, settings: Settings) -> Iterator[Archive]:
    """Open the archive in ``stream``; its entries leave out folders and metadata files of operating systems.

    Raises:
        MediaRejected: the ZIP can't be read, its files share bytes, or it contains a document (docx, epub, jar).
        TooLarge: it has more files than ``max_archive_files``, or more unpacked bytes than ``max_archive_bytes``.
    """
    _check_directory(stream, settings)
    try:
        reader = zipfile.ZipFile(cast("IO[bytes]", stream))
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise _broken() from error
    with reader:
        if any(entry.filename in _DOCUMENTS for entry in reader.infolist()[:64]):
            raise MediaRejected("The file is a document or program in ZIP format: send its contents.")
        # not is_dir(), which fails for an empty name
        names = ((entry, entry.filename) for entry in reader.infolist())
        entries = [entry for entry, name in names if not name.endswith("/") and not is_clutter(name)]
        _check_limits(entries, settings)
        yield Archive(entries, stream, _places(reader, stream), settings)


def _places(reader: zipfile.ZipFile, stream: BinaryIO) -> dict[int, EntryLocation]:
    """Return the location of every entry, including those left out, by the offset of its header."""
    entries = reader.infolist()
    if all(0 <= entry.header_offset < reader.start_dir for entry in entries):
        found = [locate(stream, entry) for entry in entries]
        if are_apart(found, reader.start_dir):
            return {place.start: place for place in found}
    raise MediaRejected("The files in the ZIP overlap each other or its directory: pack it again.")


def entry_name(entry: zipfile.ZipInfo) -> str:
    """Return the entry's name with its folders, made safe to show.

    A name without the UTF-8 flag is decoded as the standard says (code page 437) only if it is not valid UTF-8, since
    many tools write UTF-8 without setting the flag.
    """
    name = entry.filename
    if not entry.flag_bits & _UTF8_NAME:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = entry.filename
    return clean_name(name)


def _broken() -> MediaRejected:
    return MediaRejected("The ZIP can't be read because it is damaged or truncated: pack it again.")


def _check_limits(entries: list[zipfile.ZipInfo], settings: Settings) -> None:
    if len(entries) > settings.max_archive_files:
        raise TooLarge(
            f"The ZIP contains {len(entries):,} files; RETLLM_MAX_ARCHIVE_FILES allows {settings.max_archive_files:,}: "
            "send it in parts.",
            limit=settings.max_archive_files,
        )
    total = sum(entry.file_size for entry in entries)
    if total > settings.max_archive_bytes:
        raise TooLarge(
            f"The ZIP unpacks to {streams.mebibytes(total)}; RETLLM_MAX_ARCHIVE_BYTES allows "
            f"{streams.mebibytes(settings.max_archive_bytes)}: send it in parts.",
            limit=settings.max_archive_bytes,
        )


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
