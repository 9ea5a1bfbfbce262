"""The pictures that rows and sidecars may mean, by where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from retllm.media.file_table import FileRole, role_of
from retllm.media.names import MAX_FOLDERS, base_name, joined_folders
from retllm.media.sheets.located import Located, Picture
from retllm.media.sheets.matching import LONG_NAME, further_key, path_stem
from retllm.media.sheets.paths import resolved
from retllm.media.sheets.references import Reference, keys, stem

# as many others as are looked at to say where a picture of the name is
_OTHERS = 3


@dataclass(slots=True)
class Named:
    """Pictures by the last part of their names, so that a row is compared with few of those that share it."""

    _by_name: dict[str, list[Picture]] = field(default_factory=dict)
    _by_stem: dict[str, list[Picture]] = field(default_factory=dict)
    _by_folder: dict[tuple[str, str], list[Picture]] = field(default_factory=dict)
    _parallel: dict[str, list[Picture]] = field(default_factory=dict)

    @classmethod
    def of(cls, pictures: Iterable[Picture]) -> Named:
        """Return these pictures."""
        made = cls()
        for picture in pictures:
            made.add(picture)
        return made

    def add(self, picture: Picture) -> None:
        """Take up a picture."""
        located = picture.located
        key = stem(located.name).lower()
        self._by_name.setdefault(located.name, []).append(picture)
        self._by_stem.setdefault(key, []).append(picture)
        for place in located.parallel:
            self._parallel.setdefault(place, []).append(picture)
        folders = {_last(folders) for folders in (located.folder, *located.unpacked, *located.named)}
        # the last of folders that were cut has another name
        if len("/".join(located.folder)) == MAX_FOLDERS:
            folders.add("")
        for folder in folders:
            self._by_folder.setdefault((key, folder), []).append(picture)

    def has(self, stems: Iterable[str]) -> bool:
        """Return whether a picture may have one of these stems."""
        return any(key in self._by_stem for key in stems)

    def of_stem(self, key: str) -> list[Picture]:
        """Return the pictures with this last part, in lower case and without suffix."""
        return self._by_stem.get(key, [])

    def parallel(self, described: Iterable[str]) -> list[Picture]:
        """Return the pictures at the places :meth:`retllm.media.sheets.matching.Located.described`, each once."""
        found = (picture for place in described for picture in self._parallel.get(place, ()))
        return list({id(picture): picture for picture in found}.values())

    def fitting(self, reference: Reference, sheet: Located) -> list[Picture]:
        """Return the pictures of which :func:`find` takes the same ones as of all, and some in other folders."""
        return self._at_path(reference, sheet) or self._below(reference)

    def _at_path(self, reference: Reference, sheet: Located) -> list[Picture]:
        """Return the pictures at the very path in the sheet's folder, or else its archive's, and some others."""
        if reference.decoded is not None:
            return []
        # before what lies at the root goes what an archive beside the sheet has at that path
        places = (sheet.folder, ()) if sheet.archive else (sheet.folder,)
        for folder in ((),) if reference.absolute else places:
            *folders, last = resolved(folder, reference.parts)
            lasts = (last, *(path[-1] for path in reference.coded))
            names = ["/".join(part for part in (joined_folders(folders), last) if part) for last in lasts]
            named = [picture for name in names for picture in self._by_name.get(name, ())]
            if found := [picture for picture in named if picture.is_near(sheet)]:
                return [*found, *islice((picture for picture in named if not picture.is_near(sheet)), _OTHERS)]
        return []

    def _below(self, reference: Reference) -> list[Picture]:
        """Return the pictures whose folder may be the last one of the row, and some others."""
        names = keys(reference)
        paths = [path for path in (reference.parts, reference.decoded) if path]
        folders = {_last(resolved((), path)[:-1]) for path in paths}
        everything = (picture for key in names for picture in self.of_stem(key))
        if "" in folders:
            return list(everything)
        found = [p for key in names for folder in (*folders, "") for p in self._by_folder.get((key, folder), ())]
        others = [picture for picture, _ in zip(everything, range(_OTHERS), strict=False)]
        return list({id(picture): picture for picture in (*found, *others)}.values())


def _last(folders: tuple[str, ...]) -> str:
    return folders[-1].lower() if folders else ""


@dataclass(slots=True)
class NamesSeen:
    """The pictures of one upload, by where they lie; those of the collection come second."""

    _named: Named = field(default_factory=Named)
    _by_path: dict[tuple[UUID | None, str], list[Picture]] = field(default_factory=dict)
    _by_place: dict[str, list[Picture]] = field(default_factory=dict)
    _by_beginning: dict[tuple[UUID | None, str], list[Picture]] = field(default_factory=dict)
    _by_key: dict[UUID | None, dict[str, list[Picture]]] = field(default_factory=dict)
    unsent: Named = field(default_factory=Named)
    """The pictures, documents and films that were to come with the upload and did not."""
    awaited: Named = field(default_factory=Named)
    """The pictures, documents and films that other uploads are still sending or processing."""
    awaited_archives: list[str] = field(default_factory=list)
    """The names of archives that other uploads are still sending or have not unpacked."""
    unsent_archive: str | None = None
    """The name of an archive that did not come: nobody knows which pictures it has."""

    def add_unsent(self, name: str) -> None:
        """Record that the file of this name was to come and did not."""
        role = role_of(name)
        if role is FileRole.ARCHIVE:
            self.unsent_archive = self.unsent_archive or name
        elif role in (FileRole.PICTURE, FileRole.PAGES, FileRole.FILM):
            self.unsent.add(Picture(Located(name), None, unsent=True))

    def add_awaited(self, name: str) -> None:
        """Record that another upload is going to bring the file of this name."""
        if role_of(name) in (FileRole.PICTURE, FileRole.PAGES, FileRole.FILM):
            self.awaited.add(Picture(Located(name), None))

    def add(self, located: Located, item_id: UUID | None, parts: tuple[UUID, ...] = ()) -> None:
        """Record that the file at ``located`` is this item (an older one, if it was a duplicate); None if rejected.

        Of a file of several pictures, ``parts`` are all items and ``item_id`` the first one.
        """
        picture = Picture(located, item_id, parts=parts)
        self._named.add(picture)
        self._by_path.setdefault((located.archive, path_stem(located.name).lower()), []).append(picture)
        for place in _everywhere(path_stem(located.name), located):
            self._by_place.setdefault(place, []).append(picture)
        if (key := further_key(located.name)) is not None:
            self._by_key.setdefault(located.archive, {}).setdefault(key, []).append(picture)
        if len(base_name(located.name)) >= LONG_NAME:
            self._by_beginning.setdefault((located.archive, _beginning(located.name)), []).append(picture)

    @property
    def pictures(self) -> Named:
        """The pictures by the last part of their names."""
        return self._named

    def beside(self, path: str, archive: UUID | None) -> list[Picture]:
        """Return the pictures with this path in any case of letters, whatever their suffix, in this archive."""
        return self._by_path.get((archive, path.lower()), [])

    def with_keys(self, archive: UUID | None) -> Mapping[str, list[Picture]]:
        """Return the pictures in this archive that have a :func:`further_key`, by that."""
        return self._by_key.get(archive, {})

    def beginning(self, path: str, archive: UUID | None) -> list[Picture]:
        """Return the pictures in this archive whose long path begins with ``path``."""
        found = self._by_beginning.get((archive, _beginning(path)), ())
        return [picture for picture in found if picture.located.name.startswith(path)]

    def outside(self, path: str, document: Located) -> list[Picture]:
        """Return the pictures of other archives at the place of a document's ``path``, in any case of letters."""
        found = {
            id(picture): picture
            for place in _everywhere(path, document)
            for picture in self._by_place.get(place, ())
            if picture.located.archive != document.archive
        }
        return list(found.values())

    def has(self, name: str, item_id: UUID) -> bool:
        """Return whether this item came with the upload under this name."""
        return any(
            picture.item_id == item_id and picture.located.name == name
            for picture in self._named.of_stem(stem(name).lower())
        )


def _everywhere(path: str, located: Located) -> set[str]:
    """Return the paths in lower case that a file may have: in its archive, and unpacked."""
    return {"/".join((*folder, base_name(path))).lower() for folder in (located.folder, *located.unpacked)}


def _beginning(path: str) -> str:
    base = base_name(path)
    return path.removesuffix(base) + base[:LONG_NAME]
