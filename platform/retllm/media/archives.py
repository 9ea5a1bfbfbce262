"""ZIP archives: their directory is checked before anything is unpacked."""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams
from retllm.media.names import clean_name, is_clutter
from retllm.settings import Settings

# APPNOTE.TXT 6.3.10, sections 4.3.16 and 4.3.14
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64_SIZE = 20
_COMMENT = 65535
# a directory entry is 46 bytes and a name; the reader holds all of them in memory
_DIRECTORY_BYTES_PER_FILE = 512
_DIRECTORY_BYTES_MORE = 1 << 20
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
# entries that make a ZIP the container of a document
_DOCUMENTS = frozenset({"[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF", "META-INF/container.xml"})


@dataclass(frozen=True, slots=True)
class Archive:
    """A ZIP whose directory is within the limits; ``entries`` are its files."""

    entries: list[zipfile.ZipInfo]
    _zip: zipfile.ZipFile
    _settings: Settings

    def spooled(self, entry: zipfile.ZipInfo) -> BinaryIO:
        """The unpacked entry as a seekable file, at its start; the caller closes it.

        Raises:
            MediaRejected: it is encrypted, a link, packed in an unknown way, or damaged; also when it unpacks to more
                than the directory says, so that what was checked there holds.
            TooLarge: it has more than ``max_file_bytes``.
        """
        if entry.flag_bits & _ENCRYPTED:
            raise MediaRejected("The file is encrypted: pack it again without a password.")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise MediaRejected("The file is a link: pack what it leads to.")
        with _reading():
            packed = self._zip.open(entry)
        with packed:
            return streams.spool(cast("BinaryIO", _Packed(packed, entry.file_size)), self._settings.max_file_bytes)


class _Packed:
    """An entry while it is unpacked: counted, and its errors told from those of the disk it goes to."""

    def __init__(self, packed: IO[bytes], declared: int) -> None:
        self._packed = packed
        self._left = declared

    def read(self, count: int = -1) -> bytes:
        with _reading():
            data = self._packed.read(count)
        self._left -= len(data)
        if self._left < 0:
            raise MediaRejected("The file unpacks to more than the ZIP says: pack it again.")
        return data


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        raise MediaRejected("The file is packed in a way that is not known here: use Deflate.") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, struct.error, ValueError) as error:
        raise MediaRejected("The file is damaged inside the ZIP: pack it again.") from error


@contextmanager
def opened(stream: BinaryIO, settings: Settings) -> Iterator[Archive]:
    """The archive in ``stream``; folders and the clutter of operating systems are left out of its entries.

    Raises:
        MediaRejected: it can't be read, or is the container of a document (docx, epub, jar, ...).
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
        entries = [entry for entry in reader.infolist() if not entry.is_dir() and not is_clutter(entry.filename)]
        _check_limits(entries, settings)
        yield Archive(entries, reader, settings)


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
