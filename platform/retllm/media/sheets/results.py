"""The outcomes of what gives captions: rows of sheets, and sidecars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal
from uuid import UUID

from retllm.db.enums import ItemKind
from retllm.media.outcomes import FileOutcome
from retllm.media.records import Change


def captioned(name: str, changes: Mapping[UUID, Change], remark: str | None) -> FileOutcome:
    """Return the outcome of what gave these items one caption; that of a later upload stays, and the remark says so."""
    item_id, first = next(iter(changes.items()))
    if all(change.remark for change in changes.values()):
        return FileOutcome(name=name, status="ignored", item_id=item_id, remark=first.remark)
    is_changed = any(change.changed for change in changes.values())
    status: Literal["updated", "duplicate"] = "updated" if is_changed else "duplicate"
    return FileOutcome(name=name, status=status, item_id=item_id, kind=ItemKind.BOTH, remark=remark)


def unused(name: str, item_id: UUID, others: Sequence[str]) -> FileOutcome:
    """Return the outcome of a sidecar of this item beside which ``others`` give another caption, or some the same."""
    if not others:
        return FileOutcome(name=name, status="duplicate", item_id=item_id, kind=ItemKind.BOTH)
    return FileOutcome(name=name, status="ignored", item_id=item_id, remark=f"Not used: {others[0]!r} has the caption.")
