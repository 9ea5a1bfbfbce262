"""Look up the pictures that rows and sidecars mean: first those of the upload, then those of the collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.session import Sessions, run_transaction
from retllm.media import records
from retllm.media.names import base_name, one_line
from retllm.media.sheets import sidecars
from retllm.media.sheets.matching import Found, Located, Picture, find, further_key, path_stem
from retllm.media.sheets.references import Reference, keys, stem
from retllm.media.sheets.rows import Problem, Reason, problem
from retllm.media.sheets.seen import Named, NamesSeen

_SHOWN = 3
_SHOWN_CHARS = 300


@dataclass(frozen=True, slots=True)
class Target:
    """The item that a row means.

    Attributes:
        whole: whether the row gave the whole path of the picture.
        changed: whether the picture has a suffix of another format than the row says.
    """

    item_id: UUID
    whole: bool
    changed: bool = False
    remark: str | None = None


class Neighbours(NamedTuple):
    """The pictures that a file is a sidecar of; or else several that it fits alike, of which none is meant.

    Attributes:
        elsewhere: if there are none of these, pictures of the collection that have its name in other folders.
    """

    meant: list[Picture]
    alike: Sequence[Picture] = ()
    elsewhere: Sequence[Picture] = ()


class Lookup:
    """Finds the pictures of one upload and of its collection.

    Attributes:
        with_sheets: the archives of this upload that have a sheet of their own; None stands for files without archive.
    """

    def __init__(self, sessions: Sessions, collection_id: UUID, seen: NamesSeen) -> None:
        self._sessions = sessions
        self._collection_id = collection_id
        self._seen = seen
        self.with_sheets: set[UUID | None] = set()
        self._with_pictures = seen.archives()

    def targets(self, references: Mapping[str, Reference], sheet: Located) -> dict[str, Target | Problem]:
        """Return the picture that each reference in ``sheet`` means, by its name, or why there is none."""
        # many addresses are one reference
        found = {one: _found(one, sheet, self._of_upload) for one in references.values()}
        missing = [one for one, result in found.items() if not result.pictures or result.changed]
        if missing:
            earlier = Named()
            for picture in self._earlier({key for one in missing for key in keys(one)}):
                earlier.add(picture)
            for one in missing:
                result = _found(one, sheet, earlier.fitting)
                if not found[one].pictures or (result.pictures and not result.changed):
                    found[one] = replace(result, elsewhere=found[one].elsewhere + result.elsewhere)
        targets = {name: _target(name, found[one]) for name, one in references.items()}
        self._name_parts(references, targets)
        return targets

    def _name_parts(self, references: Mapping[str, Reference], targets: dict[str, Target | Problem]) -> None:
        """Say of references to a whole file of several pictures how its first one is named."""
        absent = {
            name: [base.lower() for base in references[name].bases]
            for name, target in targets.items()
            if isinstance(target, Problem) and target.reason is Reason.NOT_FOUND
        }
        wanted = {base for bases in absent.values() for base in bases}
        if not wanted:
            return
        parts = run_transaction(
            self._sessions, lambda session: records.first_parts(session, self._collection_id, wanted)
        )
        parts |= self._seen.first_parts
        parts |= {name.rpartition(".")[0]: part for name, part in parts.items() if "." in name}
        for name, bases in absent.items():
            part = next((parts[base] for base in bases if base in parts), None)
            if part is not None:
                message = f"names {shown_name(name)!r}, a file of several pictures: name one of them, such as {part!r}."
                targets[name] = problem(Reason.AMBIGUOUS, message)

    def _of_upload(self, reference: Reference, sheet: Located) -> list[Picture]:
        """Return candidates; a sheet beside pictures of its own says nothing of an archive with a sheet of its own."""
        pictures = self._seen.named(reference, sheet)
        if sheet.archive not in self._with_pictures:
            return pictures
        return [p for p in pictures if p.located.archive == sheet.archive or p.located.archive not in self.with_sheets]

    def _earlier(self, stems: Iterable[str], keys: Iterable[str] = ()) -> list[Picture]:
        """Return the pictures of the collection with these stems, or whose keys in WebDataset have these last parts."""

        def read(session: Session) -> list[tuple[str, UUID, str]]:
            return records.pictures_with_stems(session, self._collection_id, stems, keys)

        # where those that came with the upload lie in it was looked at before
        return [
            Picture(Located(name, outer=outer), item_id, earlier=True)
            for name, item_id, outer in run_transaction(self._sessions, read)
            if not self._seen.has(name, item_id)
        ]

    def beside(self, documents: Sequence[Located]) -> dict[Located, Neighbours]:
        """Return the pictures that each file may be a sidecar of."""
        places = {document: sidecars.places(document.name) for document in documents}
        found = {document: self._beside(document, places[document]) for document in documents}
        missing = [
            document for document, (meant, alike, _) in found.items() if places[document] and not (meant or alike)
        ]
        if missing:
            bases = {base_name(place.path) for document in missing for place in places[document]}
            earlier = self._earlier(bases | {base.lower() for base in bases}, bases)
            by_path, by_key = _by(earlier, lambda name: path_stem(name).lower()), _by(earlier, further_key)
            by_stem = _by(earlier, lambda name: stem(name).lower())
            for document in missing:
                of_name = _first(_fitting(place, by_path.get(place.path.lower(), ())) for place in places[document])
                neighbours = _neighbours(_closest(document, of_name))
                if not any(neighbours):
                    neighbours = _of_key(by_key, places[document], document)
                if not any(neighbours):
                    elsewhere = found[document].elsewhere or _of_stem(by_stem, places[document])
                    neighbours = Neighbours([], elsewhere=elsewhere)
                found[document] = neighbours
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
        if any(document.contradicts(picture.located) for picture in found):
            return Neighbours([], elsewhere=found)
        return Neighbours(found) if len({picture.item_id for picture in found}) <= 1 else Neighbours([], found)

    def _elsewhere(self, document: Located, places: Sequence[sidecars.Beside]) -> list[Picture]:
        """Return the pictures outside of a sidecar's archive that it may mean, all equally well.

        A large export is split over archives without regard to what belongs together.
        """
        return _first(_best(place, document, self._seen.outside(place.path, document)) for place in places)

    def _in_archive(self, place: sidecars.Beside, archive: UUID | None) -> list[Picture]:
        return _fitting(place, self._seen.beside(place.path, archive))


def _found(reference: Reference, sheet: Located, candidates: Callable[[Reference, Located], list[Picture]]) -> Found:
    """Return the pictures that a reference means: if there is one of its raw name, that one."""
    if reference.coded is not None:
        raw = replace(reference, parts=reference.coded, decoded=None, coded=None)
        if (found := find(raw, sheet, candidates(raw, sheet))).pictures:
            return found
    return find(reference, sheet, candidates(reference, sheet))


def _fitting(place: sidecars.Beside, pictures: Iterable[Picture]) -> list[Picture]:
    """Return the pictures that a place means; those whose letters are in another case only if there are no others."""
    found = [picture for picture in pictures if place.fits(picture.located.name)]
    return [picture for picture in found if path_stem(picture.located.name) == place.path] or found


def _of_stem(by_stem: Mapping[str, list[Picture]], places: Iterable[sidecars.Beside]) -> list[Picture]:
    """Return the first pictures that have the name of a sidecar in whatever folder."""
    named = (
        picture
        for place in places
        for picture in by_stem.get(base_name(place.path).lower(), ())
        if place.named_like(picture.located.name)
    )
    return list(islice(named, _SHOWN))


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


def _target(name: str, found: Found) -> Target | Problem:
    """Return the picture that was found, or why there is not just one."""
    by_id = {picture.item_id: picture for picture in found.pictures}
    shown = shown_name(name)
    if not by_id:
        return _nothing(shown, found.elsewhere)
    if None in by_id:
        return problem(Reason.REFUSED_PICTURE, f"names the picture {shown!r}, which was rejected: upload it again.")
    ids = [item_id for item_id in by_id if item_id is not None]
    names = sorted({picture.located.name for picture in by_id.values()})
    if len(ids) == 1:
        remark = f"Its sheet names it {shown!r}." if found.changed else None
        return Target(ids[0], found.whole, found.changed, remark)
    if len(names) > 1:
        more = ", ..." if len(names) > _SHOWN else ""
        several = f"{len(ids)} pictures ({', '.join(map(repr, names[:_SHOWN]))}{more})"
        message = f"names the picture {shown!r}, which matches {several}: give its full name with folders."
        return problem(Reason.AMBIGUOUS, message)
    if all(picture.earlier for picture in by_id.values()):
        # no name tells them apart; the keys of items grow with time
        remark = f"{len(ids)} pictures are named {names[0]!r}; the newest has this caption."
        return Target(max(ids), found.whole, found.changed, remark)
    message = (
        f"names the picture {shown!r}, but {len(ids)} pictures of this upload have that name: put the sheet into the "
        "folder or archive of its pictures."
    )
    return problem(Reason.AMBIGUOUS, message)


def shown_name(name: str) -> str:
    """Return a name of a picture as the row has it, safe to show."""
    return one_line(name[:_SHOWN_CHARS])


def _nothing(name: str, elsewhere: Sequence[Picture]) -> Problem:
    if not elsewhere:
        message = f"names the picture {name!r}, which is not in this collection: upload it or correct the name."
        return problem(Reason.NOT_FOUND, message)
    other = elsewhere[0].located.name
    message = (
        f"names the picture {name!r}; the only one of that name is {other!r}, in another folder or archive than "
        "the row and its sheet: give its full name with folders if it is meant."
    )
    return problem(Reason.OTHER_FOLDER, message)
