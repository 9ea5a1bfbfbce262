"""Rows of a sheet, and why one of them can't be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from retllm.errors import MediaRejected, NotSent, RetllmError

NOTHING = frozenset(("nan", "NaN", "NULL", "null", "None", "N/A", "<NA>", "\\N"))
"""What programs write for a field without a value."""


class Reason(StrEnum):
    """The kind of reason why a row is refused or ignored; the value continues "and 7 more rows:"."""

    UNREADABLE = "they can't be read"
    FIELDS = "they have more fields than the header"
    NO_PICTURE = "they name no picture"
    NOT_FOUND = "their pictures are not in this collection"
    NOT_SENT = "their pictures were not sent"
    AWAITED = "another upload may still bring their pictures"
    OTHER_FOLDER = "their pictures lie in other folders"
    AMBIGUOUS = "each matches several pictures"
    REFUSED_PICTURE = "their pictures were rejected"
    MIXED_UP = "several names lead to one picture"
    SECOND_CAPTION = "their pictures have a caption of another sheet of this upload"
    TEXT = "their texts can't be used"
    EMPTY = "they have no caption or text"  # ignored: many catalogues list pictures without one
    DELETED = "their pictures were deleted during the upload"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row is refused; the error is made for those rows only that have an outcome of their own."""

    reason: Reason
    message: str
    kind: type[RetllmError] = MediaRejected

    @property
    def error(self) -> RetllmError:
        """The error of the row's outcome."""
        return self.kind(self.message)


def not_sent(message: str) -> Problem:
    """Return the problem of a row whose picture was to come with the upload and did not."""
    return Problem(Reason.NOT_SENT, message, NotSent)


def problem(reason: Reason, message: str) -> Problem:
    """Return the problem of a row whose content is refused with ``message``."""
    return Problem(reason, message)


@dataclass(frozen=True, slots=True)
class Record:
    """A row as it was read: the values of its fields by the names of their columns, or why there are none.

    ``number`` counts from 1: the lines of a table and of JSON Lines, the elements of a JSON document.
    """

    number: int
    fields: Mapping[str, object] = field(default_factory=dict)
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is used: the name of a picture, empty if the row has none, and its captions.

    ``name`` is that of a text, for a row without a picture. ``facts`` are columns of the item, if its sheet has them.
    """

    number: int
    file: str = ""
    captions: tuple[str, ...] = ()
    problem: Problem | None = None
    name: str | None = None
    facts: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Sheet:
    """A sheet that is being read.

    Attributes:
        rows: the rows; read them before ``remarks``. The iteration raises ``MediaRejected`` or ``TooLarge`` where the
            rest of the sheet can't be read.
        columns: the names of its columns, as far as they are known before the first row.
        names_pictures: whether a column names pictures.
        has_texts: whether its columns say that rows without a picture are texts.
        remarks: what there is to know about the whole sheet, such as columns that are not read.
    """

    rows: Iterator[Row]
    columns: tuple[str, ...]
    names_pictures: bool
    has_texts: bool
    remarks: list[str] = field(default_factory=list)
