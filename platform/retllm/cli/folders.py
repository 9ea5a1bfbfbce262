"""Find the files of an upload: files and folders that the caller names, and everything below them.

Every file is found once, is counted as clutter, or gets an outcome that says why it can't be sent. Its name begins with
what the caller named, as in a browser to which a folder is dropped: the file, or the folder with those below it; and
with the folders above where several have a file of the same name. Linked folders are followed after all others, so that
a file has the name of the place where it lies; a link to a folder that contains itself is not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retllm.media import special_files
from retllm.media.clutter import ClutterCount
from retllm.media.file_table import DESCRIBING, FileRole, clutter_of, role_of
from retllm.media.local_files import OpenedFile, Unreadable, changed, unreadable
from retllm.media.name_encodings import decoded
from retllm.media.names import clean_names, sent_name
from retllm.media.outcomes import FileOutcome, ignored, rejected

_Id = tuple[int, int]
_NOTHING_THERE = "There is no such file or folder: correct the name."


@dataclass(frozen=True, slots=True)
class Found:
    """A file to send."""

    path: Path
    name: str
    """Its name in the collection: readable, with the folder that was named and those below it."""
    size: int
    sent_name: str
    """The name that the server is told, and cleans."""

    @property
    def role(self) -> FileRole | None:
        """What it may be by its suffix."""
        return role_of(self.name)

    @property
    def describes(self) -> bool:
        """Whether it may say something of pictures, as sheets, sidecars and texts do, and so is sent before them."""
        return self.role in DESCRIBING

    def open(self) -> OpenedFile:
        """Open the file for reading.

        Raises:
            Unreadable: it can't be opened, is no file any more, or has changed since it was found.
        """
        try:
            # a pipe that has taken the file's place does not block
            stream = os.fdopen(
                os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
            )
        except OSError as error:
            raise unreadable(error) from error
        now = os.fstat(stream.fileno())
        if not stat.S_ISREG(now.st_mode) or now.st_size != self.size:
            stream.close()
            raise changed()
        return OpenedFile(stream, self.size)


def walk(paths: Iterable[Path]) -> Iterator[Found | FileOutcome]:
    """Yield the files of ``paths`` in order of their names, and the outcomes of what is not sent.

    A path that is given twice, or lies in a folder that is given too, is found once.
    """
    walked = _Walk()
    # folders first, so that a file has its name in a folder that is given too
    for path in sorted(paths, key=lambda path: not path.is_dir()):
        walked.add(path)
    yield from walked.results()


@dataclass(slots=True)
class _Entry:
    """A file, or a problem, at a path that was named or below it."""

    path: Path
    parts: tuple[str, ...]
    root: Path
    """The folder in which its parts begin."""
    size: int = 0
    problem: str | None = None
    remark: str | None = None


@dataclass
class _Walk:
    found: list[_Entry] = field(default_factory=list)
    _folders: set[_Id] = field(default_factory=set)
    _files: set[tuple[_Id, str]] = field(default_factory=set)
    _above: set[_Id] = field(default_factory=set)
    _root: Path = field(default_factory=Path)

    def add(self, path: Path) -> None:
        """Add a path that the caller named."""
        try:
            facts = path.stat()
            if not stat.S_ISDIR(facts.st_mode):
                self._single(path, facts)
                return
            self._above.update(_id(folder.stat()) for folder in path.resolve().parents)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError) and not path.is_symlink()
            problem = _NOTHING_THERE if missing else unreadable(error, link=path.is_symlink()).message
            self.found.append(_Entry(path, (path.name,), path.parent, problem=problem))
            return
        before = len(self.found)
        self._root, parts = _begin(path)
        if self._enter(facts):
            self._tree(path, parts)
            if len(self.found) == before:
                self._add(path, parts or (path.resolve().name or str(path),), problem="The folder contains no files.")

    def _single(self, path: Path, facts: os.stat_result) -> None:
        folder = _id((path.parent).stat())
        if folder not in self._folders and (folder, path.name) not in self._files:
            self._files.add((folder, path.name))
            self._root = path.parent
            self._file(path, (path.name,), facts)

    def _enter(self, facts: os.stat_result) -> bool:
        """Return whether a folder has not been entered before, and note it."""
        known = _id(facts) in self._folders
        self._folders.add(_id(facts))
        return not known

    def _tree(self, root: Path, parts: tuple[str, ...]) -> None:
        """Add everything below a folder; what is behind links comes last."""
        linked: list[tuple[Path, tuple[str, ...]]] = []
        waiting = [(root, parts)]
        while waiting or linked:
            if waiting:
                waiting += reversed(self._folder(*waiting.pop(), linked))
            else:
                waiting += self._behind_link(*linked.pop(0))

    def _folder(
        self, folder: Path, parts: tuple[str, ...], linked: list[tuple[Path, tuple[str, ...]]]
    ) -> list[tuple[Path, tuple[str, ...]]]:
        """Add the files of a folder; return the folders in it, and add links to folders to ``linked``."""
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self._add(folder, parts or (folder.name,), problem=unreadable(error, "folder").message)
            return []
        inner: list[tuple[Path, tuple[str, ...]]] = []
        for entry in entries:
            path, below = Path(entry.path), (*parts, entry.name)
            try:
                facts = entry.stat()
            except OSError as error:
                self._add(path, below, problem=unreadable(error, link=entry.is_symlink()).message)
                continue
            if not stat.S_ISDIR(facts.st_mode):
                self._file(path, below, facts)
            elif entry.is_symlink() and clutter_of("/".join(below)):
                self._add(path, below)
            elif entry.is_symlink():
                linked.append((path, below))
            elif self._enter(facts):
                inner.append((path, below))
        return inner

    def _behind_link(self, path: Path, parts: tuple[str, ...]) -> list[tuple[Path, tuple[str, ...]]]:
        try:
            facts = path.stat()
            above = [_id(folder.stat()) for folder in path.resolve().parents]
        except OSError as error:
            self._add(path, parts, problem=unreadable(error, link=True).message)
            return []
        if _id(facts) in self._above:
            remark = special_files.LINK_ABOVE
        elif not self._enter(facts):
            remark = special_files.LINK_TAKEN
        else:
            self._above.update(above)
            return [(path, parts)]
        self._add(path, parts, remark=remark)
        return []

    def _file(self, path: Path, parts: tuple[str, ...], facts: os.stat_result) -> None:
        problem = None if stat.S_ISREG(facts.st_mode) else special_files.NO_FILE
        self._add(path, parts, size=facts.st_size, problem=problem)

    def _add(
        self,
        path: Path,
        parts: tuple[str, ...],
        *,
        size: int = 0,
        problem: str | None = None,
        remark: str | None = None,
    ) -> None:
        self.found.append(_Entry(path, parts, self._root, size, problem, remark))

    def results(self) -> Iterator[Found | FileOutcome]:
        """Yield what was found, under readable names."""
        _tell_apart(self.found)
        clutter = ClutterCount()
        names = _names(self.found)
        cleaned = clean_names(names, ["/".join(entry.parts) for entry in self.found])
        for entry, name, clean in zip(self.found, names, cleaned, strict=True):
            if clutter.take(name):
                continue
            if entry.problem is not None:
                yield rejected(clean, Unreadable(entry.problem))
            elif entry.remark is not None:
                yield ignored(clean, entry.remark)
            else:
                yield Found(entry.path, clean, entry.size, sent_name(name, clean))
        yield from clutter.outcomes()


def _begin(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return where the names in a folder that was named begin: with its own name, unless files below it are clutter."""
    # a link keeps its own name, which `resolve` would not
    whole = Path(os.path.abspath(path))  # noqa: PTH100
    if not whole.name or clutter_of(f"{whole.name}/a"):
        # it was named on purpose, whatever it is called
        return path, ()
    return whole.parent, (whole.name,)


def _tell_apart(entries: Sequence[_Entry]) -> None:
    """Put the names of folders above before the names of files, where several would be the same."""
    roots: dict[tuple[str, ...], set[Path]] = {}
    for entry in entries:
        if not clutter_of("/".join(entry.parts)):
            roots.setdefault(entry.parts, set()).add(entry.root)
    alike = set().union(*(found for found in roots.values() if len(found) > 1))
    names = {root: root.resolve().parts for root in alike}
    depth = 1
    while len({parts[-depth:] for parts in names.values()}) < len({*names.values()}):
        depth += 1
    for entry in entries:
        if entry.root in alike:
            # the folders were named on purpose, whatever they are called
            prefix = tuple(part.lstrip(".@#~$") or "folder" for part in names[entry.root][-depth:])
            entry.parts = (*prefix, *entry.parts)


def _names(entries: Iterable[_Entry]) -> list[str]:
    """Return the names of entries with their folders; those that are not UTF-8 are decoded all alike."""
    raw = {part: os.fsencode(part) for entry in entries for part in entry.parts}
    readable = dict(zip(raw, decoded(list(raw.values())), strict=True))
    return ["/".join(readable[part] for part in entry.parts) for entry in entries]


def _id(facts: os.stat_result) -> _Id:
    return facts.st_dev, facts.st_ino
