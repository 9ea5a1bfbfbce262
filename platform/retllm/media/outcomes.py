"""Outcomes of uploaded files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from retllm.db.enums import ItemKind
from retllm.errors import RetllmError


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """An uploaded file. ``stream`` must be seekable (a temporary file, an upload's stream); it stays open."""

    name: str
    stream: BinaryIO


class FileError(BaseModel):
    """Why a file or a row of captions was rejected."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str


class FileOutcome(BaseModel):
    """The outcome of one file or one row of captions.

    ``added``: a new item. ``duplicate``: the collection already has it, nothing changed. ``updated``: an item has a
    new caption. ``rejected``: not added, for the reason in ``error``. ``not_sent``: announced, and did not come, or
    not whole; of a row or sidecar: its picture did not. ``unprocessed``: its upload was cancelled before. ``ignored``:
    nothing that anybody means to upload, such as previews and indexes that programs put into folders, or a caption that
    is not used since another one counts, or a row or text that is empty; ``remark`` says what.
    ``read``: a sheet, an archive or a file of several pictures; its rows, entries or parts have outcomes of their own.

    Attributes:
        further_item_ids: the other items that got the same caption; not in answers.
        item_name: the name of the item, as far as it is known; a duplicate has that of the item that it is the same as.
        remark: what else there is to know about the file.
        count: how many files or rows the outcome stands for: clutter is listed once for each folder, and the further
            rows of a sheet that are refused for one reason are listed together.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: Literal["added", "duplicate", "updated", "rejected", "unprocessed", "not_sent", "ignored", "read"]
    item_id: UUID | None = None
    further_item_ids: SkipJsonSchema[tuple[UUID, ...]] = Field(default=(), exclude=True)
    item_name: str | None = None
    kind: ItemKind | None = None
    error: FileError | None = None
    remark: str | None = None
    count: int = 1


def place(name: str, within: str | None) -> str | None:
    """Return what people have to know of the place of a file, a row or a page, besides its name; None if nothing.

    The name of a row or a page begins with that of its file.
    """
    file = name.rpartition(", ")[0]
    if within is None or not within.endswith(file) or not file:
        return within
    return within[: -len(file)].removesuffix("/") or None


def rejected(name: str, error: RetllmError, count: int = 1) -> FileOutcome:
    """Return the outcome of ``count`` files or rows that were rejected with ``error``."""
    found = FileError(code=error.code, message=error.message)
    return FileOutcome(name=name, status="rejected", error=found, count=count)


def not_sent(name: str, error: RetllmError, count: int = 1) -> FileOutcome:
    """Return the outcome of ``count`` files that were announced and did not come whole."""
    return rejected(name, error, count).model_copy(update={"status": "not_sent"})


def ignored(name: str, remark: str, count: int = 1) -> FileOutcome:
    """Return the outcome of ``count`` files that were left out, for the reason in ``remark``."""
    return FileOutcome(name=name, status="ignored", remark=remark, count=count)
