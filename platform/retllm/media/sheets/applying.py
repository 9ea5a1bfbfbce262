"""Turn the rows of a sheet into captions of pictures, and where they are texts into items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Literal
from uuid import UUID

from retllm.db.enums import ItemKind
from retllm.db.session import run_transaction
from retllm.errors import MediaRejected, RetllmError, TooLarge
from retllm.media import records
from retllm.media.ingest import Ingest
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome, rejected
from retllm.media.sheets import columns
from retllm.media.sheets.batches import batches
from retllm.media.sheets.jsons import MAX_ROWS
from retllm.media.sheets.lookup import Lookup, Target
from retllm.media.sheets.matching import Located, may_be_one
from retllm.media.sheets.reading import read_rows
from retllm.media.sheets.references import Reference, reference
from retllm.media.sheets.refusals import Refusals
from retllm.media.sheets.rows import Problem, Reason, Row, Sheet, problem
from retllm.media.sniffing import FileKind
from retllm.media.texts import clean_text

# rows whose pictures are looked up in one transaction, and captions that are written in one
_LOOKED_UP = 5000
_WRITTEN = 500


@dataclass(slots=True)
class SheetResult:
    """What became of the rows of a sheet; ``outcomes`` names the first refused rows of each reason."""

    outcomes: list[FileOutcome]
    remarks: list[str]
    refused: int


@dataclass(slots=True)
class _Captions:
    """The captions that one sheet gives one picture."""

    rows: list[int]
    name: str
    reference: Reference
    whole: bool
    remark: str | None
    texts: dict[str, None] = field(default_factory=dict)
    mixed_up_with: str | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """The caption that a picture got in this upload, and what gave it: a row of a sheet, or a sidecar."""

    by: str
    text: str


class SheetCaptions:
    """Applies the sheets of one upload. Of two sheets that give a picture different captions, the first one counts.

    Args:
        texts: whether rows without a picture become texts.

    Attributes:
        given: the captions that pictures have got.
    """

    def __init__(self, ingest: Ingest, lookup: Lookup, *, texts: bool) -> None:
        self._ingest = ingest
        self._lookup = lookup
        self._texts = texts
        self.given: dict[UUID, Given] = {}

    def apply(self, located: Located, stream: BinaryIO, kind: FileKind) -> SheetResult:
        """Apply every row of a sheet. Rows for the same picture become one caption, one line for each.

        Raises:
            MediaRejected: the file is no sheet, or has no rows.
            TooLarge: it is too large.
            NotFound: the collection was deleted.
        """
        end: RetllmError | None = None
        with read_rows(stream, kind, self._ingest.settings) as sheet:
            run = _Run(self._ingest, self._lookup, located, as_texts=self._texts or sheet.is_texts)
            try:
                for rows in batches(_checked(sheet, run.as_texts), _LOOKED_UP):
                    run.take(rows)
            except (MediaRejected, TooLarge) as error:
                end = error
        run.write(self.given)
        outcomes = run.outcomes()
        if end is None and not outcomes:
            raise MediaRejected("The file contains no captions.")
        if end is not None:
            if not outcomes:
                raise end
            outcomes.append(rejected(located.name, end))
        return SheetResult(outcomes, sheet.remarks, run.refusals.total)


def _checked(sheet: Sheet, as_texts: bool) -> Iterator[Row]:
    """Yield the rows of a sheet that says which pictures they are for.

    Raises:
        MediaRejected: it does not, and its rows are not to be texts.
    """
    for row in sheet.rows:
        if not sheet.names_pictures and not as_texts and row.problem is None:
            raise MediaRejected(
                f"The sheet has the columns {columns.listed(sheet.columns)}, and none of them names pictures. "
                f"{columns.UNDERSTOOD}. To add every row as a text of its own, upload the sheet with --texts "
                '(texts=true in the API), or name its only column "text".'
            )
        yield row


class _Run:
    """One sheet that is being applied."""

    def __init__(self, ingest: Ingest, lookup: Lookup, located: Located, *, as_texts: bool) -> None:
        self.as_texts = as_texts
        self.refusals = Refusals(located.name)
        self._ingest = ingest
        self._lookup = lookup
        self._located = located
        self._outcomes: list[tuple[int, FileOutcome]] = []
        self._captions: dict[UUID, _Captions] = {}
        self._kept = 0

    def outcomes(self) -> list[FileOutcome]:
        """Return the outcomes in the order of the rows, then those for further refused rows."""
        self._outcomes.sort(key=lambda each: each[0])
        return [outcome for _, outcome in self._outcomes] + self.refusals.rest()

    def _refuse(self, number: int, found: Problem) -> None:
        if (outcome := self.refusals.take(number, found)) is not None:
            self._outcomes.append((number, outcome))

    def _done(self, number: int, outcome: FileOutcome) -> None:
        self._outcomes.append((number, outcome.model_copy(update={"name": f"{self._located.name}, row {number}"})))

    def take(self, rows: Iterable[Row]) -> None:
        """Look up the pictures of rows, and add the rows that are texts."""
        named: list[tuple[Row, list[str]]] = []
        references: dict[str, Reference] = {}
        texts: list[tuple[Row, str]] = []
        for row in rows:
            cleaned = self._cleaned(row)
            if isinstance(cleaned, Problem):
                self._refuse(row.number, cleaned)
            elif found := reference(row.file):
                references[row.file] = found
                named.append((row, cleaned))
            elif self.as_texts:
                texts.append((row, "\n".join(cleaned)))
            else:
                message = f"Row {row.number} names no picture: name one, or upload the sheet with --texts (texts=true)."
                self._refuse(row.number, problem(Reason.NO_PICTURE, message))
        targets = self._lookup.targets(references, self._located) if references else {}
        for row, captions in named:
            target = targets[row.file]
            if isinstance(target, Problem):
                message = f"Row {row.number} {target.error.message}"
                self._refuse(row.number, problem(target.reason, message))
            else:
                self._keep(row, captions, target, references[row.file])
        added = self._ingest.add_texts((text, row.name) for row, text in texts) if texts else []
        for (row, _), outcome in zip(texts, added, strict=True):
            self._done(row.number, outcome)

    def _cleaned(self, row: Row) -> list[str] | Problem:
        if row.problem is not None:
            return row.problem
        try:
            # without captions the empty text gives the reason
            return [clean_text(text, self._ingest.settings) for text in row.captions or ("",)]
        except (MediaRejected, TooLarge) as error:
            return Problem(Reason.TEXT, type(error)(f"Row {row.number}: {error.message}"))

    def _keep(self, row: Row, captions: list[str], target: Target, named: Reference) -> None:
        self._kept += len(captions)
        if self._kept > MAX_ROWS:
            raise TooLarge(
                f"From row {row.number:,} on the sheet is not read: a sheet may have {MAX_ROWS:,} captions.",
                limit=MAX_ROWS,
            )
        known = self._captions.setdefault(
            target.item_id, _Captions([], clean_name(row.file), named, target.whole, target.remark)
        )
        known.rows.append(row.number)
        known.texts.update(dict.fromkeys(captions))
        if not (known.whole and target.whole) and not may_be_one(known.reference, named):
            known.mixed_up_with = clean_name(row.file)

    def write(self, given: dict[UUID, Given]) -> None:
        """Write the captions; those that an earlier sheet gave are in ``given``, which gets the new ones."""
        for batch in batches(self._captions.items(), _WRITTEN):
            texts = {}
            for item_id, captions in batch:
                text = self._joined(captions)
                if (refused := self._conflict(captions, text, given.get(item_id))) is not None:
                    for number in captions.rows:
                        self._refuse(number, refused(number))
                else:
                    texts[item_id] = text
                    given[item_id] = Given(f"{self._located.name}, row {captions.rows[0]}", text)
            changes = run_transaction(self._ingest.sessions, partial(records.set_captions, captions=texts))
            for item_id in texts:
                self._written(item_id, changes.get(item_id))

    def _joined(self, captions: _Captions) -> str:
        """Return the caption of a picture: as many of its captions as fit, one on each line."""
        limit = self._ingest.settings.max_text_chars
        fitting: list[str] = []
        size = -1
        for text in captions.texts:
            size += 1 + len(text)
            if size > limit:
                captions.remark = (
                    f"It has the first {len(fitting)} of {len(captions.texts)} captions; RETLLM_MAX_TEXT_CHARS allows "
                    f"{limit:,} characters."
                )
                break
            fitting.append(text)
        return "\n".join(fitting)

    @staticmethod
    def _conflict(captions: _Captions, text: str, earlier: Given | None) -> _Refusing | None:
        name, other = captions.name, captions.mixed_up_with
        if other is not None:
            return _Refusing(
                Reason.MIXED_UP,
                f"names a picture like row {captions.rows[0]}; {name!r} and {other!r} would be the same picture of "
                "this collection: upload the pictures with their folders.",
            )
        if earlier is not None and earlier.text != text:
            return _Refusing(
                Reason.SECOND_CAPTION,
                f"gives the picture {name!r} another caption than {earlier.by}: keep one of them.",
            )
        return None

    def _written(self, item_id: UUID, changed: bool | None) -> None:
        captions = self._captions[item_id]
        number = captions.rows[0]
        if changed is None:
            message = f"Row {number} names a picture that was deleted during the upload."
            self._refuse(number, problem(Reason.DELETED, message))
            return
        status: Literal["updated", "duplicate"] = "updated" if changed else "duplicate"
        self._done(
            number,
            FileOutcome(name="", status=status, item_id=item_id, kind=ItemKind.BOTH, remark=captions.remark),
        )


@dataclass(frozen=True, slots=True)
class _Refusing:
    """Why all rows of a picture are refused; the message goes on after the number of a row."""

    reason: Reason
    message: str

    def __call__(self, number: int) -> Problem:
        return problem(self.reason, f"Row {number} {self.message}")
