"""Apply what the files of an upload say of its pictures: sheets, sidecars and texts (design: media)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Literal
from uuid import UUID

from retllm.db.enums import ItemKind
from retllm.db.session import run_transaction
from retllm.errors import MediaRejected, RetllmError, TooLarge
from retllm.media import records
from retllm.media.ingest import Ingest
from retllm.media.names import base_name
from retllm.media.outcomes import FileOutcome, rejected
from retllm.media.sheets import sidecars
from retllm.media.sheets.applying import SheetCaptions
from retllm.media.sheets.batches import batches
from retllm.media.sheets.lookup import Lookup
from retllm.media.sheets.matching import Located, NamesSeen, Picture
from retllm.media.sheets.reading import is_sheet
from retllm.media.sniffing import FileKind
from retllm.media.texts import read_text

__all__ = ["Applied", "Captioner", "Document", "Located", "NamesSeen"]

# sidecars and texts written in one transaction
_BATCH = 500
_NEVER_TEXTS = (".caption",)
_EMPTY = "It has no caption."


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A file of an upload that may say something of pictures: all kinds but pictures and archives."""

    located: Located
    kind: FileKind
    opened: Callable[[], AbstractContextManager[BinaryIO]]
    """Opens its bytes as a seekable stream; called more than once."""


@dataclass(slots=True)
class Applied:
    """What became of a document.

    Attributes:
        outcomes: one of the document itself, or for a sheet that could be read those of its rows.
        is_sheet: whether the outcomes are those of rows.
        remark: what there is to know about a sheet as a whole.
        refused: how many of its rows were refused; the outcomes name only the first ones of each reason.
    """

    document: Document
    outcomes: list[FileOutcome]
    is_sheet: bool = False
    remark: str | None = None
    refused: int = 0


@dataclass(slots=True)
class _Sorted:
    sheets: list[Document] = field(default_factory=list)
    sidecars: list[tuple[Document, list[Picture]]] = field(default_factory=list)
    texts: list[Document] = field(default_factory=list)


class Captioner:
    """Applies the documents of one upload when all its pictures are in.

    A sheet goes before a sidecar, and a sidecar before what the picture's file says itself.

    Args:
        seen: the pictures of the upload.
        texts: whether rows without a picture become texts; otherwise only those of a sheet that has nothing but texts.
    """

    def __init__(self, ingest: Ingest, seen: NamesSeen, *, texts: bool = False) -> None:
        self._ingest = ingest
        self._seen = seen
        self._texts = texts

    def apply(self, documents: Sequence[Document]) -> Iterator[Applied]:
        """Apply all documents; yield what became of each, sheets first, as soon as it is written.

        Raises:
            NotFound: the collection was deleted.
        """
        may_be_sheets = {d.located.archive for d in documents if d.kind in (FileKind.CSV, FileKind.JSONL)}
        lookup = Lookup(self._ingest.sessions, self._ingest.collection_id, self._seen, may_be_sheets)
        refused: list[Applied] = []
        found = self._sorted(documents, lookup, refused)
        yield from refused
        captions = SheetCaptions(self._ingest, lookup, texts=self._texts)
        for document in found.sheets:
            yield self._sheet(document, captions)
        given = captions.given()
        # the best sidecar of a picture comes first
        found.sidecars.sort(key=lambda each: sidecars.by_rank(each[0].located.name))
        for some in batches(found.sidecars, _BATCH):
            yield from self._sidecars(some, given)
        for texts in batches(found.texts, _BATCH):
            yield from self._add_texts(texts)

    def _sorted(self, documents: Sequence[Document], lookup: Lookup, refused: list[Applied]) -> _Sorted:
        """Tell by its content what each document is; those that are nothing go to ``refused``."""
        found = _Sorted()
        for some in batches(documents, _BATCH):
            beside = lookup.beside([document.located for document in some])
            for document in some:
                try:
                    self._sort(document, beside.get(document.located, []), found)
                except (MediaRejected, TooLarge) as error:
                    refused.append(_refused(document, error))
        return found

    def _sort(self, document: Document, pictures: list[Picture], found: _Sorted) -> None:
        name, kind = document.located.name, document.kind
        if kind is FileKind.CSV:
            found.sheets.append(document)
        elif kind is FileKind.TEXT:
            with document.opened() as stream:
                table = is_sheet(stream, self._ingest.settings)
            if table:
                found.sheets.append(document)
            elif pictures:
                found.sidecars.append((document, pictures))
            elif name.lower().endswith(_NEVER_TEXTS):
                raise MediaRejected(_no_picture(name))
            else:
                found.texts.append(document)
        elif pictures and (kind is FileKind.XMP or self._is_object(document)):
            found.sidecars.append((document, pictures))
        elif kind is FileKind.XMP:
            raise MediaRejected(_no_picture(name))
        else:
            found.sheets.append(document)

    @staticmethod
    def _is_object(document: Document) -> bool:
        with document.opened() as stream:
            return sidecars.read_object(stream) is not None

    def _sheet(self, document: Document, captions: SheetCaptions) -> Applied:
        try:
            with document.opened() as stream:
                result = captions.apply(document.located, stream, document.kind)
        except (MediaRejected, TooLarge) as error:
            return _refused(document, error)
        return Applied(document, result.outcomes, True, " ".join(result.remarks) or None, result.refused)

    def _sidecars(self, some: Iterable[tuple[Document, list[Picture]]], given: dict[UUID, str]) -> Iterator[Applied]:
        """Write the captions of sidecars, except for pictures that a sheet or a better sidecar already ``given``."""
        texts: dict[UUID, str] = {}
        waiting: list[tuple[Document, list[UUID], str | None]] = []
        for document, pictures in some:
            ids = [picture.item_id for picture in pictures if picture.item_id is not None]
            try:
                if not ids:
                    shown = base_name(pictures[0].located.name)
                    raise MediaRejected(f"The picture {shown!r} beside it was rejected: upload both again.")
                text = self._caption(document, pictures)
            except (MediaRejected, TooLarge) as error:
                yield _refused(document, error)
                continue
            free = [item_id for item_id in ids if item_id not in given]
            remark = None if free and text else _not_used(text, [given[i] for i in ids if i in given])
            for item_id in free if text else ():
                texts[item_id] = text or ""
                given[item_id] = document.located.name
            waiting.append((document, ids, remark))
        changes = run_transaction(self._ingest.sessions, lambda session: records.set_captions(session, texts))
        for document, ids, remark in waiting:
            yield Applied(document, [_of_sidecar(document, ids, remark, changes)])

    def _caption(self, document: Document, pictures: Sequence[Picture]) -> str | None:
        names = [picture.located.name for picture in pictures]
        with document.opened() as stream:
            return sidecars.caption(stream, document.kind, names, self._ingest.settings)

    def _add_texts(self, documents: Sequence[Document]) -> Iterator[Applied]:
        read: list[tuple[Document, str]] = []
        for document in documents:
            try:
                with document.opened() as stream:
                    read.append((document, read_text(stream, self._ingest.settings)))
            except (MediaRejected, TooLarge) as error:
                yield _refused(document, error)
        outcomes = self._ingest.add_texts((text, document.located.name) for document, text in read)
        for (document, _), outcome in zip(read, outcomes, strict=True):
            yield Applied(document, [outcome])


def _refused(document: Document, error: RetllmError) -> Applied:
    return Applied(document, [rejected(document.located.name, error)])


def _no_picture(name: str) -> str:
    return f"The file has the caption of a picture, but none with the name of {base_name(name)!r} is beside it: add it."


def _not_used(text: str | None, given_by: Sequence[str]) -> str:
    if not text:
        return _EMPTY
    return f"Not used: {given_by[0]!r} has the caption."


def _of_sidecar(
    document: Document, ids: Sequence[UUID], remark: str | None, changes: Mapping[UUID, bool]
) -> FileOutcome:
    name = document.located.name
    if remark is None and not any(item_id in changes for item_id in ids):
        return rejected(name, MediaRejected("The picture beside it was deleted during the upload."))
    changed = remark is None and any(changes.get(item_id) for item_id in ids)
    status: Literal["updated", "duplicate"] = "updated" if changed else "duplicate"
    kind = ItemKind.BOTH if remark != _EMPTY else None
    return FileOutcome(name=name, status=status, item_id=ids[0], kind=kind, remark=remark)
