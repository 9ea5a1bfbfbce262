"""One action on many items of a collection: in bounded transactions, each with its entry in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.many import one_of
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection, Item, new_id
from retllm.errors import Conflict, Forbidden, RetllmError, StorageUnavailable
from retllm.identity.access import Right, collection_for, gets_originals, right_in
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.media import records
from retllm.media.editing import change_items, take_over
from retllm.media.ingest import delete_files
from retllm.media.skipped import Skipped
from retllm.media.transfers import Transfer
from retllm.media.trash import trash_items
from retllm_web.actions import item_lists
from retllm_web.actions.auditing import record_collection
from retllm_web.actions.item_lists import ItemFilters
from retllm_web.http.services import services

BATCH = 200
"""Maximum of items in one transaction."""
MAX = 1000
"""Maximum of items in one request; the caller repeats it for more."""

Conditions = Sequence[sa.ColumnElement[bool]]


@dataclass(frozen=True)
class Chosen:
    """Items of a collection: those with these keys, or all that match filters.

    Of all that match, those count that come after ``after``, and were added before the request: with keys up to
    ``upto``.
    """

    collection_id: UUID
    keys: Sequence[UUID] | None = None
    filters: ItemFilters = field(default_factory=ItemFilters)
    after: UUID | None = None
    upto: UUID = field(default_factory=new_id)


@dataclass
class Result:
    """What became of the chosen items.

    Attributes:
        done: the items that were changed, deleted, moved or copied.
        new: the keys of moved and copied items in the other collection, by those that they had.
        skipped: the others, with the reason; of all that match filters, only those that matched.
        next: the key to continue with if items are left; null if all were looked at.
        error: what ended the request early; all before it is done.
        trashed: the times at which items came into the trash, one for each transaction.
    """

    done: list[UUID] = field(default_factory=list)
    new: dict[UUID, UUID] = field(default_factory=dict)
    skipped: dict[UUID, Skipped] = field(default_factory=dict)
    next: UUID | None = None
    error: RetllmError | None = None
    trashed: list[datetime] = field(default_factory=list)


Done = tuple[Sequence[UUID], Mapping[UUID, Skipped], Mapping[UUID, UUID]]
"""What became of a batch: the items that are done, those that were skipped, and new keys by the old ones."""
Do = Callable[[Sequence[UUID], Conditions], Done]
Batch = tuple[Sequence[UUID], Conditions, UUID | None]
"""Keys of items, the conditions that they must still meet when they are locked, and where to go on after them."""


def change(actor: Actor, chosen: Chosen, given: Mapping[str, Any]) -> Result:
    """Change the chosen items, see :func:`retllm.media.editing.change_items`.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
        InvalidInput: a value is not what it must be.
    """

    def change_some(keys: Sequence[UUID], conditions: Conditions) -> Done:
        def write(session: Session) -> Done:
            collection = collection_for(session, actor, chosen.collection_id, Right.CHANGE)
            changed, skipped = change_items(session, keys, given, services().settings, *conditions)
            record_items(session, actor, Action.ITEMS_CHANGED, collection, changed, changed=sorted(given))
            return changed, skipped, {}

        return run_transaction(services().sessions, write)

    return _of_chosen(actor, chosen, change_some)


def delete(actor: Actor, chosen: Chosen, *, into: UUID | None = None) -> Result:
    """Put the chosen items into the trash; earlier results still show their names.

    If there is no trash (``trash_days`` 0), their content is deleted for good.

    Args:
        into: the picture of the same collection that first gets their captions and tags.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
        Conflict: the picture is not there, and nothing was deleted.
        InvalidInput: it would have too many tags, or too long a caption.
    """
    found = services()
    days, moments = found.settings.trash_days, list[datetime]()

    def delete_some(keys: Sequence[UUID], conditions: Conditions) -> Done:
        def write(session: Session) -> tuple[list[UUID], list[str], datetime | None]:
            collection = collection_for(session, actor, chosen.collection_id, Right.CHANGE)
            both = keys if into is None else [*keys, into]
            locked = {item.id: item for item in records.lock_items(session, both, *conditions, to_remove=not days)}
            kept = locked.pop(into, None) if into is not None else None
            items = list(locked.values())
            if kept is not None:
                take_over(session, kept, items, found.settings)
            elif into is not None:
                raise Conflict("The picture that was to get captions and tags is not there any more: nothing is done.")
            deleted = list(locked)
            record_items(session, actor, Action.ITEMS_DELETED, collection, deleted)
            if days:
                return deleted, [], trash_items(session, items, days=days, by=actor.id) if items else None
            return deleted, records.empty_items(session, items), None

        deleted, files, moment = run_transaction(found.sessions, write)
        # after the commit, so that no row names a file that is gone
        delete_files(found.storage, files)
        moments.extend([moment] if moment else [])
        return deleted, {}, {}

    result = _of_chosen(actor, chosen, delete_some)
    result.trashed = moments
    return result


def transfer(actor: Actor, chosen: Chosen, target_id: UUID, *, moves: bool) -> Result:
    """Move or copy the chosen items into another collection, except those whose content it has.

    Raises:
        NotFound, Forbidden: ``actor`` may not see the collection, or not change it if the items leave it, or not have
            its originals, or not change the other one.
        Conflict: it is the same collection.
        StorageFull, StorageUnavailable: their files can't be copied.
    """
    found, action = services(), Action.ITEMS_MOVED if moves else Action.ITEMS_COPIED

    def check(session: Session) -> tuple[Collection, Collection]:
        right = Right.CHANGE if moves else Right.SEE
        source = collection_for(session, actor, chosen.collection_id, right)
        target = collection_for(session, actor, target_id, Right.CHANGE)
        if not gets_originals(session, actor, source):
            raise Forbidden(
                "The files of these items tell where they were made, which only editors of their collection may see: "
                "ask one of them to copy the items."
            )
        if source is target:
            raise Conflict("The items are in this collection already: choose another one.")
        return source, target

    def transfer_some(keys: Sequence[UUID], conditions: Conditions) -> Done:
        plan = Transfer(found.storage, target_id, moves, tells_places)
        try:
            plan.prepare(found.sessions, keys, *conditions)
        except OSError as error:
            raise StorageUnavailable("The files of the items can't be copied at the moment: try again.") from error

        def write(session: Session) -> None:
            source, target = check(session)
            plan.write(session, keys, *conditions)
            record_items(session, actor, action, source, list(plan.new), into=target.name, into_id=str(target.id))
            new = list(plan.new.values())
            record_items(session, actor, action, target, new, out_of=source.name, out_of_id=str(source.id))

        try:
            run_transaction(found.sessions, write)
        except RetllmError:
            # of any other error, nobody knows whether it was committed
            plan.discard()
            raise
        plan.finish()
        return list(plan.new), plan.skipped, plan.new

    with transaction(found.sessions) as session:
        source, _ = check(session)
        tells_places = (right_in(session, actor, source) or 0) >= Right.CHANGE
    return _of_chosen(actor, chosen, transfer_some, Right.CHANGE if moves else Right.SEE)


def _of_chosen(actor: Actor, chosen: Chosen, do: Do, right: Right = Right.CHANGE) -> Result:
    if chosen.keys is None:
        return in_batches(_matching(actor, chosen, right), do, after=chosen.after)
    inside = [Item.collection_id == chosen.collection_id]
    return in_batches(named(chosen.keys, inside), do, chosen.keys)


def in_batches(
    batches: Iterator[Batch], do: Do, keys: Sequence[UUID] | None = None, *, after: UUID | None = None
) -> Result:
    """Call ``do`` for each batch; an error after the first one ends it, and is in the result.

    Args:
        keys: the items, if they were named; each of them is done or skipped.
        after: where the result says to continue if nothing is done.
    """
    result = Result(next=after)
    for number, (batch, conditions, following) in enumerate(batches):
        try:
            done, skipped, new = do(batch, conditions) if batch else ((), {}, {})
        except RetllmError as error:
            if number == 0:
                raise
            result.error = error
            break
        result.done += done
        result.new |= new
        result.skipped |= skipped
        result.next = following
        if keys is not None:
            gone = set(batch).difference(done, skipped)
            result.skipped |= dict.fromkeys(gone, Skipped.NOT_FOUND)
    if keys is not None:
        left = set(keys).difference(result.done, result.skipped)
        result.skipped |= dict.fromkeys(left, Skipped.NOT_TRIED)
    return result


def named(keys: Sequence[UUID], conditions: Conditions) -> Iterator[Batch]:
    """Yield batches of these keys, each once."""
    keys = list(dict.fromkeys(keys))
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH], conditions, None


def _matching(actor: Actor, chosen: Chosen, right: Right) -> Iterator[Batch]:
    """Yield the matching items, with the conditions that they must still meet when they are locked."""
    after, settings = chosen.after, services().settings
    for _ in range(MAX // BATCH):
        with transaction(services().sessions) as session:
            collection = collection_for(session, actor, chosen.collection_id, right)
            page = item_lists.page(session, collection, settings, chosen.filters, after=after, limit=BATCH)
            conditions = item_lists.conditions(session, collection, settings, chosen.filters)
        keys = [item.id for item, _ in page.items if item.id <= chosen.upto]
        after = page.next if page.next is not None and page.next <= chosen.upto else None
        yield keys, conditions, after
        if after is None:
            return


def names_of(session: Session, keys: Sequence[UUID], collection_id: UUID) -> Mapping[UUID, str]:
    """Return the names of those of these items that the collection has or had."""
    query = sa.select(Item.id, Item.name).where(one_of(Item.id, keys), Item.collection_id == collection_id)
    return dict(iter(session.execute(query)))


def record_items(
    session: Session, actor: Actor, action: Action, collection: Collection, keys: Sequence[UUID], **detail: Any
) -> None:
    """Record what was done to items of a collection, if to any, in the audit log."""
    if keys:
        items = [str(key) for key in keys]
        record_collection(session, action, collection, user=actor, count=len(keys), items=items, **detail)
