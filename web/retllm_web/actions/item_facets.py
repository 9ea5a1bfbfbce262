"""How many of the items of a list have which values: their cameras, lenses, times, folders, tags, ratings and kinds.

All counts are read in three passes over the items, one of them for the tags, and one for further columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.facts import folded
from retllm.db.tables import Collection, Item
from retllm.filters import fields_of
from retllm.indexing.indexed import is_ready
from retllm.settings import Settings
from retllm_web.actions import item_lists
from retllm_web.actions.item_lists import ItemFilters

MAX_VALUES = 30
"""Values of a field that are shown: the most frequent ones."""

MAX_COLUMNS = 20
"""Further columns that are shown: those that most items have."""
# longer cells are descriptions, which no two items share
_LONGEST_CELL = 200

# what the planner takes reading about 150,000 items that were added one after the other to cost
_COUNTABLE = 30_000.0

_MEMORY = "64MB"

FIELDS = ("kind", "rating", "camera", "lens", "folder", "tags")


@dataclass(frozen=True)
class Value:
    """A value of a field and the number of items that have it; None is that of items without one."""

    text: str | None
    count: int


@dataclass
class Values:
    """The values of a field, the most frequent first, and how many others there are."""

    shown: list[Value] = field(default_factory=list)
    others: int = 0


@dataclass(frozen=True)
class Taken:
    """The number of items that were taken in a month, or of which with ``month`` null only the year is known."""

    year: int
    month: int | None
    count: int


@dataclass
class Facets:
    """The counts of the items that match.

    Attributes:
        fields: the values by the names of their fields. Those of ``folder`` end in a slash; None is that of the items
            directly in the outer folder.
        columns: the values of further columns by their names, of those in which items have the same value.
        taken: when items were taken, in order.
        undated: the number of those of which nothing is known about that.
        counted: all that match.
        is_exact: whether all items were counted; else there are at least as many.
    """

    fields: dict[str, Values]
    columns: dict[str, Values]
    taken: list[Taken]
    undated: int
    counted: int
    is_exact: bool


def facets_of(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters, folder: str = ""
) -> Facets:
    """Count the items of a collection that match; ``folder`` is the beginning of the folders of all of them.

    Of more than can soon be read, the first ``item_lists.MAX_COMPARED`` of the collection are counted.
    """
    matching, is_exact = countable(session, collection, settings, filters)
    found = Facets({name: Values() for name in FIELDS}, {}, [], 0, 0, is_exact)
    # enough for the planner to count all columns in one pass, since it expects many more values than there mostly are
    settings_of_it = {"work_mem": _MEMORY, "enable_seqscan": "off"}
    session.execute(sa.select(*(sa.func.set_config(*each, sa.true()) for each in settings_of_it.items())))
    for text, count, number in session.execute(_tag_counts(matching)):
        _add(found, "tags", text, int(count), number)
    for facet, text, count, number in session.execute(_counts(matching, folder)):
        _add(found, facet, text, int(count), number)
    found.taken.sort(key=lambda one: (one.year, one.month or 0))
    found.counted = sum(value.count for value in found.fields["kind"].shown)
    named = [field.name for field in fields_of(filters.expression) if field.is_column]
    for name, text, count, total, number in session.execute(_cell_counts(matching, named)):
        _add_cell(found, name, text, int(count), int(total), number)
    return found


def countable(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters
) -> tuple[list[sa.ColumnElement[bool]], bool]:
    """Return the conditions for the items of a collection that match, and whether these are all of them.

    Of more than can soon be read, they are those among the first ``item_lists.MAX_COMPARED`` of the collection.
    """
    matching = item_lists.conditions(session, collection, settings, filters)
    # the planner takes comparing texts to cost less than it does
    if not filters.text and item_lists.cost_of(session, sa.select(Item.name).where(*matching)) <= _COUNTABLE:
        return matching, True
    last = _last_compared(session, collection)
    return ([*matching, Item.id <= last], False) if last is not None else (matching, True)


def _last_compared(session: Session, collection: Collection) -> Any:
    in_order = sa.select(Item.id).where(Item.collection_id == collection.id, is_ready()).order_by(Item.id)
    return session.scalar(in_order.offset(item_lists.MAX_COMPARED - 1).limit(1))


def _counts(matching: Sequence[sa.ColumnElement[bool]], folder: str) -> sa.Select[Any]:
    """Return the query of values and counts, whose ``facet`` tells the column that they are of."""
    items = sa.select(*(column.label(name) for name, column in _columns(folder).items())).where(*matching).subquery()
    columns = list(items.c)
    grouped = (
        sa.select(
            sa.case(*((sa.func.grouping(column) == 0, sa.literal(column.name, sa.Text)) for column in columns)).label(
                "facet"
            ),
            sa.func.coalesce(*(sa.cast(column, sa.Text) for column in columns)).label("text"),
            sa.func.count().label("count"),
        )
        .group_by(sa.func.grouping_sets(*(sa.tuple_(column) for column in columns)))
        .subquery()
    )
    # upper and lower case are the same camera; only now, as there are much fewer values than items
    same = sa.case((grouped.c.facet.in_(("camera", "lens")), folded(grouped.c.text)), else_=grouped.c.text)
    merged = (
        sa.select(grouped.c.facet, sa.func.max(grouped.c.text).label("text"), sa.func.sum(grouped.c.count).label("n"))
        .group_by(grouped.c.facet, same)
        .subquery()
    )
    order = (merged.c.text.is_(None), merged.c.n.desc(), merged.c.text)
    rank = sa.func.row_number().over(partition_by=merged.c.facet, order_by=order).label("rank")
    number = sa.func.count(merged.c.text).over(partition_by=merged.c.facet).label("number")
    ranked = sa.select(merged, rank, number).subquery()
    shown = sa.or_(ranked.c.rank <= MAX_VALUES, ranked.c.text.is_(None), ranked.c.facet == "taken")
    return sa.select(ranked.c.facet, ranked.c.text, ranked.c.n, ranked.c.number).where(shown).order_by(ranked.c.rank)


def _columns(folder: str) -> dict[str, Any]:
    month = sa.func.date_trunc("month", Item.taken)
    is_within = Item.taken_until <= month + sa.literal_column("interval '1 month'")
    inner = sa.func.substr(Item.name, len(folder) + 1) if folder else Item.name
    return {
        "kind": Item.kind,
        "rating": Item.rating,
        "camera": sa.func.nullif(Item.camera, ""),
        "lens": sa.func.nullif(Item.lens, ""),
        "folder": sa.case((sa.func.strpos(inner, "/") > 0, folder + sa.func.split_part(inner, "/", 1) + "/")),
        # the first day of a month, or the second of a year of which no month is known
        "taken": sa.cast(month, sa.Date) + sa.case((is_within, 0), (Item.taken.is_not(None), 1)),
        "untagged": sa.func.nullif(sa.func.cardinality(Item.tags) > 0, sa.true()),
    }


def _tag_counts(matching: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any, Any, int]:
    """Return the query of tags and counts. An item with two spellings of a tag counts for both."""
    tags = sa.select(sa.func.unnest(Item.tags).label("tag")).where(*matching).subquery()
    counted = sa.select(tags.c.tag, sa.func.count().label("n")).group_by(tags.c.tag).subquery()
    text, count = sa.func.max(counted.c.tag), sa.func.sum(counted.c.n)
    query = sa.select(text, count, sa.func.count().over()).group_by(folded(counted.c.tag))
    return query.order_by(count.desc(), text).limit(MAX_VALUES)


def _cell_counts(matching: Sequence[sa.ColumnElement[bool]], named: Sequence[str]) -> sa.Select[Any]:
    """Return the query of cells of further columns and counts, with how many cells and values the column has.

    A column where each item has a value of its own tells nothing; one of those ``named`` is there nevertheless.
    """
    cell = sa.func.jsonb_each_text(Item.further).table_valued("key", "value").lateral()
    text = sa.func.left(cell.c.value, _LONGEST_CELL + 1).label("text")
    cells = sa.select(cell.c.key, text).select_from(sa.join(Item, cell, sa.true())).where(*matching).subquery()
    counted = (
        sa.select(cells.c.key, cells.c.text, sa.func.count().label("n")).group_by(cells.c.key, cells.c.text).subquery()
    )
    name = folded(counted.c.key).label("name")
    merged = (
        sa.select(name, *(sa.func.max(column).label(column.name) for column in (counted.c.key, counted.c.text)))
        .add_columns(sa.func.sum(counted.c.n).label("n"))
        .group_by(name, folded(counted.c.text))
        .subquery()
    )

    def over(value: Any, order: Any = None) -> Any:
        return value.over(partition_by=merged.c.name, order_by=order)

    most = over(sa.func.max(merged.c.n)).label("most")
    rank = over(sa.func.row_number(), (merged.c.n.desc(), merged.c.text)).label("rank")
    key, total = over(sa.func.max(merged.c.key)).label("label"), over(sa.func.sum(merged.c.n)).label("total")
    columns = sa.select(merged, key, total, over(sa.func.count()).label("number"), rank, most).subquery().c
    is_shown = sa.or_(columns.most > 1, columns.name.in_([folded(one) for one in named]))
    query = sa.select(columns.label, columns.text, columns.n, columns.total, columns.number)
    query = query.where(is_shown, columns.rank <= MAX_VALUES, sa.func.length(columns.text) <= _LONGEST_CELL)
    return query.order_by(columns.total.desc(), columns.name, columns.rank).limit(MAX_COLUMNS * MAX_VALUES)


def _add_cell(found: Facets, name: str, text: str, count: int, total: int, number: int) -> None:
    """Take the count of a cell into the facets; those of a column follow each other."""
    if name not in found.columns:
        if len(found.columns) == MAX_COLUMNS:
            return
        without = found.counted - total
        found.columns[name] = Values([Value(None, without)] if without > 0 else [], number)
    values = found.columns[name]
    # that of the items without one stays the last
    values.shown.insert(sum(value.text is not None for value in values.shown), Value(text, count))
    values.others -= 1


def _add(found: Facets, facet: str, text: str | None, count: int, number: int) -> None:
    """Take the count of a value into the facets."""
    if facet in found.fields:
        values = found.fields[facet]
        values.shown.append(Value(text, count))
        values.others = max(0, number - MAX_VALUES)
    elif facet == "untagged":
        found.fields["tags"].shown += [Value(None, count)] if text == "false" else []
    elif text is None:
        found.undated = count
    else:
        at = date.fromisoformat(text)
        found.taken.append(Taken(at.year, at.month if at.day == 1 else None, count))
