"""Files of an upload that may say something of pictures, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO
from uuid import UUID

from sqlalchemy.orm import Session

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
    """The items that a sidecar of this name and content captioned with other uploads, and when that came."""

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among the documents of the upload, by when they came."""
        return rank_of(self.came)

    def came_for(self, items: Iterable[UUID]) -> Came | None:
        """Return when it came as a sidecar of these items."""
        times = [self.came, *(self.again.get(item_id) for item_id in items)]
        return min(filter(None, times), key=lambda each: each.file_id, default=None)


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


def nearest_sidecars(found: list[tuple[Document, list[Picture]]]) -> list[tuple[Document, list[Picture]]]:
    """Return sidecars with their pictures, without those in other archives that have a sidecar in their own."""
    near = {picture for document, pictures in found for picture in pictures if picture.is_near(document.located)}
    return [
        (document, [each for each in pictures if each not in near or each.is_near(document.located)] or pictures)
        for document, pictures in found
    ]
