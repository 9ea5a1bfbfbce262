"""Folders of this machine that may be imported: their files are found and opened without following a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from retllm.errors import Forbidden, InvalidInput, OriginalLost
from retllm.imports.found import Listed, OpenedWhole
from retllm.media import special_files
from retllm.media.clutter import ClutterCount
from retllm.media.file_table import clutter_of
from retllm.media.local_files import Unreadable, changed, unreadable
from retllm.media.name_encodings import decoded
from retllm.media.names import clean_names, sent_name
from retllm.media.originals import FOLDER, descend, open_within
from retllm.media.references import Place

LINK_OUT = "Left out: the link leads out of the folder. Import the folder that it leads to, if it is allowed."
LINK_WITHIN = "Left out: the link leads to something in the same folder, which is imported from there."


class _Entry(NamedTuple):
    path: bytes
    name: str
    mode: int = 0
    size: int = 0
    changed_ns: int = 0
    error: str | None = None


class Folder:
    """A folder below an allowed one; it stays open, so that nothing put in its place later is read. A context manager.

    Each folder is opened from the one above it, and none through a link.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path
        self._root = root
        self._handle = descend(os.open(root, FOLDER), [os.fsencode(part) for part in path.relative_to(root).parts])

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def address(self) -> bytes:
        """What tells it from others: its path."""
        return os.fsencode(self.path)

    def place(self, path: bytes) -> Place:
        """Return where a file of it lies."""
        return Place(str(self._root), bytes(self.path.relative_to(self._root) / os.fsdecode(path)))

    def files(self, clutter: ClutterCount) -> Iterator[Listed]:
        """Yield everything below the folder but folders, and count the clutter; one folder is held in memory at a time.

        Raises:
            Unreadable: the folder itself can't be read.
        """
        # named on purpose, whatever it is called
        own = "" if clutter_of(f"{self.path.name}/a") else self.path.name
        waiting = [_Entry(b"", decoded([os.fsencode(own)])[0])]
        while waiting:
            folder = waiting.pop()
            inner: list[_Entry] = []
            for entry, listed in self._listed(folder):
                if not stat.S_ISDIR(entry.mode) and clutter.take(entry.name):
                    continue
                if listed is None:
                    inner.append(entry)
                else:
                    yield listed
            waiting += reversed(inner)

    def _listed(self, folder: _Entry) -> Iterator[tuple[_Entry, Listed | None]]:
        """Yield what is in a folder; folders in it are not listed."""
        try:
            found = self._entries(folder.path)
        except OSError as error:
            problem = unreadable(error, "folder")
            if not folder.path:
                raise problem from error
            name = folder.name
            yield folder._replace(mode=0), Listed(folder.path + b"/", name, error=problem.message, is_folder=True)
            return
        before = f"{folder.name}/" if folder.name else ""
        texts = decoded([os.path.basename(entry.path) for entry in found])  # noqa: PTH119 - bytes
        names = [before + text for text in texts]
        cleaned = clean_names(names, [os.fsdecode(entry.path) for entry in found])
        for entry, name, clean in zip(found, names, cleaned, strict=True):
            named = entry._replace(name=name)
            yield named, None if stat.S_ISDIR(entry.mode) else self._judged(named, sent_name(name, clean))

    def _entries(self, path: bytes) -> list[_Entry]:
        parts = path.split(b"/") if path else []
        before = path + b"/" if path else b""
        found = []
        with self._inside(parts) as handle, os.scandir(handle) as listing:
            for one in listing:
                inner = before + os.fsencode(one.name)
                # a file may be gone since the folder was listed
                with suppress(FileNotFoundError):
                    try:
                        facts = one.stat(follow_symlinks=False)
                    except PermissionError as error:
                        found.append(_Entry(inner, "", error=unreadable(error).message))
                    else:
                        found.append(_Entry(inner, "", facts.st_mode, facts.st_size, facts.st_mtime_ns))
        return sorted(found)

    def _judged(self, entry: _Entry, name: str) -> Listed:
        if entry.error is not None:
            return Listed(entry.path, name, error=entry.error)
        if stat.S_ISLNK(entry.mode):
            return Listed(entry.path, name, remark=self._link(entry.path))
        if not stat.S_ISREG(entry.mode):
            return Listed(entry.path, name, error=special_files.NO_FILE)
        return Listed(entry.path, name, entry.size, entry.changed_ns)

    def _link(self, path: bytes) -> str:
        """Return why a link is left out; only the message depends on where it leads."""
        target = Path(os.path.realpath(self.path / os.fsdecode(path)))
        return LINK_WITHIN if target.is_relative_to(self.path) else LINK_OUT

    @contextmanager
    def open(self, path: bytes) -> Iterator[OpenedWhole]:
        """Open a file for reading.

        Raises:
            Unreadable: it can't be opened, or is no file any more.
        """
        try:
            file = open_within(os.dup(self._handle), path.split(b"/"))
        except OSError as error:
            raise unreadable(error) from error
        except OriginalLost as error:
            raise changed() from error
        with file:
            yield OpenedWhole(file)

    def problem(self, path: bytes) -> str | None:
        """Return why a file can't be opened; None if it can."""
        try:
            with self.open(path):
                return None
        except Unreadable as error:
            return error.message

    @contextmanager
    def _inside(self, parts: Sequence[bytes]) -> Iterator[int]:
        handle = descend(os.dup(self._handle), parts)
        try:
            yield handle
        finally:
            os.close(handle)


def allowed(path: Path, roots: Sequence[Path]) -> Folder:
    """Open a folder that lies in one of those that may be imported; links in its name are followed first.

    Args:
        roots: with links in their own names followed.

    Raises:
        InvalidInput: it is no folder, or can't be read.
        Forbidden: it lies in none of them.
    """
    try:
        whole = path.resolve(strict=True)
        if not whole.is_dir():
            raise NotADirectoryError(path)
        root = next((root for root in roots if whole.is_relative_to(root)), None)
        if root is None:
            raise Forbidden(f"{whole} may not be imported: it lies in none of the places of RETLLM_IMPORT_ROOTS.")
        return Folder(root, whole)
    except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError
        reason = getattr(error, "strerror", None) or "it is no folder"
        raise InvalidInput(f"The folder {path} can't be imported ({reason}).") from error
