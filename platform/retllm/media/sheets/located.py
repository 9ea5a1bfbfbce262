"""Where files of an upload lie: their folders, archives, and what their paths say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from retllm.media.names import base_name, without_code
from retllm.media.sheets.folder_names import (
    DESCRIBING,
    OF_PICTURES,
    archive_names,
    are_apart,
    describes,
    short_name,
    telling,
    words_of,
)
from retllm.media.sheets.references import stem

_NUMBERED = re.compile(r"(?<![0-9])[0-9]{1,3}(?:\.[a-z0-9]{1,4}){1,2}$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Located:
    """Where a file lies: its clean path within its upload, or within the archive of this upload that it came from.

    Attributes:
        outer: the path of that archive within the upload.
        coded: the names that it has if its picture has a code, which tells its very name.
    """

    name: str
    archive: UUID | None = None
    outer: str = ""
    coded: tuple[str, ...] = ()

    @property
    def very(self) -> tuple[Located, ...]:
        """The same file under the names with a code."""
        return tuple(Located(name, self.archive, self.outer) for name in self.coded)

    @property
    def without_code(self) -> Located | None:
        """The same file under the name that a code was added to; None if it has none."""
        shown = without_code(self.name)
        return None if shown == self.name else Located(shown, self.archive, self.outer)

    @property
    def folder(self) -> tuple[str, ...]:
        """The parts of the path without the last one."""
        return tuple(self.name.split("/")[:-1])

    @property
    def path(self) -> tuple[str, str]:
        """What tells it from the other files of its upload: the path of its archive, and its own."""
        return self.outer, self.name

    @property
    def unpacked(self) -> tuple[tuple[str, ...], ...]:
        """The folders within the upload: of an entry, beside its archive, or in a folder that is named after it."""
        if not self.outer:
            return (self.folder,)
        outer = self.outer.split("/")[:-1]
        return (*outer, *self.folder), (*outer, short_name(self.outer), *self.folder)

    @property
    def named(self) -> tuple[tuple[str, ...], ...]:
        """The folders of an entry, in one with a name of its archive: a.b.zip, a.b or a; none of a loose file."""
        return tuple((name, *self.folder) for name in archive_names(self.outer))

    def is_alike(self, other: Located) -> bool:
        """Return whether the archives of both have names that say the same: train_texts.zip and train_images.zip."""
        return telling(short_name(self.outer)) == telling(short_name(other.outer))

    @property
    def export(self) -> str | None:
        """The path of its archive without the number among those of one export: takeout-001.zip; None without one."""
        return _NUMBERED.sub("", self.outer.lower()) if _NUMBERED.search(self.outer) else None

    @property
    def unpacked_name(self) -> str:
        """The path within the upload as if its archive were unpacked in a folder of its name."""
        return "/".join((*self.unpacked[-1], base_name(self.name)))

    def contradicts(self, other: Located) -> bool:
        """Return whether the archives of both are of different parts of one data set: train.zip and val.zip."""
        return are_apart(short_name(self.outer), short_name(other.outer))

    @property
    def parallel(self) -> set[str]:
        """Paths of a picture in lower case, without what only says that its folders have pictures, and its suffix."""
        return {_joined(folders, OF_PICTURES, stem(self.name)) for folders in (self.folder, *self.unpacked)}

    def described(self, bare: str) -> set[str]:
        """Return the paths (``parallel``) of pictures named ``bare`` that a file here, in captions/ or so, is for."""
        return {
            _joined(folders, DESCRIBING | OF_PICTURES, bare)
            for folders in (self.folder, *self.unpacked)
            if describes(folders)
        }


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a row may mean.

    Attributes:
        item_id: its item, or that of its first part; None for a picture that was rejected or not sent.
        earlier: whether it was uploaded before the sheet; of its archive, the name alone is known then.
        parts: the items of a file of several pictures, in their order; empty for a picture.
        unsent: whether it was to come with the upload and did not.
        rejection: why it was rejected, of one in another upload.
    """

    located: Located
    item_id: UUID | None
    earlier: bool = False
    parts: tuple[UUID, ...] = ()
    unsent: bool = False
    rejection: str = ""

    @property
    def items(self) -> tuple[UUID, ...]:
        """All its items; none if it was rejected or not sent."""
        return self.parts or (() if self.item_id is None else (self.item_id,))

    def is_near(self, sheet: Located) -> bool:
        """Return whether the paths of both begin in the same place: in the same archive, or as far as is known."""
        if self.earlier:
            return not self.located.outer or base_name(self.located.outer) == base_name(sheet.outer)
        return self.located.archive == sheet.archive


def _joined(folders: tuple[str, ...], general: frozenset[str], bare: str) -> str:
    return "/".join([*(told for told, _ in told_apart(folders, general)), bare.lower()])


@lru_cache(maxsize=1 << 12)
def told_apart(folders: tuple[str, ...], general: frozenset[str]) -> list[tuple[str, bool]]:
    """Return what the names of folders say besides ``general`` words, and whether they had any of these."""
    parts = [(words, [word for word in words if word not in general]) for words in map(words_of, folders)]
    return [("".join(left), left != words) for words, left in parts if left]
