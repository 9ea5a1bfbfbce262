"""Files of an upload that may say something of pictures, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.session import Sessions, run_transaction
from retllm.media import records
from retllm.media.outcomes import FileOutcome
from retllm.media.records import Came, rank_of
from retllm.media.sheets.earlier import EarlierRows
from retllm.media.sheets.located import Located, Picture
from retllm.media.sniffing import FileKind


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A file of an upload that may say something of pictures: all kinds but pictures and archives."""

    located: Located
    kind: FileKind
    opened: Callable[[], AbstractContextManager[BinaryIO]]
    """Opens its bytes as a seekable stream; called more than once."""
    came: Came | None = None
    """None if that is not known, and counts as just now."""
    earlier: EarlierRows | None = None
    """Of a sheet that was read before, the rows that are done."""
    again: Mapping[UUID, Came] = field(default_factory=dict)
    """The items that a sidecar of this name and content captioned with other uploads, and when that came, in order."""

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among the documents of the upload, by when they came."""
        return rank_of(self.came)

    def came_for(self, items: Iterable[UUID]) -> Came | None:
        """Return when it came as a sidecar of these items."""
        times = [self.came, *(self.again.get(item_id) for item_id in items)]
        return min(filter(None, times), key=lambda each: each.file_id, default=None)

    def rank_for(self, items: Collection[UUID], captioned: Set[UUID]) -> tuple[int, int]:
        """Return its place among the documents of the upload as a sidecar of these items.

        It is as old as that of the first picture of its name if no file ``captioned`` these items: the picture was
        edited, or deleted and comes again, and what was said of it before is all new to it.
        """
        first = next(iter(self.again.values()), None)
        return rank_of(first if first and captioned.isdisjoint(items) else self.came_for(items))


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


Writing = Callable[[Session], list[Applied]]
"""Writes what some documents say in the transaction of a session; may be called again if that is repeated."""


def ranks_of(sessions: Sessions, sidecars: Iterable[tuple[Document, list[Picture]]]) -> dict[Document, tuple[int, int]]:
    """Return the places of sidecars of these pictures among the documents of the upload."""
    items = {document: [item for picture in pictures for item in picture.items] for document, pictures in sidecars}
    again = {item for document, ids in items.items() if document.again for item in ids}
    captioned = run_transaction(sessions, lambda session: records.captioned(session, again)) if again else set()
    return {document: document.rank_for(ids, captioned) for document, ids in items.items()}


def nearest_sidecars(found: list[tuple[Document, list[Picture]]]) -> list[tuple[Document, list[Picture]]]:
    """Return sidecars with their pictures, without those in other archives that have a sidecar in their own."""
    near = {picture for document, pictures in found for picture in pictures if picture.is_near(document.located)}
    return [
        (document, [each for each in pictures if each not in near or each.is_near(document.located)] or pictures)
        for document, pictures in found
    ]
