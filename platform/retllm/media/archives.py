"""ZIP archives: their directory is checked before anything is unpacked."""

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
# a directory entry is 46 bytes and a name; the reader holds all of them in memory
_DIRECTORY_BYTES_PER_FILE = 512
_DIRECTORY_BYTES_MORE = 1 << 20
_UTF8_NAME = 0x800
# entries that make a ZIP the container of a document
_DOCUMENTS = frozenset({"[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF", "META-INF/container.xml"})


@dataclass(frozen=True, slots=True)
class Archive:
    """A ZIP whose directory is within the limits; ``entries`` are its files."""

    entries: list[zipfile.ZipInfo]
    _stream: BinaryIO
    _places: Mapping[int, EntryLocation]
    _settings: Settings

    def spooled(self, entry: zipfile.ZipInfo) -> BinaryIO:
        """The unpacked entry as a seekable file, at its start; the caller closes it.

        Raises:
            MediaRejected: it is encrypted, a link or a device, compressed otherwise than with Deflate, made to fill the
                disk, or damaged; also when it unpacks to more than the directory says, so that what was checked there
                holds.
            TooLarge: it has more than ``max_file_bytes``.
        """
        place = self._places[entry.header_offset]
        unpacking.check(entry, place)
        unpacked = unpacking.Unpacked(self._stream, entry, place)
        return streams.spool(cast("BinaryIO", unpacked), self._settings.max_file_bytes)


@contextmanager
def opened(stream: BinaryIO, settings: Settings) -> Iterator[Archive]:
    """The archive in ``stream``; folders and the clutter of operating systems are left out of its entries.

    Raises:
        MediaRejected: it can't be read, its files share bytes, or it is the container of a document (docx, epub, jar).
        TooLarge: more files than ``max_archive_files``, or more bytes, unpacked, than ``max_archive_bytes``.
    """
    _check_directory(stream, settings)
    try:
        reader = zipfile.ZipFile(cast("IO[bytes]", stream))
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise _broken() from error
    with reader:
        if any(entry.filename in _DOCUMENTS for entry in reader.infolist()[:64]):
            raise MediaRejected("The file is a document or program that is packed as a ZIP: send what is in it.")
        # not is_dir(), which fails for an empty name
        names = ((entry, entry.filename) for entry in reader.infolist())
        entries = [entry for entry, name in names if not name.endswith("/") and not is_clutter(name)]
        _check_limits(entries, settings)
        yield Archive(entries, stream, _places(reader, stream), settings)


def _places(reader: zipfile.ZipFile, stream: BinaryIO) -> dict[int, EntryLocation]:
    """Where each entry lies, also one that is left out, by the offset of its header."""
    entries = reader.infolist()
    if all(0 <= entry.header_offset < reader.start_dir for entry in entries):
        found = [locate(stream, entry) for entry in entries]
        if are_apart(found, reader.start_dir):
            return {place.start: place for place in found}
    raise MediaRejected("The ZIP's files overlap each other or its directory, as if to deceive: pack it again.")


def entry_name(entry: zipfile.ZipInfo) -> str:
    """The entry's name with its folders, made safe to show.

    A name without the UTF-8 flag is read as the standard says (code page 437) only if it is not UTF-8, since most
    that pack today write UTF-8 and forget the flag.
    """
    name = entry.filename
    if not entry.flag_bits & _UTF8_NAME:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = entry.filename
    return clean_name(name)


def _broken() -> MediaRejected:
    return MediaRejected("The ZIP can't be read, it is damaged or cut short: pack it again.")


def _check_limits(entries: list[zipfile.ZipInfo], settings: Settings) -> None:
    if len(entries) > settings.max_archive_files:
        raise TooLarge(
            f"The ZIP holds {len(entries):,} files; RETLLM_MAX_ARCHIVE_FILES allows {settings.max_archive_files:,}: "
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
    """Refuse a directory too large to hold, before ``zipfile`` reads it into memory."""
    size = streams.length(stream)
    start = max(0, size - _END.size - _COMMENT)
    stream.seek(start)
    tail = stream.read(_END.size + _COMMENT)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise _broken()
    directory = _END.unpack_from(tail, at)[5]
    before = start + at - _LOCATOR64_SIZE - _END64.size
    if before >= 0:
        stream.seek(before)
        record = stream.read(_END64.size)
        if record.startswith(b"PK\x06\x06"):
            directory = max(directory if directory != 0xFFFFFFFF else 0, _END64.unpack(record)[8])
    stream.seek(0)
    if directory > settings.max_archive_files * _DIRECTORY_BYTES_PER_FILE + _DIRECTORY_BYTES_MORE:
        raise TooLarge(
            f"The ZIP holds more files than RETLLM_MAX_ARCHIVE_FILES allows ({settings.max_archive_files:,}): "
            "send it in parts.",
            limit=settings.max_archive_files,
        )
