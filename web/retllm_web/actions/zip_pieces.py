"""A ZIP in pieces, with ZIP64 where it needs that."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from zipfile import ZIP_DEFLATED

from zipstream import ZipStream

# of the directory; the rest is on the disk
_IN_MEMORY = 1 << 20
_LENGTH = struct.Struct("!I")


@dataclass(frozen=True)
class _Entry:
    """The entry of a file in the directory, as the archive has it."""

    written: bytes

    def _central_directory_header_data(self) -> bytes:
        return self.written


class _Directory:
    """The directory of an archive: what the library keeps in a list, which takes a gigabyte for a million files."""

    def __init__(self) -> None:
        # closed when it is forgotten
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._count = 0

    def append(self, entry: _Entry) -> None:
        """Add the entry of a file that is complete."""
        written = entry._central_directory_header_data()
        self._file.write(_LENGTH.pack(len(written)) + written)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_Entry]:
        self._file.seek(0)
        while head := self._file.read(_LENGTH.size):
            yield _Entry(self._file.read(*_LENGTH.unpack(head)))


class ZipPieces:
    """An archive that is made while it is sent; its files are stored as they are, as pictures get no smaller."""

    def __init__(self) -> None:
        self._zip = ZipStream()
        self._zip._filelist = _Directory()

    def file(self, path: str, pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
        """Yield a file of so many bytes under a path."""
        self._zip.add(pieces, path, size=size)
        yield from self._zip.file()

    def text(self, path: str, data: bytes) -> Iterator[bytes]:
        """Yield a file under a path, compressed."""
        self._zip.add(data, path, compress_type=ZIP_DEFLATED)
        yield from self._zip.file()

    def end(self) -> Iterator[bytes]:
        """Yield the directory."""
        yield from self._zip.footer()
