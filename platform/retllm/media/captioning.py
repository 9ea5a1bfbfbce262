"""What the files of an upload say of its pictures: sheets, sidecars and texts (design: media)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.errors import MediaRejected, NoText, PictureNotSent, RetllmError, TooLarge
from retllm.media import records
from retllm.media.ingest import CheckedText, Ingest
from retllm.media.outcomes import ignored, not_sent, rejected
from retllm.media.records import Caption, Change
from retllm.media.sheets import refused_files, results, sidecars
from retllm.media.sheets.absent import Absent
from retllm.media.sheets.applying import Given, SheetCaptions, SheetToWrite
from retllm.media.sheets.batches import batches
from retllm.media.sheets.describing import Applied, Document, Writing, nearest_sidecars, ranks_of
from retllm.media.sheets.earlier import EarlierRows
from retllm.media.sheets.held_back import HeldBack
from retllm.media.sheets.located import Located, Picture
from retllm.media.sheets.lookup import Lookup
from retllm.media.sheets.matching import path_stem
from retllm.media.sheets.neighbours import Neighbours
from retllm.media.sheets.reading import captioned, is_sheet
from retllm.media.sheets.references import is_url, reference
from retllm.media.sheets.seen import NamesSeen
from retllm.media.sheets.writing import write_sheets
from retllm.media.sniffing import FileKind
from retllm.media.texts import read_text, without_words

__all__ = ["Applied", "Captioner", "Document", "EarlierRows", "Given", "Located", "NamesSeen", "Writing"]

# sidecars and texts written in one statement
_BATCH = 500
# by which a text is told from a list of captions
_LINES = 100
_NEVER_TEXTS = (".caption",)


@dataclass(frozen=True, slots=True)
class _Naming:
    """JSON that may be the sidecar of the pictures beside it, and names one picture, which may be another."""

    document: Document
    neighbours: Neighbours
    file: str
    named: bool
    """Whether its name has that of a picture; else it has the caption itself, and not in a row."""


@dataclass(slots=True)
class _Sorted:
    sheets: list[Document] = field(default_factory=list)
    sidecars: list[tuple[Document, list[Picture]]] = field(default_factory=list)
    titled: list[tuple[Document, list[Picture]]] = field(default_factory=list)
    """Sidecars whose names fit no picture, with those that their titles name."""
    texts: list[Document] = field(default_factory=list)
    others: list[Applied] = field(default_factory=list)
    """What became of documents that are nothing of these."""
    undecided: list[_Naming] = field(default_factory=list)


class Captioner:
    """Reads the documents of one upload when all its pictures are in.

    Nothing is written meanwhile: a large sheet is read without a lock, and one transaction writes all or nothing.
    A sheet goes before a sidecar, and a sidecar before what the picture's file says itself.

    Args:
        seen: the pictures of the upload.
        given: the captions that other files of the upload gave when they were read before; what is read now is added.
        absent: the files that did not come with the upload, and those that others are still bringing.
        texts: whether rows without a picture become texts; otherwise only those of a sheet that has nothing but texts.
        check: called often while a sheet is read; what it raises ends the reading.
    """

    def __init__(
        self,
        ingest: Ingest,
        seen: NamesSeen,
        given: dict[UUID, Given] | None = None,
        absent: Absent | None = None,
        *,
        texts: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._ingest = ingest
        self._seen = seen
        self._given = {} if given is None else given
        self._absent = absent or Absent()
        self._texts = texts
        self._check = check

    def read(self, documents: Sequence[Document]) -> Iterator[Writing]:
        """Read all documents; yield what writes them, to be called in this order."""
        lookup = Lookup(self._ingest.sessions, self._ingest.collection_id, self._seen)
        found = self._sorted(documents, lookup)
        yield lambda _: found.others
        held_back = HeldBack(self._seen.awaited, self._absent)
        captions = SheetCaptions(self._ingest, lookup, self._given, held_back, texts=self._texts, check=self._check)
        # in the order of their names, since files arrive in any order
        found.sheets.sort(key=lambda document: (document.rank, document.located.path))
        sheets = [self._sheet(document, captions) for document in found.sheets]
        captions.settle()
        found.sidecars = nearest_sidecars(found.sidecars)
        ranks = ranks_of(self._ingest.sessions, found.sidecars)
        # what is said of a part comes before what is said of the whole file, and the best sidecar of each first
        found.sidecars.sort(
            key=lambda each: (
                ranks[each[0]],
                any(picture.parts for picture in each[1]),
                sidecars.by_rank(each[0].located.name),
                each[0].located.path,
            )
        )
        # what is new is written first, by which what came before is told to be older
        written, of_sheets = 0, [document.rank for document in found.sheets]
        for rank, group in groupby(found.sidecars, key=lambda each: ranks[each[0]]):
            due = bisect_right(of_sheets, rank)
            yield from self._writings(sheets[written:due])
            written = due
            for some in batches(group, _BATCH):
                yield self._sidecars(some, rank, captions.given)
        yield from self._writings(sheets[written:])
        for texts in batches(found.texts, _BATCH):
            yield self._texts_of(texts)

    def _sorted(self, documents: Sequence[Document], lookup: Lookup) -> _Sorted:
        """Tell by its content what each document is."""
        found = _Sorted()
        for some in batches(documents, _BATCH):
            beside = lookup.beside([document.located for document in some])
            for document in some:
                try:
                    if pictures := self._titled(document, beside[document.located], lookup):
                        found.titled.append((document, pictures))
                    else:
                        self._sort(document, beside[document.located], found)
                except (MediaRejected, TooLarge) as error:
                    found.others.append(_refused(document, error))
            self._decide(found, lookup)
        claims = Counter(picture for _, pictures in found.sidecars + found.titled for picture in pictures)
        for document, pictures in found.titled:
            if any(claims[picture] > 1 for picture in pictures):
                found.others.append(_refused(document, MediaRejected(refused_files.no_picture(document.located.name))))
            else:
                found.sidecars.append((document, pictures))
        return found

    def _titled(self, document: Document, neighbours: Neighbours, lookup: Lookup) -> list[Picture]:
        """Return the pictures beside Google Takeout's record that its title names, if its own name fits none."""
        located = document.located
        if any(neighbours) or document.kind is not FileKind.JSONL:
            return []
        if self._absent.picture(located) or self._absent.archive(located):
            return []
        with document.opened() as stream:
            path = sidecars.titled(located.name, sidecars.read_object(stream) or {})
        if path is None or all(p.located.name != path for p in self._seen.beside(path_stem(path), located.archive)):
            return []
        of_title = replace(located, name=f"{path}.json", coded=())
        return [picture for picture in lookup.beside([of_title])[of_title].meant if picture.items]

    def _decide(self, found: _Sorted, lookup: Lookup) -> None:
        """Tell which of the undecided documents are sidecars: those that mean the picture beside them, or none."""
        meant = lookup.named((each.file, each.document.located) for each in found.undecided)
        for naming in found.undecided:
            document, neighbours = naming.document, naming.neighbours
            others = meant[naming.file, document.located]
            if not naming.named:
                others = others - {item_id for picture in neighbours.meant for item_id in picture.items}
            if others:
                found.sheets.append(document)
                continue
            try:
                self._add_sidecar(document, neighbours, found)
            except MediaRejected as error:
                found.others.append(_refused(document, error))
        found.undecided.clear()

    def _sort(self, document: Document, neighbours: Neighbours, found: _Sorted) -> None:
        if document.kind is FileKind.TEXT:
            self._sort_text(document, neighbours, found)
        elif document.kind is FileKind.XMP:
            self._add_sidecar(document, neighbours, found)
        elif document.kind is FileKind.JSONL:
            self._sort_json(document, neighbours, found)
        else:
            found.sheets.append(document)

    def _sort_json(self, document: Document, neighbours: Neighbours, found: _Sorted) -> None:
        is_sidecar = self._is_sidecar(document, neighbours)
        if isinstance(is_sidecar, _Naming):
            found.undecided.append(is_sidecar)
        elif is_sidecar:
            self._add_sidecar(document, neighbours, found)
        elif self._is_of_album(document):
            album = ignored(document.located.name, "Left out: record of an album by Google Photos.")
            found.others.append(Applied(document, [album]))
        else:
            found.sheets.append(document)

    def _add_sidecar(self, document: Document, neighbours: Neighbours, found: _Sorted) -> None:
        name = document.located.name
        if neighbours.alike:
            raise MediaRejected(refused_files.shared(name, neighbours.alike))
        if (reason := self._why_absent(document.located, neighbours)) is not None:
            raise reason
        if not neighbours.meant:
            raise self._absent.archive(document.located) or MediaRejected(refused_files.no_picture(name))
        found.sidecars.append((document, neighbours.meant))

    def _why_absent(self, located: Located, neighbours: Neighbours, *, is_text: bool = False) -> MediaRejected | None:
        """Return why the picture of a sidecar is absent, if there is none here, or only one that looks like it."""
        is_here = bool(neighbours.meant) and not neighbours.meant[0].rejection
        if is_here and neighbours.very:
            return None
        return self._absent.picture(located, is_text=is_text, very=is_here)

    def _sort_text(self, document: Document, neighbours: Neighbours, found: _Sorted) -> None:
        name = document.located.name
        pictures, sharing, elsewhere, _ = neighbours
        with document.opened() as stream:
            table = is_sheet(stream, self._ingest.settings)
        if table:
            found.sheets.append(document)
        elif sharing:
            raise MediaRejected(refused_files.shared(name, sharing))
        elif (reason := self._why_absent(document.located, neighbours, is_text=True)) is not None:
            raise reason
        elif pictures and not (pictures[0].rejection and self._texts):
            found.sidecars.append((document, pictures))
        elif name.lower().endswith(_NEVER_TEXTS):
            raise self._absent.archive(document.located) or MediaRejected(refused_files.no_picture(name))
        elif not self._texts and (reason := self._absent.archive(document.located, is_text=True)) is not None:
            raise reason
        elif elsewhere and not self._texts:
            raise MediaRejected(refused_files.in_other_folder(name, elsewhere[0].located.name))
        else:
            found.texts.append(document)

    @staticmethod
    def _is_of_album(document: Document) -> bool:
        with document.opened() as stream:
            return sidecars.is_of_album(stream)

    def _is_sidecar(self, document: Document, neighbours: Neighbours) -> bool | _Naming:
        """Return whether JSON says something of one picture: it is an object, and no sheet that is named like one."""
        named = sidecars.is_of_one(document.located.name)
        if not (named or neighbours.meant or neighbours.alike or self._may_come(document)):
            with document.opened() as stream:
                return sidecars.is_record(document.located.name, stream)
        with document.opened() as stream:
            fields = sidecars.read_object(stream)
            if fields is None:
                return False
            files = captioned(stream, document.kind, self._ingest.settings)
        if len(files) != 1:
            return not files
        (file,) = files
        has_caption = sidecars.has_caption(fields)
        if has_caption != named:
            # where a picture was taken from does not say its name: in img2dataset each has a number
            is_told = has_caption and bool(neighbours.meant) and is_url(file)
            return is_told or _Naming(document, neighbours, file, named)
        # Google Takeout has the name that the picture had before it was counted
        return has_caption

    def _may_come(self, document: Document) -> bool:
        """Return whether the picture that JSON is beside may be absent."""
        located = document.located
        absent = self._absent.picture(located) or (None if self._texts else self._absent.archive(located))
        return absent is not None and not self._is_of_album(document)

    def _sheet(self, document: Document, captions: SheetCaptions) -> Applied | tuple[Document, SheetToWrite]:
        try:
            with document.opened() as stream:
                sheet = captions.read(document.located, stream, document.kind, document.came, document.earlier)
        except (MediaRejected, TooLarge) as error:
            return _refused(document, error)
        return document, sheet

    def _writings(self, sheets: Iterable[Applied | tuple[Document, SheetToWrite]]) -> Iterator[Writing]:
        return (partial(self._write_sheets, some) for some in batches(sheets, _BATCH))

    def _write_sheets(
        self, sheets: Sequence[Applied | tuple[Document, SheetToWrite]], session: Session
    ) -> list[Applied]:
        refused = [each for each in sheets if isinstance(each, Applied)]
        read = [each for each in sheets if not isinstance(each, Applied)]
        results = write_sheets(session, (sheet for _, sheet in read))
        return refused + [
            Applied(document, result.outcomes, True, " ".join(result.remarks) or None, result.refused)
            for (document, _), result in zip(read, results, strict=True)
        ]

    def _sidecars(
        self, some: Iterable[tuple[Document, list[Picture]]], rank: tuple[int, int], given: dict[UUID, Given]
    ) -> Writing:
        """Read the captions of sidecars, except for pictures that a sheet or a better sidecar already ``given``."""
        captions: dict[UUID, Caption] = {}
        unwritten: list[Applied] = []
        written: list[tuple[Document, list[UUID], str | None]] = []
        for document, pictures in some:
            try:
                ids, text, remark = self._read(document, pictures)
            except (MediaRejected, TooLarge) as error:
                unwritten.append(_refused(document, error))
                continue
            free = [item_id for item_id in ids if item_id not in given or given[item_id].rank > rank]
            if text is None:
                unwritten.append(Applied(document, [ignored(document.located.name, "It has no caption.")]))
            elif not free:
                others = [given[item_id].by for item_id in ids if given[item_id].text != text]
                unwritten.append(Applied(document, [results.unused(document.located.name, ids[0], others)]))
            else:
                captions |= dict.fromkeys(free, Caption(text, document.came_for(ids)))
                given |= dict.fromkeys(free, Given(document.located.name, text, rank))
                written.append((document, free, remark))

        def write(session: Session) -> list[Applied]:
            changes = records.set_captions(session, captions)
            return unwritten + [
                _changed(document, {item_id: changes[item_id] for item_id in ids if item_id in changes}, remark)
                for document, ids, remark in written
            ]

        return write

    def _read(self, document: Document, pictures: Sequence[Picture]) -> tuple[list[UUID], str | None, str | None]:
        """Return the items of a sidecar's pictures, its caption, and a remark."""
        ids = [item_id for picture in pictures for item_id in picture.items]
        names = [picture.located.name for picture in pictures]
        if not ids:
            raise MediaRejected(refused_files.rejected(document.located.name, pictures[0]))
        with document.opened() as stream:
            return ids, *sidecars.caption(stream, document.kind, names, self._ingest.settings)

    def _texts_of(self, documents: Sequence[Document]) -> Writing:
        refused: list[Applied] = []
        read: list[tuple[Document, CheckedText, str | None]] = []
        for document in documents:
            try:
                with document.opened() as stream:
                    text, remark = read_text(stream, self._ingest.settings)
                if not self._texts:
                    self._check_is_text(text, document.located)
            except (MediaRejected, TooLarge) as error:
                refused.append(_refused(document, error))
            else:
                (checked,) = self._ingest.check_texts([(text, document.located.name)], document.came)
                read.append((document, checked, remark))

        def write(session: Session) -> list[Applied]:
            outcomes = self._ingest.insert_texts(session, [checked for _, checked, _ in read])
            added = [
                Applied(document, [outcome.model_copy(update={"remark": remark})])
                for (document, _, remark), outcome in zip(read, outcomes, strict=True)
            ]
            return refused + added

        return write

    def _check_is_text(self, text: str, located: Located) -> None:
        """Check that a text is one.

        Raises:
            MediaRejected: it says nothing in words, or most of its lines begin with different names of pictures.
        """
        if (reason := without_words(text)) is not None:
            raise MediaRejected(reason)
        words = [line.split()[0].rstrip(":") for line in text.splitlines()[:_LINES] if line.strip()]
        named = [word for word in words if (found := reference(word)) and self._seen.pictures.fitting(found, located)]
        if len(set(named)) > 1 and len(named) * 2 > len(words):
            raise MediaRejected(
                "The lines of the file begin with names of pictures: write these with their suffixes, like "
                '"a.jpg A dog", or send a table with the columns file and caption.'
            )


def _refused(document: Document, error: RetllmError) -> Applied:
    if isinstance(error, NoText):
        return Applied(document, [ignored(document.located.name, error.message)])
    told = not_sent if isinstance(error, PictureNotSent) else rejected
    return Applied(document, [told(document.located.name, error)])


def _changed(document: Document, changes: Mapping[UUID, Change], remark: str | None) -> Applied:
    """Return the outcome of a sidecar of these items, as far as they still exist."""
    if not changes:
        return _refused(document, MediaRejected("The picture beside it was deleted during the upload."))
    return Applied(document, [results.captioned(document.located.name, changes, remark)])
