"""The outcomes of what gives captions: rows of sheets, and sidecars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from retllm.db.enums import ItemKind
from retllm.media.names import quoted
from retllm.media.outcomes import FileOutcome
from retllm.media.records import Change


def together(caption: Change | None, facts: Change | None) -> Change:
    """Return what became of an item by its caption and by its facts, at least one of which was written."""
    if caption is None or facts is None:
        return caption or facts or Change(False)
    return Change(caption.changed or facts.changed, None if facts.changed else caption.remark)


def captioned(
    name: str, changes: Mapping[UUID, Change], remark: str | None, kind: ItemKind | None = ItemKind.BOTH
) -> FileOutcome:
    """Return the outcome of what gave these items one caption; that of a later upload stays, and the remark says so."""
    counted = [item_id for item_id, change in changes.items() if not change.remark]
    if not counted:
        item_id, first = next(iter(changes.items()))
        return FileOutcome(name=name, status="ignored", item_id=item_id, remark=first.remark)
    is_changed = any(change.changed for change in changes.values())
    return FileOutcome(
        name=name,
        status="updated" if is_changed else "duplicate",
        item_id=counted[0],
        further_item_ids=tuple(counted[1:]),
        kind=kind,
        remark=remark,
    )


def unused(name: str, item_id: UUID, others: Sequence[str]) -> FileOutcome:
    """Return the outcome of a sidecar of this item beside which ``others`` give another caption, or some the same."""
    if not others:
        return FileOutcome(name=name, status="duplicate", item_id=item_id, kind=ItemKind.BOTH)
    remark = f"Not used: {quoted(others[0])} has the caption."
    return FileOutcome(name=name, status="ignored", item_id=item_id, remark=remark)
