"""Lists of the items of a collection: filtered, sorted, in pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, Positions
from retllm.db.facts import folded
from retllm.db.plans import plan_of
from retllm.db.tables import Collection, EmbeddingModel, Item
from retllm.errors import InvalidInput, NotFound
from retllm.filters import Expression, Field, bounded, condition, fields_of
from retllm.identity.access import sees_positions
from retllm.indexing.counts import Counts, counts_of
from retllm.indexing.indexed import current_model, embedder_of, has_vector, is_ready
from retllm.media.normalization import composed
from retllm.settings import Settings
from retllm_web.http.auth import current_actor
from retllm_web.http.long_answers import comparing

MAX_COMPARED = 10_000
"""Maximum number of items that are compared with filters for one page."""


# where the text of a filter is looked for
_SEARCHED = (Item.name, Item.text, Item.ocr_text)
# what the planner takes reading about 5,000 rows from all over a table to cost
_CHEAP = 20_000.0
# of each statement; enough for so many items with texts of some pages each
_SECONDS = 20


_NO_POSITIONS = {
    Positions.EDITORS: "Only editors of this collection see where its items were made: leave position out of it.",
    Positions.NOBODY: "This collection keeps no positions: leave position out of the filter.",
}


class IndexState(StrEnum):
    """Whether the primary embedder of its collection has embedded an item."""

    INDEXED = "indexed"  # its vector is up to date
    MISSING = "missing"  # it has no vector yet
    FAILED = "failed"  # it has no vector, and its last embedding failed


@dataclass(frozen=True)
class ItemFilters:
    """Filters of items; None and the empty text match all.

    Attributes:
        text: searched in names, texts, captions and the text in pictures; capital letters and accents do not count.
        expression: a filter in the language of filters.
    """

    kind: ItemKind | None = None
    state: IndexState | None = None
    text: str = ""
    expression: Expression | None = None


class Sort(StrEnum):
    """The order of items; those without a value come last, equal ones in the order in which they were added."""

    ADDED = "added"  # by when they were added
    NAME = "name"  # by name; capital letters and accents do not count
    TAKEN = "taken"  # by when they were taken


@dataclass(frozen=True)
class Order:
    """By what items are sorted, and whether backwards."""

    by: Sort = Sort.ADDED
    backwards: bool = False

    @classmethod
    def of(cls, text: str) -> Order:
        """Return the order that is written like ``taken`` or ``-taken``.

        Raises:
            ValueError: there is no such order.
        """
        return cls(Sort(text.removeprefix("-")), text.startswith("-"))

    def __str__(self) -> str:
        return f"{'-' if self.backwards else ''}{self.by}"


@dataclass(frozen=True)
class ItemPage:
    """A page of items, each with whether it is indexed; ``next`` is the key to request the next one.

    With a filter that no index serves, a page may have few items or none although there are more pages: it looks at
    ``MAX_COMPARED`` items.
    """

    items: Sequence[tuple[Item, bool]]
    next: UUID | None


@dataclass(frozen=True)
class _Run:
    """A part of the order of items that one index has: those that belong to it, and by what they are sorted."""

    where: tuple[sa.ColumnElement[bool], ...]
    columns: tuple[Any, ...]


_RUNS: dict[Sort, tuple[_Run, ...]] = {
    Sort.ADDED: (_Run((), (Item.id,)),),
    Sort.NAME: (_Run((), (folded(Item.name), Item.id)),),
    Sort.TAKEN: (
        _Run((Item.taken.is_not(None),), (Item.taken, Item.id)),
        _Run((Item.taken.is_(None),), (Item.id,)),
    ),
}


def page(
    session: Session,
    collection: Collection,
    settings: Settings,
    filters: ItemFilters | None = None,
    *,
    order: Order | None = None,
    after: UUID | None = None,
    back: bool = False,
    limit: int = 50,
) -> ItemPage:
    """Return a page of items; ``after`` is ``next`` of the page before.

    Args:
        back: go through the list from its end; those after an item are then those before it, the nearest first.

    Raises:
        NotFound: there is no item ``after``.
        InvalidInput: comparing the items with a text or an expression takes too long, or the expression names what this
            account may not see; the session can go on.
        Busy: too many requests compare items already.
    """
    filters, order = filters or ItemFilters(), order or Order()
    with bounded_for(session, filters):
        return _page(session, collection, settings, filters, order, after, back, limit)


def around(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters, order: Order, item_id: UUID
) -> tuple[UUID | None, UUID | None]:
    """Return the items before and after one in a list, if there are any; raises like :func:`page`.

    With a filter that no index serves, it looks at ``MAX_COMPARED`` items on each side.
    """
    before, after = (
        page(session, collection, settings, filters, order=order, after=item_id, back=back, limit=1).items
        for back in (True, False)
    )
    return before[0][0].id if before else None, after[0][0].id if after else None


@contextmanager
def bounded_for(session: Session, filters: ItemFilters) -> Iterator[None]:
    """Bound what comparing items with filters may take inside the context, for this account and in seconds.

    Raises:
        InvalidInput: comparing with a text or an expression took too long; the session can go on.
        Busy: too many requests compare items already.
    """
    if not filters.text and filters.expression is None:
        yield
        return
    with comparing(current_actor().id), bounded(session, _SECONDS):
        yield


def _page(
    session: Session,
    collection: Collection,
    settings: Settings,
    filters: ItemFilters,
    order: Order,
    after: UUID | None,
    back: bool,
    limit: int,
) -> ItemPage:
    _require_fields(session, collection, filters)
    backwards = order.backwards is not back
    model = current_model(session, embedder_of(collection, settings))
    indexed = has_vector(model, settings.item_image_weight)
    inside = (Item.collection_id == collection.id, is_ready())
    conditions = _conditions(filters, indexed)
    if conditions and not _may_match(session, collection, settings, filters, model):
        return ItemPage([], None)
    # an index has the failed ones
    in_order = bool(conditions) and filters != ItemFilters(state=IndexState.FAILED)
    in_order = in_order and not is_cheap(session, sa.select(Item.id).where(*inside, *conditions))
    matching = (sa.case((sa.and_(*conditions), sa.true()), else_=sa.false()),) if in_order else tuple(conditions)
    found: list[tuple[Item, bool]] = []
    for run, place in _rest(session, _RUNS[order.by][:: -1 if back else 1], collection, after):
        begun = (*inside, *run.where, *([_beyond(run, place, backwards)] if place else []))
        sorting = [column.desc() if backwards else column for column in run.columns]
        last = None
        if in_order:
            row = sa.select(Item.id, *run.columns).where(*begun).order_by(*sorting).offset(MAX_COMPARED - 1).limit(1)
            last = session.execute(row).one_or_none()
        query = sa.select(Item, indexed.label("indexed")).where(*begun, *matching)
        if last is not None:
            query = query.where(sa.not_(_beyond(run, tuple(last)[1:], backwards)))
        query = query.order_by(*sorting).limit(limit + 1 - len(found))
        found += [(item, is_indexed) for item, is_indexed in session.execute(query)]
        if len(found) > limit:
            return ItemPage(found[:limit], found[limit - 1][0].id)
        if last is not None:
            return ItemPage(found, last[0])
    return ItemPage(found, None)


def conditions(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on :class:`retllm.db.tables.Item` for the items of a collection that match.

    Raises:
        InvalidInput: a filter names what this account may not see.
    """
    _require_fields(session, collection, filters)
    # only a state needs the model
    model = current_model(session, embedder_of(collection, settings)) if filters.state else None
    inside = [Item.collection_id == collection.id, is_ready()]
    return [*inside, *_conditions(filters, has_vector(model, settings.item_image_weight))]


def count(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters, *, after: UUID | None = None
) -> tuple[int, bool]:
    """Return how many items match the filters, and whether there may be more.

    With a filter that no index serves, it looks at ``MAX_COMPARED`` items.

    Args:
        after: the key after which it begins.

    Raises:
        InvalidInput, Busy: see :func:`bounded_for`.
    """
    with bounded_for(session, filters):
        return _count(session, collection, settings, filters, after)


def _count(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters, after: UUID | None
) -> tuple[int, bool]:
    wanted = conditions(session, collection, settings, filters)
    if after is not None:
        wanted.append(Item.id > after)
    matching = sa.select(Item.id).where(*wanted)
    if is_cheap(session, matching):
        return session.scalar(sa.select(sa.func.count()).select_from(matching.subquery())) or 0, False
    inside = [Item.collection_id == collection.id, is_ready(), *([Item.id > after] if after else [])]
    first = sa.select(Item.id).where(*inside).order_by(Item.id).limit(MAX_COMPARED).subquery()
    counts = sa.select(sa.func.count(), sa.func.count().filter(*wanted))
    counts = counts.join_from(first, Item, Item.id == first.c.id)
    looked_at, found = session.execute(counts).one()
    return found, looked_at == MAX_COMPARED


def _rest(
    session: Session, runs: Sequence[_Run], collection: Collection, after: UUID | None
) -> Sequence[tuple[_Run, tuple[Any, ...] | None]]:
    """Return the parts of an order from an item on, the first with the item's place in it."""
    if after is None:
        return [(run, None) for run in runs]
    for number, run in enumerate(runs):
        # also of an item that was deleted meanwhile
        its = sa.select(*run.columns).where(Item.id == after, Item.collection_id == collection.id, *run.where)
        place = session.execute(its).one_or_none()
        if place is not None:
            return [(run, tuple(place)), *((later, None) for later in runs[number + 1 :])]
    raise NotFound("There is no such page.")


def _beyond(run: _Run, place: Sequence[Any], backwards: bool) -> sa.ColumnElement[bool]:
    mine, its = sa.tuple_(*run.columns), sa.tuple_(*place)
    return mine < its if backwards else mine > its


def _require_fields(session: Session, collection: Collection, filters: ItemFilters) -> None:
    """Require that this account may see what a filter names, since what matches would tell it.

    Raises:
        InvalidInput: it may not.
    """
    if Field("position") not in fields_of(filters.expression):
        return
    if not sees_positions(session, current_actor(), collection):
        raise InvalidInput(_NO_POSITIONS[collection.positions], field="filter")


def _conditions(filters: ItemFilters, indexed: sa.ColumnElement[bool]) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if filters.kind is not None:
        conditions.append(Item.kind == filters.kind)
    if filters.state is not None:
        conditions += _in_state(filters.state, indexed)
    if filters.text:
        # names and texts are stored in this form; a file name that is copied on a Mac is in another one
        text = folded(composed(filters.text))
        conditions.append(sa.or_(*(sa.func.strpos(folded(column), text) > 0 for column in _SEARCHED)))
    if filters.expression is not None:
        conditions.append(condition(filters.expression))
    return conditions


def is_cheap(session: Session, query: sa.Select[Any]) -> bool:
    """Return whether the server expects to find all rows of a query soon, in any order."""
    return cost_of(session, query) <= _CHEAP


def cost_of(session: Session, query: sa.Select[Any]) -> float:
    """Return what the planner expects reading all rows of a query to cost."""
    return float(plan_of(session, query)["Total Cost"])


def _may_match(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters, model: EmbeddingModel | None
) -> bool:
    counts = counts_of(session, [collection.id], settings.item_image_weight)[collection.id]
    return _has_some(counts, filters, model.id if model is not None else None)


def _has_some(counts: Counts, filters: ItemFilters, model_id: UUID | None) -> bool:
    """Return whether any item is of this kind, and any in this state, by the kept counts."""
    embedded, failed = counts.embedded[model_id] if model_id else 0, counts.failed_without(model_id)
    missing = counts.kinds.total() - embedded - failed
    states = {IndexState.INDEXED: embedded, IndexState.MISSING: missing, IndexState.FAILED: failed}
    return (filters.kind is None or counts.kinds[filters.kind] > 0) and (
        filters.state is None or states[filters.state] > 0
    )


def _in_state(state: IndexState, indexed: sa.ColumnElement[bool]) -> tuple[sa.ColumnElement[bool], ...]:
    if state is IndexState.INDEXED:
        return (indexed,)
    error = Item.error.is_not(None) if state is IndexState.FAILED else Item.error.is_(None)
    return (~indexed, error)
