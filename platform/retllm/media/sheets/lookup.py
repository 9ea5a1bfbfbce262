"""Look up the pictures that rows and sidecars mean: first those of the upload, then those of the collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.session import Sessions, run_transaction
from retllm.media import records
from retllm.media.names import base_name
from retllm.media.sheets import refused_files, sidecars, targets
from retllm.media.sheets.absent import archive_for, named_archive
from retllm.media.sheets.matching import Found, Located, Picture, find, further_key, path_stem
from retllm.media.sheets.references import Reference, keys, names_a_picture, reference, stem
from retllm.media.sheets.rows import Problem, Reason, not_sent, problem
from retllm.media.sheets.seen import Named, NamesSeen
from retllm.media.sheets.targets import AGAIN, Target

_SHOWN = 3


class Neighbours(NamedTuple):
    """The pictures that a file is a sidecar of; or else several that it fits alike, of which none is meant.

    Attributes:
        elsewhere: if there are none of these, pictures of the collection that have its name in other folders.
    """

    meant: list[Picture]
    alike: Sequence[Picture] = ()
    elsewhere: Sequence[Picture] = ()


class Lookup:
    """Finds the pictures of one upload and of its collection."""

    def __init__(self, sessions: Sessions, collection_id: UUID, seen: NamesSeen) -> None:
        self._sessions = sessions
        self._collection_id = collection_id
        self._seen = seen

    def targets(self, references: Mapping[str, Reference], sheet: Located) -> dict[str, Target | Problem]:
        """Return the picture that each reference in ``sheet`` means, by its name, or why there is none."""
        # many addresses are one reference
        wanted = {(one, sheet): keys(one) for one in references.values()}
        found = self._find(wanted)
        return {name: self._target(name, one, found[one, sheet], sheet) for name, one in references.items()}

    def _target(self, name: str, one: Reference, found: Found, sheet: Located) -> Target | Problem:
        awaited = _found(one, keys(one), sheet, self._seen.awaited).pictures
        unsent = self._seen.unsent_archive
        named = named_archive(one, (*filter(None, [unsent]), *self._seen.awaited_archives))
        # a rejected picture may be on its way again
        may_come = (awaited and all(picture.rejection for picture in found.pictures)) or (found.guessed and named)
        if found.pictures and not may_come:
            return targets.target(name, found, sheet)
        is_elsewhere = bool(found.elsewhere) and named is None
        shown = targets.shown_name(name)
        if self._is_part_of_unsent(one, sheet):
            return not_sent(f"names {shown!r}, whose file {AGAIN}")
        if unsent is not None and not is_elsewhere and named in (None, unsent):
            return not_sent(f"names the picture {shown!r}, which did not come, and {base_name(unsent)!r} {AGAIN}")
        if awaited:
            return problem(Reason.AWAITED, f"names the picture {shown!r}, which {refused_files.STILL_COMES}.")
        archive = named or archive_for(sheet, self._seen.awaited_archives)
        if archive is not None and not is_elsewhere:
            where = f"it may be in {base_name(archive)!r}, which {refused_files.STILL_COMES}"
            message = f"names the picture {shown!r}, which is not in this collection; {where}."
            return problem(Reason.AWAITED, message)
        return targets.nothing(shown, sheet, found.elsewhere)

    def _is_part_of_unsent(self, one: Reference, sheet: Located) -> bool:
        """Return whether a row names a page or a frame of a file that was not sent: scan.pdf, page 3."""
        whole, is_part, _ = one.parts[-1].rpartition(", ")
        file = Reference((*one.parts[:-1], whole), None, one.absolute)
        return bool(is_part and _found(file, keys(file), sheet, self._seen.unsent).pictures)

    def named(self, names: Iterable[tuple[str, Located]]) -> dict[tuple[str, Located], set[UUID]]:
        """Return the items that names of pictures in files may mean, by name and file."""
        references = {(name, located): reference(name) for name, located in names}
        found = self._find({(one, located): keys(one) for (_, located), one in references.items() if one is not None})
        return {
            (name, located): {item_id for picture in found[one, located].pictures for item_id in picture.items}
            if one is not None
            else set()
            for (name, located), one in references.items()
        }

    def _find(self, wanted: Mapping[tuple[Reference, Located], set[str]]) -> dict[tuple[Reference, Located], Found]:
        """Return the pictures that references in files mean, by these and with their keys.

        If there are some of the very name, it is these, wherever they came.
        """
        very = {(one, sheet): of for of in wanted for one in of[0].very for sheet in of[1:]}
        exact = {very[one]: found for one, found in self._search({one: keys(one[0]) for one in very}).items()}
        exact = {one: found for one, found in exact.items() if found.pictures}
        return exact | self._search({one: stems for one, stems in wanted.items() if one not in exact})

    def _search(self, wanted: Mapping[tuple[Reference, Located], set[str]]) -> dict[tuple[Reference, Located], Found]:
        unsent = self._seen.unsent
        found = {one: _found(one[0], stems, one[1], self._seen.pictures, unsent) for one, stems in wanted.items()}
        missing = [one for one, result in found.items() if not _have_come(result) or not result.is_certain]
        if missing:
            earlier = Named.of(self._earlier({key for one in missing for key in wanted[one]}))
            for one in missing:
                result = _found(one[0], wanted[one], one[1], earlier, unsent)
                if result == Found():
                    continue
                if not _have_come(found[one]) or result.is_certain:
                    found[one] = replace(result, elsewhere=found[one].elsewhere + result.elsewhere)
        if missing := [one for one in missing if not found[one].pictures]:
            rejected = Named.of(self._rejected({key for one in missing for key in wanted[one]}))
            for one in missing:
                result = _found(one[0], wanted[one], one[1], rejected)
                if result.is_certain:
                    found[one] = result
        return found

    def _earlier(self, stems: Iterable[str], keys: Iterable[str] = ()) -> list[Picture]:
        """Return the pictures of the collection with these stems, or whose keys in WebDataset have these last parts."""

        def read(session: Session) -> list[Picture]:
            pictures = records.pictures_with_stems(session, self._collection_id, stems, keys)
            wholes = records.wholes_with_stems(session, self._collection_id, stems)
            return [
                *(Picture(Located(name, outer=outer), item_id, earlier=True) for name, item_id, outer in pictures),
                *(Picture(Located(name, outer=outer), parts[0], True, parts) for name, outer, parts in wholes),
            ]

        # where those that came with the upload lie in it was looked at before
        return [
            picture
            for picture in run_transaction(self._sessions, read)
            if picture.item_id is None or not self._seen.has(picture.located.name, picture.item_id)
        ]

    def _rejected(self, stems: Iterable[str]) -> list[Picture]:
        """Return the pictures with these stems that earlier uploads to the collection had, and that were rejected."""

        def read(session: Session) -> list[tuple[str, str, str | None]]:
            return records.rejected_with_stems(session, self._collection_id, stems)

        return [
            Picture(Located(name, outer=outer), None, earlier=True, rejection=error or "")
            for name, outer, error in run_transaction(self._sessions, read)
            if names_a_picture(name)
        ]

    def beside(self, documents: Sequence[Located]) -> dict[Located, Neighbours]:
        """Return the pictures that each file may be a sidecar of: if there are some of its very name, these."""
        coded = self._all_beside([one for document in documents for one in document.very])
        found = {
            document: neighbours
            for document in documents
            for one in document.very
            if (neighbours := coded[one]).meant or neighbours.alike
        }
        return found | self._all_beside([document for document in documents if document not in found])

    def _all_beside(self, documents: Sequence[Located]) -> dict[Located, Neighbours]:
        places = {document: sidecars.places(document.name) for document in documents}
        found = {
            document: _of_export(self._beside(document, places[document]), document, places[document], self._everywhere)
            for document in documents
        }
        missing = [
            document for document, (meant, alike, _) in found.items() if places[document] and not (meant or alike)
        ]
        if missing:
            bases = {base_name(path) for document in missing for place in places[document] for path in place.paths}
            earlier = self._earlier(bases | {base.lower() for base in bases}, bases)
            index = _Earlier(earlier)
            for document in missing:
                neighbours = index.beside(document, places[document])
                if not any(neighbours):
                    others = [*found[document].elsewhere, *_named_like(places[document], self._seen.pictures)]
                    others += _named_like(places[document], index.named)
                    neighbours = Neighbours([], elsewhere=others)
                found[document] = neighbours
        if missing := [document for document in missing if not (found[document].meant or found[document].alike)]:
            rejected = _Earlier(self._rejected(bases | {base.lower() for base in bases}))
            for document in missing:
                if meant := rejected.beside(document, places[document]).meant:
                    found[document] = Neighbours(meant)
        return found

    def _beside(self, document: Located, places: Sequence[sidecars.Beside]) -> Neighbours:
        found = _first(self._in_archive(place, document.archive) for place in places)
        if not found and (path := sidecars.cut_path(document.name)):
            begun = self._seen.beginning(path, document.archive)
            found = begun if len(begun) == 1 else []
        if not found and any(of_key := _of_key(self._seen.with_keys(document.archive), places, document)):
            return of_key
        if found:
            return _neighbours(found)
        found = self._elsewhere(document, places)
        if not found:
            return _alone(_parallel(places, document, self._seen.pictures))
        if any(document.contradicts(picture.located) for picture in found):
            return Neighbours([], elsewhere=found)
        return Neighbours(found) if len({picture.item_id for picture in found}) <= 1 else Neighbours([], found)

    def _elsewhere(self, document: Located, places: Sequence[sidecars.Beside]) -> list[Picture]:
        """Return the pictures outside of a sidecar's archive that it may mean, all equally well.

        A large export is split over archives without regard to what belongs together.
        """
        return _first(_best(place, document, self._outside(place, document)) for place in places)

    def _everywhere(self, path: str, document: Located) -> list[Picture]:
        return [*self._seen.beside(path, document.archive), *self._seen.outside(path, document)]

    def _outside(self, place: sidecars.Beside, document: Located) -> list[Picture]:
        return [picture for path in place.paths for picture in self._seen.outside(path, document)]

    def _in_archive(self, place: sidecars.Beside, archive: UUID | None) -> list[Picture]:
        return _fitting(place, lambda path: self._seen.beside(path, archive))


class _Earlier:
    """Pictures of earlier uploads, by what sidecars are named after."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.named = Named.of(pictures)
        self._by_path = _by(pictures, lambda name: path_stem(name).lower())
        self._by_key = _by(pictures, further_key)

    def beside(self, document: Located, places: Sequence[sidecars.Beside]) -> Neighbours:
        """Return the pictures that a document with these places may be a sidecar of."""
        of_name = _first(_fitting(place, lambda path: self._by_path.get(path.lower(), ())) for place in places)
        neighbours = _neighbours(_closest(document, of_name))
        neighbours = _of_export(neighbours, document, places, lambda path, _: self._by_path.get(path.lower(), ()))
        if not any(neighbours):
            neighbours = _of_key(self._by_key, places, document)
        return neighbours if any(neighbours) else _alone(_parallel(places, document, self.named))


def _found(one: Reference, stems: Iterable[str], sheet: Located, *named: Named) -> Found:
    """Return the pictures that a reference means."""
    having = [pictures for pictures in named if pictures.has(stems)]
    if not having:
        return Found()
    found = find(one, sheet, [picture for each in having for picture in each.fitting(one, sheet)])
    come = {picture.located.path for picture in found.pictures if not picture.unsent}
    # one that came with another upload stands for the one that did not
    here = tuple(picture for picture in found.pictures if not (picture.unsent and picture.located.path in come))
    return replace(found, pictures=here, elsewhere=tuple(each for each in found.elsewhere if not each.unsent))


def _have_come(found: Found) -> bool:
    return any(not picture.unsent for picture in found.pictures)


def _fitting(place: sidecars.Beside, at: Callable[[str], Iterable[Picture]]) -> list[Picture]:
    """Return the pictures that a place means; those whose letters are in another case only if there are no others.

    Args:
        at: returns the pictures at a path, in any case of letters.
    """
    own = [picture for picture in at(place.path) if place.fits(picture.located.name)]
    own = [picture for picture in own if path_stem(picture.located.name) == place.path] or own
    edited = [picture for path in place.edited for picture in at(path) if place.fits(picture.located.name)]
    archives = {(picture.located.archive, picture.located.outer) for picture in own}
    # of the same archive, since those of several can't be told apart
    return own + [each for each in edited if not own or (each.located.archive, each.located.outer) in archives]


def _of_export(
    neighbours: Neighbours,
    document: Located,
    places: Iterable[sidecars.Beside],
    at: Callable[[str, Located], Iterable[Picture]],
) -> Neighbours:
    """Add the pictures of a sidecar that are in other archives of its export; Google Takeout splits it anywhere.

    Nothing is added if two different pictures of the export have one name.
    """
    meant = neighbours.meant
    place = next((each for each in places if each.edited and any(each.fits(p.located.name) for p in meant)), None)
    if place is None or document.export is None:
        return neighbours
    others = [
        picture
        for path in place.paths
        for picture in at(path, document)
        if place.fits(picture.located.name) and picture.located.export == document.export and picture not in meant
    ]
    together = {(picture.located.name.lower(), picture.item_id) for picture in (*meant, *others)}
    is_told = len({name for name, _ in together}) == len(together)
    return Neighbours([*meant, *others]) if others and is_told else neighbours


def _named_like(places: Iterable[sidecars.Beside], pictures: Named) -> list[Picture]:
    """Return the first pictures that have the name of a sidecar in whatever folder."""
    named = (
        picture
        for place in places
        for picture in pictures.of_stem(base_name(place.path).lower())
        if place.named_like(picture.located.name)
    )
    return list(islice(named, _SHOWN))


def _parallel(places: Iterable[sidecars.Beside], document: Located, pictures: Named) -> list[Picture]:
    """Return the pictures in the folders that that of a sidecar describes: images/a.png for captions/a.txt."""
    return _first(
        [
            picture
            for picture in pictures.parallel(document.described(base_name(place.path)))
            if place.named_like(picture.located.name) and not document.contradicts(picture.located)
        ]
        for place in places
    )


def _alone(found: list[Picture]) -> Neighbours:
    """Return pictures as meant if they are one, or differ in their suffixes alone."""
    places = {(picture.located.outer, path_stem(picture.located.name)) for picture in found}
    return _neighbours(found) if len(places) == 1 else Neighbours([], elsewhere=found)


def _of_key(by_key: Mapping[str, list[Picture]], places: Iterable[sidecars.Beside], document: Located) -> Neighbours:
    """Return the pictures whose key in WebDataset is the name of a sidecar: a.input.jpg for a.txt."""
    found = _closest(document, _first(by_key.get(place.path, []) for place in places if place.suffix is None))
    return Neighbours(found) if len({p.item_id for p in found}) == 1 else Neighbours([], found)


def _neighbours(found: list[Picture]) -> Neighbours:
    """Return pictures that differ in their suffixes alone as meant; none if nothing tells two of them apart."""
    items = {(picture.located.path, picture.item_id) for picture in found}
    is_told = len({name for (_, name), _ in items}) == len(items) and len({outer for (outer, _), _ in items}) == 1
    return Neighbours(found) if is_told or len({item_id for _, item_id in items}) == 1 else Neighbours([], found)


def _closest(document: Located, pictures: list[Picture]) -> list[Picture]:
    """Return those of earlier pictures whose archive is named like that of a sidecar; all if there are none."""
    pictures = [each for each in pictures if not document.contradicts(each.located)]
    same = [each for each in pictures if base_name(each.located.outer) == base_name(document.outer)]
    return same or [each for each in pictures if document.is_alike(each.located)] or pictures


def _by(pictures: Iterable[Picture], key_of: Callable[[str], str | None]) -> dict[str, list[Picture]]:
    """Return pictures by what a function returns for their names, without those for which that is None."""
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        if (key := key_of(picture.located.name)) is not None:
            found.setdefault(key, []).append(picture)
    return found


def _best(place: sidecars.Beside, document: Located, pictures: Iterable[Picture]) -> list[Picture]:
    """Return the pictures of other archives that a place means best: if all are unpacked, then in the same folder."""
    unpacked = _lower(document.unpacked)

    def rank(picture: Picture) -> tuple[bool, ...]:
        located = picture.located
        apart = unpacked.isdisjoint(_lower(located.unpacked))
        return (
            document.contradicts(located),
            apart,
            not document.is_alike(located),
            stem(located.name) != base_name(place.path),
        )

    ranked = [(rank(picture), picture) for picture in pictures if place.named_like(picture.located.name)]
    best = min((found for found, _ in ranked), default=None)
    return [picture for found, picture in ranked if found == best]


def _lower(folders: Iterable[tuple[str, ...]]) -> set[str]:
    return {"/".join(folder).lower() for folder in folders}


def _first(results: Iterable[list[Picture]]) -> list[Picture]:
    return next((found for found in results if found), [])
