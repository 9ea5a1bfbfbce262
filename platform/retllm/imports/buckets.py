"""Prefixes of S3 buckets that may be imported: listed page by page, and read object by object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from retllm.errors import Forbidden, InvalidInput, OriginalLost, RetllmError
from retllm.import_roots import Prefix, is_plain
from retllm.imports.found import Listed, OpenedWhole
from retllm.media.clutter import ClutterCount
from retllm.media.file_table import clutter_of
from retllm.media.local_files import Unreadable, changed
from retllm.media.names import clean_names, sent_name
from retllm.media.objects import ObjectFile, listed
from retllm.media.originals import MISSING, NO_PERMISSION, Facts, failed
from retllm.media.references import Place

_STRANGE = "The key has an empty part, or one that is . or ..: give the object another key."
_UNREADABLE = "The object can't be read (permission denied): correct that and import it again."


class BucketFolder:
    """The objects below an allowed prefix. A context manager, which holds nothing."""

    def __init__(self, root: Prefix, prefix: Prefix) -> None:
        self._root = root
        self.prefix = prefix

    def __enter__(self) -> BucketFolder:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __str__(self) -> str:
        return str(self.prefix)

    @property
    def address(self) -> bytes:
        """What tells it from others: its address."""
        return str(self.prefix).encode()

    def place(self, path: bytes) -> Place:
        """Return where an object of it lies."""
        return Place(str(self._root), self.prefix.prefix.removeprefix(self._root.prefix).encode() + path)

    def files(self, clutter: ClutterCount) -> Iterator[Listed]:
        """Yield the objects below the prefix, and count the clutter; one page of the listing is held in memory.

        Raises:
            InvalidInput: there is no such bucket, or it may not be listed.
            StorageUnavailable: the bucket can't be reached.
        """
        own = (self.prefix.prefix.removesuffix("/") or self.prefix.bucket).rpartition("/")[2]
        # named on purpose, whatever it is called
        before = "" if clutter_of(f"{own}/a") else f"{own}/"
        for page in self._pages():
            yield from self._judged(before, [one for one in page if not _is_marker(*one)], clutter)

    def _pages(self) -> Iterator[list[tuple[str, Facts]]]:
        try:
            yield from listed(self.prefix)
        except Exception as error:  # each kind of store raises other errors
            problem = failed(error)
            if isinstance(problem, OriginalLost):
                reason = "there is no such bucket" if problem.message == MISSING else "it may not be listed"
                raise InvalidInput(f"{self} can't be imported ({reason}).") from error
            raise problem from error

    def _judged(self, before: str, page: Sequence[tuple[str, Facts]], clutter: ClutterCount) -> Iterator[Listed]:
        keys = [key.removeprefix(self.prefix.prefix) for key, _ in page]
        names = [before + key for key in keys]
        for key, name, clean, (_, facts) in zip(keys, names, clean_names(names), page, strict=True):
            if clutter.take(name):
                continue
            path, shown = key.encode(), sent_name(name, clean)
            if is_plain(key):
                yield Listed(path, shown, facts.size, facts.changed_ns, facts.version)
            else:
                yield Listed(path, shown, error=_STRANGE)

    @contextmanager
    def open(self, path: bytes) -> Iterator[OpenedWhole]:
        """Open an object for reading.

        Raises:
            Unreadable: it is gone, or may not be read.
            StorageUnavailable: the bucket can't be reached.
        """
        try:
            file = ObjectFile(self.prefix.bucket, self.prefix.prefix + path.decode())
        except Exception as error:  # each kind of store raises other errors
            problem = failed(error)
            if not isinstance(problem, OriginalLost):
                raise problem from error
            raise (Unreadable(_UNREADABLE) if problem.message == NO_PERMISSION else changed()) from error
        with file:
            yield OpenedWhole(file, file.facts.version)

    def problem(self, path: bytes) -> str | None:
        """Return why an object can't be opened; None if it can."""
        try:
            with self.open(path):
                return None
        except RetllmError as error:
            return error.message


def _is_marker(key: str, facts: Facts) -> bool:
    """Return whether an object stands for a folder, as programs make them that show buckets as folders."""
    return key.endswith("/") and not facts.size


def allowed_prefix(prefix: Prefix, roots: Sequence[Prefix]) -> BucketFolder:
    """Return a prefix that lies in one of those that may be imported.

    Raises:
        Forbidden: it lies in none of them.
    """
    root = next((root for root in roots if root.contains(prefix)), None)
    if root is None:
        raise Forbidden(f"{prefix} may not be imported: it lies in none of the places of RETLLM_IMPORT_ROOTS.")
    return BucketFolder(root, prefix)
