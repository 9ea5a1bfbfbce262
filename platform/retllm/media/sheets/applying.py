"""Turn the rows of a sheet into captions of pictures, and where they are texts into items.

A sheet is read first, and written later, so that what locks the items takes no longer than it must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.errors import MediaRejected, NoText, RetllmError, TooLarge
from retllm.media import streams
from retllm.media.ingest import CheckedText, Ingest
from retllm.media.names import quoted
from retllm.media.normalization import is_blank
from retllm.media.outcomes import FileOutcome, rejected
from retllm.media.records import NEW, Came, Caption, Change, rank_of
from retllm.media.sheets import columns, results
from retllm.media.sheets.batches import batches
from retllm.media.sheets.earlier import EarlierRows
from retllm.media.sheets.held_back import HeldBack
from retllm.media.sheets.item_facts import write_facts
from retllm.media.sheets.jsons import MAX_ROWS
from retllm.media.sheets.located import Located
from retllm.media.sheets.lookup import Lookup
from retllm.media.sheets.matching import may_be_one
from retllm.media.sheets.reading import read_rows
from retllm.media.sheets.references import Reference, reference
from retllm.media.sheets.refusals import Refusals, Refusing, not_it
from retllm.media.sheets.rows import Problem, Reason, Row, Sheet, problem
from retllm.media.sheets.targets import Target, shown_name
from retllm.media.sniffing import FileKind
from retllm.media.texts import clean_text

# rows whose pictures are looked up in one transaction
_LOOKED_UP = 5000


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
    target: Target
    remark: str | None
    texts: dict[str, None] = field(default_factory=dict)
    facts: Mapping[str, Any] | None = None
    mixed_up_with: str | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """The caption that a picture got in this upload, and what gave it: a row of a sheet, or a sidecar."""

    by: str
    text: str
    rank: tuple[int, int] = NEW


class SheetCaptions:
    """Reads the sheets of one upload. Of two sheets that give a picture different captions, the first one counts.

    Args:
        held_back: tells which rows wait for what may still come.
        texts: whether rows without a picture become texts.
        check: called before each part of a sheet that is read or looked up; what it raises ends the reading.

    Attributes:
        given: the captions that pictures get, and those that they got when other files of the upload were read.
    """

    def __init__(
        self,
        ingest: Ingest,
        lookup: Lookup,
        given: dict[UUID, Given],
        held_back: HeldBack,
        *,
        texts: bool,
        check: Callable[[], None],
    ) -> None:
        self._ingest = ingest
        self._lookup = lookup
        self._held_back = held_back
        self._texts = texts
        self._check = check
        self._sheets: list[SheetToWrite] = []
        self.given = given

    def read(
        self,
        located: Located,
        stream: BinaryIO,
        kind: FileKind,
        came: Came | None = None,
        earlier: EarlierRows | None = None,
    ) -> SheetToWrite:
        """Read every row of a sheet; :meth:`settle` decides which count. Those of one picture become one caption.

        Args:
            came: when the sheet came.
            earlier: the rows that are done, if the sheet was read before.

        Raises:
            MediaRejected: the file is no sheet, or has no rows.
            TooLarge: it is too large, or has too many columns.
        """
        end: RetllmError | None = None
        watched = streams.watched(stream, self._check)
        with read_rows(watched, kind, self._ingest.settings) as sheet:
            as_texts = self._texts or sheet.has_texts
            run = SheetToWrite(self._ingest, self._lookup, self._held_back, located, came, earlier, as_texts=as_texts)
            try:
                for rows in batches(_checked(sheet, run.as_texts), _LOOKED_UP):
                    self._check()
                    run.take(rows)
            except columns.TooManyColumns:
                # nothing says where such a sheet went wrong, so no part of it counts
                raise
            except (MediaRejected, TooLarge) as error:
                end = error
        run.remarks = sheet.remarks
        if run.is_empty:
            raise end or MediaRejected("The file contains no captions.")
        if end is not None:
            run.end = rejected(located.name, end)
        self._sheets.append(run)
        return run

    def settle(self) -> None:
        """Decide which captions of the sheets that were read count, in the order in which they were read.

        What is new counts before what came with an earlier upload, then what is said of a picture before what is said
        of the whole file that it is a part of, and what a sheet in the picture's archive says before one elsewhere.
        """
        found = [
            (sheet.rank, len(items) > 1, not captions.target.near, sheet, items)
            for sheet in self._sheets
            for items, captions in sheet.captions.items()
        ]
        found.sort(key=lambda each: each[:3])
        for *_, sheet, items in found:
            sheet.settle(items, self.given)


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


class SheetToWrite:
    """One sheet: it is read row by row, settled with the sheets before it, and written in the caller's transaction."""

    def __init__(
        self,
        ingest: Ingest,
        lookup: Lookup,
        held_back: HeldBack,
        located: Located,
        came: Came | None,
        earlier: EarlierRows | None,
        *,
        as_texts: bool,
    ) -> None:
        self.as_texts = as_texts
        self.remarks: list[str] = []
        self.end: FileOutcome | None = None
        """Why the sheet was not read to its end."""
        self._refusals = Refusals(located.name)
        self._ingest = ingest
        self._lookup = lookup
        self._held_back = held_back
        self._located = located
        self._came = came
        self.rank = rank_of(came)
        self._refused: list[tuple[int, FileOutcome]] = []
        self.captions: dict[tuple[UUID, ...], _Captions] = {}
        """What the sheet says of pictures, and of all parts of whole files."""
        self._settled: list[tuple[tuple[UUID, ...], _Captions, str]] = []
        self._new_texts: list[tuple[Row, CheckedText]] = []
        self._kept = 0
        self._earlier = earlier or EarlierRows(located.name)
        self._done = False

    @property
    def is_empty(self) -> bool:
        """Whether all rows are empty, or there are none."""
        return not (self._refusals.total or self.captions or self._new_texts or self._done)

    def _refuse(self, number: int, found: Problem) -> None:
        if (outcome := self._refusals.take(number, found)) is not None:
            self._refused.append((number, outcome))

    def _named(self, number: int, outcome: FileOutcome) -> tuple[int, FileOutcome]:
        return number, outcome.model_copy(update={"name": self._earlier.name(number)})

    def take(self, rows: Iterable[Row]) -> None:
        """Look up the pictures of rows, and keep the rows that are texts."""
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
            elif self.as_texts and self._earlier.settled([row.number]):
                self._done = True
            elif self.as_texts:
                texts.append((row, "\n".join(cleaned)))
            else:
                message = f"Row {row.number} names no picture: name one, or upload the sheet with --texts (texts=true)."
                self._refuse(row.number, problem(Reason.NO_PICTURE, message))
        targets = self._lookup.targets(references, self._located) if references else {}
        for row, captions in named:
            target = targets[row.file]
            if isinstance(target, Target) and not self._earlier.is_done(row.number):
                target = self._held_back.problem(row.file, references[row.file], target, self._located) or target
            if isinstance(target, Problem) and self._earlier.is_done(row.number):
                # one of the rows of a picture that has its caption
                self._done = True
            elif isinstance(target, Problem):
                self._refuse(row.number, replace(target, message=f"Row {row.number} {target.message}"))
            else:
                self._keep(row, captions, target, references[row.file])
        checked = self._ingest.check_texts(((text, row.name) for row, text in texts), self._came)
        self._new_texts += zip((row for row, _ in texts), checked, strict=True)

    def _cleaned(self, row: Row) -> list[str] | Problem:
        if row.problem is not None:
            return row.problem
        texts = [text for text in row.captions if not is_blank(text)]
        # without captions the empty text gives the reason
        texts = texts or ([] if row.facts is not None and row.file else [""])
        try:
            return [clean_text(text, self._ingest.settings) for text in texts]
        except NoText as error:
            return problem(Reason.EMPTY, f"Row {row.number}: {error.message}")
        except (MediaRejected, TooLarge) as error:
            return Problem(Reason.TEXT, f"Row {row.number}: {error.message}", type(error))

    def _keep(self, row: Row, captions: list[str], target: Target, named: Reference) -> None:
        self._kept += len(captions)
        if self._kept > MAX_ROWS:
            raise TooLarge(
                f"From row {row.number:,} on the sheet is not read: a sheet may have {MAX_ROWS:,} captions.",
                limit=MAX_ROWS,
            )
        known = self.captions.get(target.items)
        if known is not None and known.target.fit != target.fit:
            # the picture is that of the row which names it as it is
            if target.fit > known.target.fit:
                self._refuse(row.number, not_it(row.number, row.file, target.picture))
                return
            for number in known.rows:
                self._refuse(number, not_it(number, known.name, target.picture))
            known = None
        if known is None:
            known = _Captions([], shown_name(row.file), named, target, target.remark)
            self.captions[target.items] = known
        known.rows.append(row.number)
        known.facts = row.facts
        known.texts.update(dict.fromkeys(captions))
        certain = known.target.whole and target.whole and not target.changed
        if not certain and not may_be_one(known.reference, named):
            known.mixed_up_with = shown_name(row.file)

    def settle(self, items: tuple[UUID, ...], given: dict[UUID, Given]) -> None:
        """Decide whether a caption counts; earlier ones are in ``given``, which gets it if it does."""
        captions = self.captions[items]
        if self._earlier.settled(captions.rows):
            return
        text = self._joined(captions)
        others = {item_id: given[item_id] for item_id in items if item_id in given}
        # files of different times are in no conflict: the later one counts
        others = {
            item_id: other
            for item_id, other in others.items()
            if other.by not in self._earlier.done and other.rank == self.rank
        }
        free = tuple(item_id for item_id in items if item_id not in others or others[item_id].text == text)
        if (refused := self._conflict(captions, None if free else others[items[0]])) is not None:
            for number in captions.rows:
                self._refuse(number, refused(number))
        else:
            self._settled.append((free, captions, text))
            mine = Given(f"{self._located.name}, row {captions.rows[0]}", text, self.rank)
            # what came later stays
            given |= {item_id: mine for item_id in free if item_id not in given or given[item_id].rank >= self.rank}

    @property
    def new_captions(self) -> dict[UUID, Caption]:
        """The captions that count."""
        return {item_id: Caption(text, self._came) for items, _, text in self._settled if text for item_id in items}

    def write(self, session: Session, changes: Mapping[UUID, Change]) -> SheetResult:
        """Write texts in the caller's transaction, in which the captions were; return what became of all rows."""
        refusals = deepcopy(self._refusals)
        rows = [row for row, _ in self._new_texts]
        added = self._ingest.insert_texts(session, [text for _, text in self._new_texts])
        described = self._describe(session, zip(rows, added, strict=True))
        outcomes = [*self._refused, *map(self._named, (row.number for row in rows), added)]
        for items, captions, _ in self._settled:
            both = {item_id: (changes.get(item_id), described.get(item_id)) for item_id in items}
            written = {item_id: results.together(*found) for item_id, found in both.items() if found != (None, None)}
            number, outcome = self._written(captions, written, refusals)
            if outcome is not None:
                outcomes.append((number, outcome))
        outcomes.sort(key=lambda each: each[0])
        told = [outcome for _, outcome in outcomes] + refusals.rest()
        return SheetResult(told + ([self.end] if self.end else []), self.remarks, refusals.total)

    def _describe(self, session: Session, texts: Iterable[tuple[Row, FileOutcome]]) -> dict[UUID, Change]:
        """Write the facts of pictures and of new texts; return what changed."""
        facts: dict[UUID, Mapping[str, Any]] = {
            outcome.item_id: row.facts for row, outcome in texts if outcome.item_id and row.facts is not None
        }
        bare: set[UUID] = set()
        for items, captions, text in self._settled:
            if captions.facts is not None:
                facts |= dict.fromkeys(items, captions.facts)
                bare.update(() if text else items)
        return write_facts(session, facts, bare, self._came) if facts else {}

    def _joined(self, captions: _Captions) -> str:
        """Return the caption of a picture: as many of its captions as fit, one on each line."""
        limit = self._ingest.settings.max_text_chars
        fitting: list[str] = []
        size = -1
        for text in captions.texts:
            size += 1 + len(text)
            if size > limit:
                cut = (
                    f"It has the first {len(fitting)} of {len(captions.texts)} captions; RETLLM_MAX_TEXT_CHARS allows "
                    f"{limit:,} characters."
                )
                captions.remark = f"{captions.remark} {cut}" if captions.remark else cut
                break
            fitting.append(text)
        return "\n".join(fitting)

    def _conflict(self, captions: _Captions, earlier: Given | None) -> Refusing | None:
        name, other = captions.name, captions.mixed_up_with
        if other is not None:
            return Refusing(
                Reason.MIXED_UP,
                f"names a picture like row {captions.rows[0]}; {quoted(name)} and {quoted(other)} would be the "
                "same picture of this collection: upload the pictures with their folders.",
            )
        if earlier is not None:
            of_other = not earlier.by.startswith(f"{self._located.name}, row ")
            alone = ", or upload this sheet again by itself" if of_other else ""
            return Refusing(
                Reason.SECOND_CAPTION,
                f"gives the picture {quoted(name)} another caption than {earlier.by}: keep one of them{alone}.",
            )
        return None

    def _written(
        self, captions: _Captions, changes: dict[UUID, Change], refusals: Refusals
    ) -> tuple[int, FileOutcome | None]:
        number = captions.rows[0]
        if not changes:
            message = f"Row {number} names a picture that was deleted during the upload."
            return number, refusals.take(number, problem(Reason.DELETED, message))
        kind = ItemKind.BOTH if captions.texts else None
        return self._named(number, results.captioned("", changes, captions.remark, kind))
