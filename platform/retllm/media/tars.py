"""Tar archives, with or without gzip, bzip2 or xz: headers are read one by one, files by their offsets.

A compressed archive is unpacked into a temporary file first, in bounded steps and up to a bounded size.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, cast

from retllm.errors import MediaRejected, TooLarge
from retllm.media import compression, streams
from retllm.media.name_encodings import decoded_paths
from retllm.media.special_files import NO_FILE, pointed, resolved
from retllm.media.unpacking import MAX_RATIO, SMALL
from retllm.settings import Settings

_BLOCK = tarfile.BLOCKSIZE
# bytes of a header that describes the next one: long names, and what else systems know of a file
_MAX_DESCRIPTION = 1 << 20
# headers for one file: of itself, its attributes, its long name, its metadata file of macOS with the same, and folders
_HEADERS_PER_FILE = 8
_MORE_HEADERS = 10_000
# bytes of all descriptions of an archive: for each file a long name, times, and short attributes
_DESCRIPTIONS_PER_FILE = 4096
_MORE_DESCRIPTIONS = 16 << 20
# a record counts as so many bytes more, because reading one takes the time of copying many bytes
_RECORD_COST = 96
# bytes of a name, more than a file system has, and of all names of an archive, as for a ZIP
_MAX_NAME = 1 << 16
_NAMES_PER_FILE = 512
_MORE_NAMES = 1 << 20
# a sparse file of GNU tar says here whether further blocks of its map follow, and a further block says it here
_SPARSE_MORE, _SPARSE_NEXT = 482, 504
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_DESCRIPTIONS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
# "D" is a folder with a list of its files, "V" the archive's label
_FOLDERS = (tarfile.DIRTYPE, b"D", b"V")
_WITHOUT_DATA = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.DIRTYPE,
)
_PATH, _LINK, _SIZE, _SPARSE_NAME, _SPARSE = b"path", b"linkpath", b"size", b"GNU.sparse.name", b"GNU.sparse."
_RECORD = re.compile(rb"(\d{1,8}) ([^=\0]+)=")
_MAX_DIGITS = 20
_REFUSED = {
    tarfile.GNUTYPE_SPARSE: "The file is sparse, which is not accepted: pack it again without --sparse.",
    b"M": "The file is continued from another volume: pack it whole.",
}
_LONG_NAME = f"The name has more than {_MAX_NAME:,} bytes: give the file a shorter one, and pack it again."
# what a name that was cut may end with: a part of a character
_PART = re.compile(rb"[\xc0-\xff]?[\x80-\xbf]{0,3}\Z")


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a tar: where its bytes are, and why it is refused, if it is."""

    name: bytes
    start: int
    size: int
    refusal: str | None
    link: bytes | None = None
    """What it points to, if it is a link."""
    hard: bool = False
    """Whether that is a path from the root of the archive, not from the folder of the link."""


class Packed:
    """A stream of the bytes of one file; it can be read once."""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        self._stream = stream
        self._at, self._end = start, start + size

    def read(self, count: int) -> bytes:
        """Return at most ``count`` bytes, none at the end."""
        self._stream.seek(self._at)
        data = self._stream.read(min(count, self._end - self._at))
        self._at += len(data)
        return data


class Tar:
    """A tar whose headers could be read; see :class:`retllm.media.archives.Reader`."""

    def __init__(
        self, stream: BinaryIO, files: list[_File], plain: BinaryIO | None, check: Callable[[], None], *, is_cut: bool
    ) -> None:
        self._stream = stream
        self._files = files
        self.rewritten = None if plain is None else partial(_rewound, plain)
        links = {number: file.link for number, file in enumerate(files) if file.link is not None}
        readable = decoded_paths([*(file.name for file in files), *links.values()], check=check)
        names, targets = readable[: len(files)], readable[len(files) :]
        self.files = [(name, file.size) for name, file in zip(names, files, strict=True)]
        self.raw_names = [file.name for file in files]
        self.links = {
            number: resolved((), target) if files[number].hard else pointed(names[number], target)
            for number, target in zip(links, targets, strict=True)
        }
        self.remark = None
        self.is_cut = is_cut

    def unpacked(self, number: int) -> Packed:
        """Return a stream of the file's bytes, which can be read once.

        Raises:
            MediaRejected: it is a device or the like, or sparse.
        """
        file = self._files[number]
        if file.refusal is not None:
            raise MediaRejected(file.refusal)
        return Packed(self._stream, file.start, file.size)


def _rewound(stream: BinaryIO) -> BinaryIO:
    stream.seek(0)
    return stream


def is_tar_archive(head: bytes) -> bool:
    """Return whether a file with these first bytes (at least 512) is a tar, or compressed and therefore maybe one."""
    return is_compressed(head) or _is_plain(head)


def is_compressed(head: bytes) -> bool:
    """Return whether a file with these first bytes is compressed as a whole."""
    # the first name of a tar may begin with the letters of bzip2
    return head.startswith(compression.SIGNATURES) and not _is_plain(head)


def _is_plain(head: bytes) -> bool:
    if head[257:262] == b"ustar":
        return True
    try:
        # an archive in the old format has no signature, but its first header has a checksum
        return bool(tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


def opened(stream: BinaryIO, settings: Settings, stack: ExitStack, check: Callable[[], None]) -> Tar:
    """Read the headers of a tar; ``stack`` closes the temporary file of a compressed one.

    Args:
        check: called before each header; what it raises ends the reading.

    Raises:
        MediaRejected: it can't be read, has no whole file, or is a compressed file of another kind.
        TooLarge: it has too many headers or too long ones, or unpacks to more than ``max_archive_bytes``.
    """
    head = streams.head(stream)
    plain, is_cut = None, False
    if is_compressed(head):
        plain, is_cut = _decompressed(stream, head, settings, stack)
        stream = streams.watched(plain, check)
        if not _is_plain(streams.head(stream)):
            raise _damaged() if is_cut else MediaRejected("The file is compressed but no tar archive: unpack it first.")
    files: list[_File] = []
    try:
        for file in _files(stream, settings):
            files.append(file)
    except _Cut as error:
        is_cut = True
        if not files:
            raise _damaged() from error
    return Tar(stream, files, plain, check, is_cut=is_cut)


class _Cut(Exception):
    """The archive ends before it should."""


def _damaged() -> MediaRejected:
    return MediaRejected("The tar can't be read because it is damaged or truncated: pack it again.")


def _decompressed(stream: BinaryIO, head: bytes, settings: Settings, stack: ExitStack) -> tuple[BinaryIO, bool]:
    """Return the tar, and whether its end is missing."""
    packed = streams.length(stream)
    # headers and padding of each file
    limit = settings.max_archive_bytes + 2 * _BLOCK * (settings.max_archive_files + _MORE_HEADERS)
    copy = tempfile.SpooledTemporaryFile(max_size=streams.IN_MEMORY)  # noqa: SIM115 - the stack closes it
    stack.callback(copy.close)
    size = 0
    try:
        for data in compression.unpacked(stream, head):
            size += len(data)
            if size > max(SMALL, MAX_RATIO * packed):
                raise MediaRejected(
                    f"The archive unpacks to more than {MAX_RATIO} times its size, like a bomb: send it unpacked."
                )
            if size > limit:
                raise TooLarge(
                    f"The archive unpacks to more than {streams.exact_size(limit)}; RETLLM_MAX_ARCHIVE_BYTES allows "
                    f"{streams.exact_size(settings.max_archive_bytes)}: send it in parts.",
                    limit=settings.max_archive_bytes,
                )
            copy.write(data)
    except EOFError:  # all that comes before it is sound
        return cast("BinaryIO", copy), True
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise _damaged() from error
    return cast("BinaryIO", copy), False


def _files(stream: BinaryIO, settings: Settings) -> Iterator[_File]:
    """Yield the files in order, without folders.

    Raises:
        MediaRejected: a header is damaged.
        _Cut: the archive ends before its last file does.
        TooLarge: there are too many headers, or their descriptions or names are too long together.
    """
    length = streams.length(stream)
    described: dict[bytes, bytes] = {}
    descriptions = _DESCRIPTIONS_PER_FILE * settings.max_archive_files + _MORE_DESCRIPTIONS
    names = _NAMES_PER_FILE * settings.max_archive_files + _MORE_NAMES
    at = 0
    for _ in range(_HEADERS_PER_FILE * settings.max_archive_files + _MORE_HEADERS):
        info = _header(stream, at)
        if info is None:
            return
        at = _after_header(stream, at, info)
        size = 0 if info.type in _WITHOUT_DATA else _size(described.get(_SIZE), info.size)
        if size < 0:
            raise _damaged()
        if size > length - at:
            raise _Cut
        if info.type in _DESCRIPTIONS:
            data = _described(stream, at, size)
            descriptions -= size + _RECORD_COST * data.count(b"=")
            if descriptions < 0:
                raise _too_long("attributes", settings)
            described |= _description(info, data)
        elif info.type != tarfile.XGLTYPE:
            if info.type not in _FOLDERS:
                file = _file(info, at, size, described)
                names -= len(file.name) + len(file.link or b"")
                if names < 0:
                    raise _too_long("names", settings)
                yield file
            described = {}
        at += -(-size // _BLOCK) * _BLOCK
    raise TooLarge(
        f"The archive contains more files than RETLLM_MAX_ARCHIVE_FILES allows ({settings.max_archive_files:,}): "
        "send it in parts.",
        limit=settings.max_archive_files,
    )


def _too_long(what: str, settings: Settings) -> TooLarge:
    return TooLarge(
        f"The {what} of the files in the archive have more bytes than are accepted for RETLLM_MAX_ARCHIVE_FILES "
        f"({settings.max_archive_files:,}) files: send it in parts.",
        limit=settings.max_archive_files,
    )


def _header(stream: BinaryIO, at: int) -> tarfile.TarInfo | None:
    """Return the header at an offset; None at the mark of the archive's end."""
    stream.seek(at)
    block = stream.read(_BLOCK)
    if len(block) < _BLOCK:
        raise _Cut
    if block == bytes(_BLOCK):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _damaged() from error


def _after_header(stream: BinaryIO, at: int, info: tarfile.TarInfo) -> int:
    """Return the offset behind a header; that of a sparse file in GNU's own format is followed by blocks of its map."""
    flag = _SPARSE_MORE
    while info.type == tarfile.GNUTYPE_SPARSE:
        stream.seek(at)
        if stream.read(_BLOCK)[flag : flag + 1] in (b"", b"\0"):
            break
        flag = _SPARSE_NEXT
        at += _BLOCK
    return at + _BLOCK


def _size(given: bytes | None, in_header: int) -> int:
    if given is None:
        return in_header
    if not given.isdigit() or len(given) > _MAX_DIGITS:
        raise _damaged()
    return int(given)


def _described(stream: BinaryIO, at: int, size: int) -> bytes:
    if size > _MAX_DESCRIPTION:
        raise _damaged()
    stream.seek(at)
    return stream.read(size)


def _description(info: tarfile.TarInfo, data: bytes) -> dict[bytes, bytes]:
    """Return what a header says of the next file, by the keywords of POSIX.1-2001 (pax); of others nothing is kept."""
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {_PATH: data.partition(b"\0")[0][: _MAX_NAME + 1]}
    if info.type == tarfile.GNUTYPE_LONGLINK:
        return {_LINK: data.partition(b"\0")[0][: _MAX_NAME + 1]}
    found: dict[bytes, bytes] = {}
    at = 0
    # each record is its own length, a keyword and a value: "30 mtime=1700000000.123456789\n"
    while match := _RECORD.match(data, at):
        length = int(match[1])
        if length <= len(match[0]) or at + length > len(data):
            raise _damaged()
        keyword = match[2]
        if keyword in (_PATH, _LINK, _SIZE, _SPARSE_NAME):
            found[keyword] = data[match.end() : min(at + length - 1, match.end() + _MAX_NAME + 1)]
        if keyword.startswith(_SPARSE):
            found[_SPARSE] = b""
        at += length
    return found


def _file(info: tarfile.TarInfo, at: int, size: int, described: dict[bytes, bytes]) -> _File:
    in_header = info.name.encode("utf-8", "surrogateescape")
    name = described.get(_SPARSE_NAME) or described.get(_PATH) or in_header
    refusal = None if info.type in (*_REGULAR, *_LINKS) else _REFUSED.get(info.type, NO_FILE)
    link = described.get(_LINK) or info.linkname.encode("utf-8", "surrogateescape")
    if _SPARSE in described:
        refusal = _REFUSED[tarfile.GNUTYPE_SPARSE]
    if len(name) > _MAX_NAME:
        name, refusal = _PART.sub(b"", name[:_MAX_NAME], count=1), _LONG_NAME
        return _File(name, at, size, refusal)
    return _File(name, at, size, refusal, link if info.type in _LINKS else None, info.type == tarfile.LNKTYPE)
