"""Tell which of the pictures that a sidecar may belong to it means: the nearest, and of these that of its very name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from retllm.media.names import base_name
from retllm.media.sheets import sidecars
from retllm.media.sheets.located import Located, Picture
from retllm.media.sheets.matching import path_stem


class Neighbours(NamedTuple):
    """The pictures that a file is a sidecar of; or else several that it fits alike, of which none is meant.

    Attributes:
        elsewhere: if there are none of these, pictures of the collection that have its name in other folders.
        very: whether they have the very name of the file, and that looks like other names.
    """

    meant: list[Picture]
    alike: Sequence[Picture] = ()
    elsewhere: Sequence[Picture] = ()
    very: bool = False

    @property
    def fitting(self) -> list[Picture]:
        """The pictures that are meant or fit alike."""
        return [*self.meant, *self.alike]

    def goes_before(self, other: Neighbours) -> bool:
        """Return whether these go before those of a nearer place: they have the code, or there are no others."""
        is_coded = self.very and not any(picture.located.coded for picture in self.fitting)
        return bool(self.fitting) and (not other.fitting or (is_coded and not other.very))


@dataclass(frozen=True, slots=True)
class Names:
    """A sidecar under its names, the clean one last, each with the places that a picture may have by it."""

    document: Located
    places: Mapping[Located, Sequence[sidecars.Beside]]

    @classmethod
    def of(cls, document: Located) -> Names:
        """Return the names of this file."""
        return cls(document, {one: sidecars.places(one.name) for one in (*document.very, document)})

    @property
    def all_places(self) -> list[sidecars.Beside]:
        """The places of all names."""
        return [place for places in self.places.values() for place in places]

    @property
    def ends(self) -> set[str]:
        """The ends of all paths that its picture may have."""
        return {base_name(path) for place in self.all_places for path in place.paths}

    @property
    def very(self) -> set[str]:
        """The ends of paths that a picture of its very name may have."""
        return {base_name(place.path) for one in self.document.very for place in self.places[one]}


def is_left(named: Names, found: Neighbours) -> bool:
    """Return whether pictures of other uploads may be meant: there is none, or only one that looks like it."""
    return bool(named.all_places) and (not found.fitting or (bool(named.very) and not found.very))


Ranked = tuple[tuple[int, ...], Neighbours]
"""Pictures after how far they are from a sidecar."""


def nearest(ranked: Sequence[Ranked], bases: Collection[str]) -> Neighbours:
    """Return the pictures at the least distance; of several whose names look the same those of the very name.

    Args:
        ranked: what was found by each name of a sidecar, the clean one last.
        bases: the ends of paths, without suffix, that pictures of the very name may have.
    """
    least = min((distance for distance, one in ranked if one.fitting), default=None)
    near = [one for distance, one in ranked if distance == least and one.fitting] or [ranked[-1][1]]
    of_very = [one for one in near if any(_is_very(picture, bases) for picture in one.fitting)]
    if not of_very:
        return near[0]
    found = [picture for one in of_very for picture in one.fitting]
    paths = {path_stem(picture.located.name) for picture in found if _is_very(picture, bases)}
    kept = [each for each in found if _is_very(each, bases) or path_stem(each.located.name) not in paths]
    same = next((one for one in of_very if kept == one.meant), None)
    return (same or told_apart(kept))._replace(very=True)


def told_apart(found: list[Picture]) -> Neighbours:
    """Return pictures that differ in their suffixes alone as meant; none if nothing tells two of them apart."""
    items = {(picture.located.path, picture.item_id) for picture in found}
    is_told = len({name for (_, name), _ in items}) == len(items) and len({outer for (outer, _), _ in items}) == 1
    return Neighbours(found) if is_told or len({item_id for _, item_id in items}) == 1 else Neighbours([], found)


def _is_very(picture: Picture, bases: Iterable[str]) -> bool:
    names = [base_name(name) for name in (picture.located.name, *picture.located.coded)]
    return any(name.startswith(f"{base}.") for base in bases for name in names)
