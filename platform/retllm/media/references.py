"""References to originals that are not copied: what the storage has in the place of such a file (design: media).

The storage has a small file under a key that ends with :data:`SUFFIX`. It says where the original lies and what it was
when it was taken, and never changes. Whoever opens the key reads the original, if it may still be read and is the same;
whoever deletes, links or copies the key does that to the reference alone.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote, unquote_to_bytes

from retllm.errors import NotFound, OriginalLost, RetllmError
from retllm.import_roots import Prefix, is_plain, root_of
from retllm.media import streams
from retllm.media.objects import ObjectFile
from retllm.media.originals import CHANGED, FOLDER, Original, failed, open_within

SUFFIX = ".reference"
"""The end of the storage keys of references."""
NOT_ALLOWED = (
    "The original may not be read any more: where it lies is not in RETLLM_IMPORT_ROOTS. Let the administrator add it "
    "there, for the server and the workers."
)
_BUFFER = 1 << 20
# a view of an item reads no more than this to learn whether a file with another time has the same content
_LOOKED_AT = 32 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies: the folder or prefix that was allowed, and its path or key from there on."""

    root: str
    path: bytes


@dataclass(frozen=True, slots=True)
class Reference:
    """An original that is not copied.

    Attributes:
        root: the folder (resolved) or the prefix in which it was allowed.
        path: from there on, with percent-encoded bytes.
        size, sha256: of its content.
        version: of the file when it was taken (``originals.Facts``).
    """

    root: str
    path: str
    size: int
    version: str
    sha256: str

    @classmethod
    def to(cls, place: Place, size: int, version: str, sha256: str) -> Reference:
        """Return a reference to the file at a place."""
        return cls(place.root, quote(place.path), size, version, sha256)

    @property
    def place(self) -> Place:
        """Where it lies."""
        return Place(self.root, unquote_to_bytes(self.path))

    def as_bytes(self) -> bytes:
        """Return the file that the storage has of it."""
        return json.dumps(asdict(self)).encode()


def is_reference(key: str | None) -> bool:
    """Return whether a storage key names a reference."""
    return key is not None and key.endswith(SUFFIX)


def suffix_like(key: str | None) -> str:
    """Return the end that a key needs under which the file of ``key`` is kept once more."""
    return SUFFIX if is_reference(key) else ""


def read(file: BinaryIO) -> Reference:
    """Return the reference in a file of the storage.

    Raises:
        NotFound: the file is damaged.
    """
    try:
        return Reference(**json.loads(file.read()))
    except (ValueError, TypeError) as error:
        raise NotFound("The stored reference to the original is damaged.") from error


def opened(reference: Reference, roots: Sequence[str]) -> BinaryIO:
    """Open the original for reading, if it lies in one of the allowed folders and prefixes and is the same.

    Raises:
        OriginalLost: it is gone, has another content, or may not be read.
        StorageUnavailable: its place can't be reached.
    """
    file = _located(reference, roots)
    stream = cast("BinaryIO", io.BufferedReader(file, _BUFFER))
    try:
        if not _is_same(reference, file, stream):
            raise OriginalLost(CHANGED)
    except BaseException:
        stream.close()
        raise
    return stream


def problem(reference: Reference, roots: Sequence[str]) -> str | None:
    """Return why an original can't be read; None if it can.

    A large file whose time changed counts as the same; reading it compares its content.
    """
    try:
        with _located(reference, roots) as file:
            is_large = reference.size > _LOOKED_AT and file.facts.size == reference.size
            if is_large or _is_same(reference, file, cast("BinaryIO", io.BufferedReader(file, _BUFFER))):
                return None
            return CHANGED
    except RetllmError as error:
        return error.message


def _is_same(reference: Reference, file: Original, stream: BinaryIO) -> bool:
    if file.facts.size != reference.size:
        return False
    # another time with the same content, as after a copy of the whole drive
    return file.facts.version == reference.version or streams.digest(stream, reference.size) == reference.sha256


def _located(reference: Reference, roots: Sequence[str]) -> Original:
    place = reference.place
    try:
        own = root_of(reference.root)
        if not is_plain(os.fsdecode(place.path)):
            raise OriginalLost(NOT_ALLOWED)
        if isinstance(own, Prefix):
            return _object(own, place.path.decode(), roots)
        return _file(own, place.path, roots)
    except Exception as error:  # each kind of store raises other errors
        raise failed(error) from error


def _object(own: Prefix, key: str, roots: Sequence[str]) -> Original:
    allowed = (root for root in map(root_of, roots) if isinstance(root, Prefix))
    whole = Prefix(own.bucket, own.prefix + key)
    if not any(root.contains(whole) for root in allowed):
        raise OriginalLost(NOT_ALLOWED)
    return ObjectFile(whole.bucket, whole.prefix)


def _file(own: Path, path: bytes, roots: Sequence[str]) -> Original:
    whole = own / os.fsdecode(path)
    for root in folders(roots):
        if whole.is_relative_to(root) and ".." not in whole.parts:
            return open_within(os.open(root, FOLDER), list(map(os.fsencode, whole.relative_to(root).parts)))
    raise OriginalLost(NOT_ALLOWED)


def folders(roots: Sequence[str]) -> list[Path]:
    """Return the allowed folders, with links in their own names followed; one that can't be is left out."""
    found = []
    for root in map(root_of, roots):
        if isinstance(root, Path):
            with suppress(OSError, RuntimeError):
                found.append(root.expanduser().resolve())
    return found


def root_problem(root: str, roots: Sequence[str]) -> str | None:
    """Return why nothing in the place of originals can be read; None if it is allowed, and a folder is there."""
    try:
        own = root_of(root)
    except ValueError as error:
        return f"{error}."
    if isinstance(own, Prefix):
        allowed = (one for one in map(root_of, roots) if isinstance(one, Prefix))
        return None if any(one.contains(own) for one in allowed) else "it is not in RETLLM_IMPORT_ROOTS."
    if not any(own.is_relative_to(folder) for folder in folders(roots)):
        return "it is not in RETLLM_IMPORT_ROOTS."
    return None if own.is_dir() else "there is no such folder."
