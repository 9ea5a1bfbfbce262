"""Write the sheets of an upload, many small ones with as few statements as one large one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.media import records
from retllm.media.records import Caption, Change
from retllm.media.sheets.applying import SheetResult, SheetToWrite
from retllm.media.sheets.batches import batches

# captions that are written in one statement
_WRITTEN = 500


def write_sheets(session: Session, sheets: Iterable[SheetToWrite]) -> list[SheetResult]:
    """Write sheets in the caller's transaction; if that is repeated, this is called again."""
    results: list[SheetResult] = []
    for some in _without_common(sheets):
        captions = {item_id: caption for _, new in some for item_id, caption in new.items()}
        changes: dict[UUID, Change] = {}
        # sorted, as all lock items
        for item_ids in batches(sorted(captions), _WRITTEN):
            these = {item_id: captions[item_id] for item_id in item_ids}
            changes |= records.set_captions(session, these)
        results += [sheet.write(session, changes) for sheet, _ in some]
    return results


def _without_common(sheets: Iterable[SheetToWrite]) -> Iterator[list[tuple[SheetToWrite, dict[UUID, Caption]]]]:
    """Yield sheets in groups in which no two caption one picture, with what they write at once."""
    group: list[tuple[SheetToWrite, dict[UUID, Caption]]] = []
    items: set[UUID] = set()
    for sheet in sheets:
        new = sheet.new_captions
        if group and (not items.isdisjoint(new) or len(items) >= _WRITTEN):
            yield group
            group, items = [], set()
        group.append((sheet, new))
        items.update(new)
    if group:
        yield group
