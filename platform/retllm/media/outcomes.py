"""What came of each file that was sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from retllm.db.enums import ItemKind
from retllm.errors import RetllmError


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """A file as it was sent. ``stream`` must be seekable (a temporary file, an upload's stream); it stays open."""

    name: str
    stream: BinaryIO


class FileError(BaseModel):
    """Why a file, or a row of captions, was not taken."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str


class FileOutcome(BaseModel):
    """What came of one file, or of one row of captions.

    ``added``: a new item. ``duplicate``: the collection holds it already, nothing changed. ``updated``: an item has
    a new caption. ``rejected``: not taken, ``error`` says why.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: Literal["added", "duplicate", "updated", "rejected"]
    item_id: UUID | None = None
    kind: ItemKind | None = None
    error: FileError | None = None


def rejected(name: str, error: RetllmError) -> FileOutcome:
    """The outcome of a file that ``error`` kept out."""
    return FileOutcome(name=name, status="rejected", error=FileError(code=error.code, message=error.message))
