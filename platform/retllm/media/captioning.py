"""Apply rows of captions to their pictures; rows without a picture become texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import BinaryIO, Literal
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.session import Sessions, run_transaction
from retllm.errors import MediaRejected, RetllmError, TooLarge
from retllm.media import records
from retllm.media.captions import Row, read_rows
from retllm.media.names import base_name, clean_name
from retllm.media.outcomes import FileOutcome, rejected
from retllm.media.sniffing import FileKind
from retllm.media.texts import clean_text
from retllm.settings import Settings

# rows processed in one transaction
_BATCH = 500


class NamesSeen:
    """The pictures of one upload by name; they have precedence over others of the collection."""

    def __init__(self) -> None:
        self._exact: dict[str, set[UUID]] = {}
        self._base: dict[str, set[UUID]] = {}

    def add(self, name: str, item_id: UUID) -> None:
        """Record that the file ``name`` is the item ``item_id`` (an older item, if it was a duplicate)."""
        self._exact.setdefault(name, set()).add(item_id)
        self._base.setdefault(base_name(name), set()).add(item_id)

    def find(self, name: str) -> set[UUID]:
        """Return the pictures with this name, or else those with the same last part."""
        return self._exact.get(name) or self._base.get(base_name(name)) or set()


class Captioner:
    """Applies one caption sheet to a collection."""

    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        collection_id: UUID,
        seen: NamesSeen,
        add_text: Callable[[str], FileOutcome],
    ) -> None:
        self._sessions = sessions
        self._settings = settings
        self._collection_id = collection_id
        self._seen = seen
        self._add_text = add_text
        self._given: dict[UUID, tuple[int, str]] = {}

    def apply(self, sheet: str, stream: BinaryIO, kind: FileKind) -> list[FileOutcome]:
        """Apply every row; return one outcome for each, named after the sheet and the row's number."""
        outcomes: list[FileOutcome] = []
        problems: list[RetllmError] = []
        rows = _until_problem(read_rows(stream, kind, self._settings), problems)
        while batch := list(islice(rows, _BATCH)):
            outcomes += self._apply_batch(sheet, batch)
        if not outcomes and not problems:
            problems.append(MediaRejected("The file contains no captions."))
        return outcomes + [rejected(sheet, problem) for problem in problems]

    def _apply_batch(self, sheet: str, rows: list[Row]) -> list[FileOutcome]:
        outcomes: dict[int, FileOutcome] = {}
        captions: dict[int, tuple[str, str]] = {}
        for row in rows:
            try:
                text = self._text(row)
                if row.file:
                    captions[row.number] = (clean_name(row.file), text)
                else:
                    outcomes[row.number] = self._add_text(text)
            except (MediaRejected, TooLarge) as error:
                outcomes[row.number] = rejected("", error)
        outcomes |= self._set_captions(captions)
        return [outcomes[row.number].model_copy(update={"name": f"{sheet}, row {row.number}"}) for row in rows]

    def _text(self, row: Row) -> str:
        if row.problem is not None:
            raise MediaRejected(row.problem)
        try:
            return clean_text(row.text, self._settings)
        except (MediaRejected, TooLarge) as error:
            raise type(error)(f"Row {row.number}: {error.message}") from error

    def _set_captions(self, captions: dict[int, tuple[str, str]]) -> dict[int, FileOutcome]:
        """Set the captions, given as row number -> (picture name, caption); return row number -> outcome."""
        outcomes: dict[int, FileOutcome] = {}
        targets: dict[int, UUID] = {}
        found = run_transaction(
            self._sessions, lambda session: self._found(session, [name for name, _ in captions.values()])
        )
        for number, (name, text) in captions.items():
            try:
                targets[number] = self._target(number, name, text, found[name])
            except MediaRejected as error:
                outcomes[number] = rejected("", error)
        texts = {item_id: captions[number][1] for number, item_id in targets.items()}
        changes = run_transaction(self._sessions, lambda session: records.set_captions(session, texts))
        counted: set[UUID] = set()
        for number, item_id in targets.items():
            outcomes[number] = _outcome(number, item_id, changes.get(item_id), first=item_id not in counted)
            counted.add(item_id)
        return outcomes

    def _target(self, number: int, name: str, text: str, ids: set[UUID]) -> UUID:
        if not ids:
            raise MediaRejected(
                f"Row {number} names the picture {name!r}, which is not in this collection: upload it or correct "
                "the name."
            )
        if len(ids) > 1:
            raise MediaRejected(
                f"Row {number} names the picture {name!r}, which matches {len(ids)} pictures: give its full name with "
                "folders."
            )
        (item_id,) = ids
        earlier = self._given.setdefault(item_id, (number, text))
        if earlier[1] != text:
            raise MediaRejected(
                f"Row {number} gives the picture {name!r} a second caption after row {earlier[0]}; a picture has one "
                "caption."
            )
        return item_id

    def _found(self, session: Session, names: list[str]) -> dict[str, set[UUID]]:
        found = {name: self._seen.find(name) for name in names}
        missing = [name for name, ids in found.items() if not ids]
        found |= records.pictures_named(session, self._collection_id, missing)
        missing = [name for name in missing if not found[name]]
        by_base = records.pictures_with_base_name(session, self._collection_id, map(base_name, missing))
        return found | {name: by_base.get(base_name(name), set()) for name in missing}


def _outcome(number: int, item_id: UUID, changed: bool | None, *, first: bool) -> FileOutcome:
    if changed is None:
        return rejected("", MediaRejected(f"Row {number} names a picture that was deleted during the upload."))
    status: Literal["updated", "duplicate"] = "updated" if changed and first else "duplicate"
    return FileOutcome(name="", status=status, item_id=item_id, kind=ItemKind.BOTH)


def _until_problem(rows: Iterator[Row], problems: list[RetllmError]) -> Iterator[Row]:
    """Yield the rows until the sheet can't be read further; append the error to ``problems``."""
    try:
        yield from rows
    except (MediaRejected, TooLarge) as error:
        problems.append(error)
