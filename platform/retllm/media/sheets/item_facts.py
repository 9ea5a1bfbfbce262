"""Write what sheets of items say of items beside their captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.many import one_of, update_many
from retllm.db.tables import Item
from retllm.db.uploads import UploadFile
from retllm.media import positions
from retllm.media.records import Came, Change
from retllm.media.sheets.batches import batches

# items that are in memory at a time
_WRITTEN = 500


def write_facts(
    session: Session, facts: Mapping[UUID, Mapping[str, Any]], without_caption: set[UUID], came: Came | None
) -> dict[UUID, Change]:
    """Set columns of items of one collection that are there, and return which of them that changed.

    What is empty removes nothing, so that an old sheet takes nothing away, unless the item came with the same upload:
    then it removes what the file says of itself, its caption too of those ``without_caption``.
    """
    changes: dict[UUID, Change] = {}
    for keys in batches(sorted(facts), _WRITTEN):
        query = (
            sa.select(Item, UploadFile.job_id)
            .outerjoin(UploadFile, UploadFile.id == Item.id)
            .where(one_of(Item.id, keys), Item.state == ItemState.READY)
            .order_by(Item.id)
            .with_for_update(key_share=True, of=Item)
        )
        rows = session.execute(query.execution_options(populate_existing=True)).all()
        keeps = {key: positions.are_kept(session, key) for key in {item.collection_id for item, _ in rows}}
        # each statement costs more than what it writes, so rows that set the same columns share one
        together: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for item, job_id in rows:
            is_new = came is not None and not came.is_again and job_id == came.job_id
            values = _values(facts[item.id], keeps=keeps[item.collection_id], is_new=is_new)
            if is_new and item.id in without_caption and item.kind is ItemKind.BOTH:
                values |= {"text": None, "kind": ItemKind.IMAGE, "version": item.version + 1, "error": None}
            changed = {name: value for name, value in values.items() if getattr(item, name) != value}
            changes[item.id] = Change(bool(changed))
            if changed:
                together[tuple(sorted(changed))].append({"id": item.id, **changed})
            session.expunge(item)
        for some in together.values():
            session.execute(update_many(Item, some).execution_options(synchronize_session=False))
    return changes


def _values(facts: Mapping[str, Any], *, keeps: bool, is_new: bool) -> dict[str, Any]:
    given = {name for name, value in facts.items() if value not in (None, [], {})}
    if "taken" in given:
        given.add("taken_zone")
    values = {name: value for name, value in facts.items() if is_new or name in given}
    return values if keeps else {**values, **positions.NO_POSITION}
