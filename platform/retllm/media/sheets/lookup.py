"""Look up the pictures that rows and sidecars mean: first those of the upload, then those of the collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.session import Sessions, run_transaction
from retllm.media.names import base_name, codes
from retllm.media.sheets import sidecars, targets
from retllm.media.sheets.absent import archive_for, named_archive
from retllm.media.sheets.located import Located, Picture
from retllm.media.sheets.matching import Found, find, further_key, path_stem
from retllm.media.sheets.neighbours import Names, Neighbours, Ranked, is_left, nearest, told_apart
from retllm.media.sheets.references import Reference, keys, names_a_picture, reference, stem
from retllm.media.sheets.rows import Problem
from retllm.media.sheets.seen import Named, NamesSeen
from retllm.media.sheets.targets import Target
from retllm.media.stems import pictures_with_stems, rejected_with_stems, wholes_with_stems

_SHOWN = 3


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
        coming = _found(one, keys(one), sheet, self._seen.awaited)
        awaited, folders = coming.pictures, one.parts[:-1]
        unsent = archive_for(sheet, filter(None, [self._seen.unsent_archive]), folders)
        named = named_archive(one, (*filter(None, [unsent]), *self._seen.awaited_archives))
        # a rejected picture may be on its way again
        was_rejected = all(picture.rejection for picture in found.pictures)
        may_come = (awaited and (was_rejected or coming.goes_before(found))) or (found.guessed and named)
        if found.pictures and not may_come:
            return targets.target(name, found, sheet)
        shown = targets.shown_name(name)
        if unsent is not None and named in (None, unsent):
            return targets.in_unsent_archive(shown, unsent)
        if awaited:
            return targets.awaited(shown)
        archive = named or archive_for(sheet, self._seen.awaited_archives, folders)
        if archive is not None:
            return targets.in_awaited_archive(shown, archive)
        return targets.nothing(shown, sheet, found.elsewhere)

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
        """Return the pictures that references in files mean, by these and with their keys."""
        unsent = self._seen.unsent
        found = {one: _found(one[0], stems, one[1], self._seen.pictures, unsent) for one, stems in wanted.items()}
        missing = [
            one
            for one, result in found.items()
            if not (_have_come(result) and result.is_certain) or _looks(one, result)
        ]
        if missing:
            earlier = Named.of(self._earlier({key for one in missing for key in wanted[one]}))
            for one in missing:
                result = _found(one[0], wanted[one], one[1], earlier, unsent)
                if result == Found():
                    continue
                is_better = not found[one].is_certain and result.is_certain
                if not _have_come(found[one]) or is_better or result.goes_before(found[one]):
                    found[one] = replace(result, elsewhere=found[one].elsewhere + result.elsewhere)
        if missing := [one for one in missing if not found[one].pictures or _looks(one, found[one])]:
            rejected = Named.of(self._rejected({key for one in missing for key in wanted[one]}))
            for one in missing:
                result = _found(one[0], wanted[one], one[1], rejected)
                is_only = not found[one].pictures and result.is_certain
                if is_only or result.goes_before(found[one]):
                    found[one] = result
        return found

    def _earlier(self, stems: Iterable[str], keys: Iterable[str] = ()) -> list[Picture]:
        """Return the pictures of the collection with these stems, or whose keys in WebDataset have these last parts."""

        def read(session: Session) -> list[Picture]:
            pictures = pictures_with_stems(session, self._collection_id, stems, keys)
            wholes = wholes_with_stems(session, self._collection_id, stems)
            return [
                *(Picture(_earlier(name, outer, end), item_id, earlier=True) for name, item_id, outer, end in pictures),
                *(Picture(_earlier(name, outer, end), parts[0], True, parts) for name, outer, end, parts in wholes),
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
            return rejected_with_stems(session, self._collection_id, stems)

        return [
            Picture(Located(name, outer=outer), None, earlier=True, rejection=error or "")
            for name, outer, error in run_transaction(self._sessions, read)
            if names_a_picture(name)
        ]

    def beside(self, documents: Sequence[Located]) -> dict[Located, Neighbours]:
        """Return the pictures that each file may be a sidecar of."""
        named = {document: Names.of(document) for document in documents}
        found = {document: self._here(one) for document, one in named.items()}
        missing = [document for document, one in found.items() if is_left(named[document], one)]
        if missing:
            bases = {base for document in missing for base in named[document].ends}
            index = _Earlier(self._earlier(bases | {base.lower() for base in bases}, bases))
            for document in missing:
                neighbours, places = index.beside(named[document]), named[document].places[document]
                if not any(neighbours):
                    others = [*found[document].elsewhere, *_named_like(places, self._seen.pictures)]
                    others += _named_like(places, index.named)
                    neighbours = Neighbours([], elsewhere=others)
                if neighbours.goes_before(found[document]) or not found[document].fitting:
                    found[document] = neighbours
        if missing := [document for document in missing if is_left(named[document], found[document])]:
            rejected = _Earlier(self._rejected(bases | {base.lower() for base in bases}))
            for document in missing:
                neighbours = rejected.beside(named[document])
                if neighbours.meant and neighbours.goes_before(found[document]):
                    found[document] = neighbours
        lost = [
            (document, shown) for document, one in found.items() if not any(one) and (shown := document.without_code)
        ]
        alike = self.beside([shown for _, shown in lost]) if lost else {}
        return found | {document: Neighbours([], elsewhere=alike[shown].fitting) for document, shown in lost}

    def _here(self, named: Names) -> Neighbours:
        found = nearest([self._beside(one, places) for one, places in named.places.items()], named.very)
        return _of_export(found, named.document, named.all_places, self._everywhere)

    def _beside(self, document: Located, places: Sequence[sidecars.Beside]) -> Ranked:
        found = _first(self._in_archive(place, document.archive) for place in places)
        if not found and (path := sidecars.cut_path(document.name)):
            begun = self._seen.beginning(path, document.archive)
            found = begun if len(begun) == 1 else []
        if not found and any(of_key := _of_key(self._seen.with_keys(document.archive), places, document)):
            return (0,), of_key
        if found:
            return (0,), told_apart(found)
        distance, found = self._elsewhere(document, places)
        if not found:
            return (2,), _alone(_parallel(places, document, self._seen.pictures))
        if any(document.contradicts(picture.located) for picture in found):
            return (2,), Neighbours([], elsewhere=found)
        is_one = len({picture.item_id for picture in found}) <= 1
        return (1, *distance), Neighbours(found) if is_one else Neighbours([], found)

    def _elsewhere(
        self, document: Located, places: Sequence[sidecars.Beside]
    ) -> tuple[tuple[bool, ...], list[Picture]]:
        """Return the pictures outside of a sidecar's archive that it may mean, all equally well, and how far they are.

        A large export is split over archives without regard to what belongs together.
        """
        best = (_best(place, document, self._outside(place, document)) for place in places)
        return next((each for each in best if each[1]), ((), []))

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

    def beside(self, named: Names) -> Neighbours:
        """Return the pictures that a document may be a sidecar of."""
        return nearest([self._beside(one, places) for one, places in named.places.items()], named.very)

    def _beside(self, document: Located, places: Sequence[sidecars.Beside]) -> Ranked:
        of_name = _first(_fitting(place, lambda path: self._by_path.get(path.lower(), ())) for place in places)
        distance, closest = _closest(document, of_name)
        neighbours = told_apart(closest)
        neighbours = _of_export(neighbours, document, places, lambda path, _: self._by_path.get(path.lower(), ()))
        if any(neighbours):
            return (0, distance), neighbours
        if any(of_key := _of_key(self._by_key, places, document)):
            return (1,), of_key
        return (2,), _alone(_parallel(places, document, self.named))


def _earlier(name: str, outer: str, raw_end: str | None) -> Located:
    return Located(name, outer=outer, coded=tuple(codes(name, raw_end).values()))


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


def _looks(one: tuple[Reference, Located], found: Found) -> bool:
    """Return whether another picture may have the very name of a reference that those found only look like."""
    return bool(one[0].coded) and not found.very


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
    return told_apart(found) if len(places) == 1 else Neighbours([], elsewhere=found)


def _of_key(by_key: Mapping[str, list[Picture]], places: Iterable[sidecars.Beside], document: Located) -> Neighbours:
    """Return the pictures whose key in WebDataset is the name of a sidecar: a.input.jpg for a.txt."""
    _, found = _closest(document, _first(by_key.get(place.path, []) for place in places if place.suffix is None))
    return Neighbours(found) if len({p.item_id for p in found}) == 1 else Neighbours([], found)


def _closest(document: Located, pictures: list[Picture]) -> tuple[int, list[Picture]]:
    """Return those of earlier pictures whose archive is named like that of a sidecar, all if there are none; ranked."""
    pictures = [each for each in pictures if not document.contradicts(each.located)]
    same = [each for each in pictures if base_name(each.located.outer) == base_name(document.outer)]
    alike = [each for each in pictures if document.is_alike(each.located)]
    return next(((at, some) for at, some in enumerate((same, alike)) if some), (2, pictures))


def _by(pictures: Iterable[Picture], key_of: Callable[[str], str | None]) -> dict[str, list[Picture]]:
    """Return pictures by what a function returns for their names, without those for which that is None."""
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        if (key := key_of(picture.located.name)) is not None:
            found.setdefault(key, []).append(picture)
    return found


def _best(
    place: sidecars.Beside, document: Located, pictures: Iterable[Picture]
) -> tuple[tuple[bool, ...], list[Picture]]:
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
    best = min((found for found, _ in ranked), default=())
    return best, [picture for found, picture in ranked if found == best]


def _lower(folders: Iterable[tuple[str, ...]]) -> set[str]:
    return {"/".join(folder).lower() for folder in folders}


def _first(results: Iterable[list[Picture]]) -> list[Picture]:
    return next((found for found in results if found), [])
