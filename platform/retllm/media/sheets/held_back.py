"""Rows for which a picture is here while a better one may come: they wait instead of captioning it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from retllm.media.names import base_name
from retllm.media.sheets import targets
from retllm.media.sheets.absent import Absent, archive_for
from retllm.media.sheets.folder_names import short_name
from retllm.media.sheets.located import Located, Picture
from retllm.media.sheets.matching import find
from retllm.media.sheets.paths import common, resolved
from retllm.media.sheets.references import Reference, is_number_of, keys, stem
from retllm.media.sheets.rows import Problem
from retllm.media.sheets.seen import Named
from retllm.media.sheets.targets import Target

# how well the last part of a row fits the name of a picture: the very name, or as far as the row says it, or less
_VERY, _AS_SAID, _ALIKE = range(3)
# how well its folders do: the sheet's own one, or that of the whole path, or the end of a path without so many folders
_IN_FOLDER, _AT_ROOT, _BY_END = range(3)


@dataclass(frozen=True, slots=True)
class _Match:
    """A picture that a row may mean."""

    row: Reference
    sheet: Located
    picture: Picture
    whole: bool

    @property
    def strength(self) -> tuple[int, int]:
        """How well the name and the folders fit, the smallest is best."""
        return self._name, self._place

    @property
    def is_exact(self) -> bool:
        """Whether the row gave the whole name of the picture."""
        return self._name < _ALIKE and self.whole

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that the row names, in lower case."""
        return tuple(folder.lower() for folder in resolved((), self.row.parts)[:-1])

    @property
    def lacks_folders(self) -> bool:
        """Whether the row names folders that the picture is not in."""
        return self._place > _BY_END

    @property
    def is_beside(self) -> bool:
        """Whether the picture came in the archive of the sheet, or in its folder of the same upload."""
        located, near = self.picture.located, not self.picture.earlier and self.picture.is_near(self.sheet)
        return near and (located.archive is not None or (self.whole and located.folder == self.sheet.folder))

    def stands_for(self, archive: str) -> bool:
        """Return whether the picture is the one that an archive of this name would bring."""
        outer = self.picture.located.outer
        return self.is_exact and (not outer or base_name(outer) == base_name(archive))

    @property
    def _name(self) -> int:
        base = base_name(self.picture.located.name)
        rows = filter(None, (self.row, self.row.whole))
        wanted = [last for row in rows for last in (*row.bases, *(parts[-1] for parts in row.coded))]
        if base in wanted:
            return _VERY
        as_said = stem(base) in wanted or any(is_number_of(each, base) for each in wanted)
        return _AS_SAID if as_said else _ALIKE

    @property
    def _place(self) -> int:
        folder = self.picture.located.folder
        if not self.whole:
            of_picture = (self.picture.located.folder, *self.picture.located.unpacked)
            return _BY_END + len(self.folders) - max(common(self.folders, each) for each in of_picture)
        start = () if self.row.absolute else self.sheet.folder
        paths = [path for path in (self.row.parts, self.row.decoded) if path]
        in_folder = any(resolved(start, path)[:-1] == folder for path in paths)
        return _IN_FOLDER if in_folder or not self.picture.is_near(self.sheet) else _AT_ROOT


class HeldBack:
    """Tells which rows wait for what is announced, or on its way.

    Args:
        awaited: the pictures that other uploads are still bringing.
        absent: the archives that did not come with the upload, and those that others are still bringing.
    """

    def __init__(self, awaited: Named, absent: Absent) -> None:
        self._awaited = awaited
        self._absent = absent

    def problem(self, name: str, row: Reference, target: Target, sheet: Located) -> Problem | None:
        """Return why a row has to wait although its target is here; None if it need not."""
        if self._absent.is_nothing:
            return None
        match = _Match(row, sheet, target.picture, target.whole)
        shown = targets.shown_name(name)
        if (archive := _archive(match, self._absent.missing_archives, others=False)) is not None:
            return targets.in_unsent_archive(shown, archive)
        # what came with the upload goes before what others bring, unless it has another suffix
        if not target.picture.earlier and not target.changed:
            return None
        if any(better.strength < match.strength for better in self._announced(row, sheet)):
            return targets.awaited(shown)
        if (archive := _archive(match, self._absent.archives, others=True)) is not None:
            return targets.in_awaited_archive(shown, archive)
        return None

    def _announced(self, row: Reference, sheet: Located) -> Iterator[_Match]:
        if self._awaited.has(keys(row)):
            found = find(row, sheet, self._awaited.fitting(row, sheet))
            yield from (_Match(row, sheet, picture, found.whole) for picture in found.pictures)


def _archive(match: _Match, archives: Sequence[str], *, others: bool) -> str | None:
    """Return the archive that may have a picture which a row means better.

    An archive whose name is among the row's folders may, unless the picture has the row's whole name; any other one
    of the same upload, if the row does not give the whole name; one of ``others``, if it names folders that the picture
    is not in.
    """
    beside_sheet = match.picture.located.archive is not None and match.is_beside
    if not archives or beside_sheet:
        return None
    named = [archive for archive in archives if short_name(archive).lower() in match.folders]
    if (archive := next((each for each in named if not match.stands_for(each)), None)) is not None:
        return archive
    if match.is_exact or match.is_beside or (others and not match.lacks_folders):
        return None
    return archive_for(match.sheet, archives, match.folders)
