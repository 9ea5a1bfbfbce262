"""The map of a collection: make it, and read its points. Shared by the API and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.facts import folded
from retllm.db.many import one_of
from retllm.db.maps import SIDE, MapPoint, MapResult
from retllm.db.tables import Collection, Item
from retllm.filters import Compare, Expression, Field
from retllm.history.job_views import JobView
from retllm.identity.actor import Actor
from retllm.maps.submit import submit_map
from retllm.settings import Settings
from retllm_web.actions import item_lists, submissions
from retllm_web.actions.item_lists import ItemFilters
from retllm_web.actions.map_colours import Colours, colours_of, value_of
from retllm_web.http.services import services

SAMPLE = 3_000
"""So many points are drawn at first, and decide the colours."""
_WITH_COLUMNS, _MAX_COLUMNS = 100, 20
_AREAS = 6
"""Areas side by side, and among themselves."""


@dataclass(frozen=True)
class Point:
    """A point of the map, with the value that it is coloured by."""

    item_id: UUID
    x: float
    y: float
    value: Any


@dataclass(frozen=True)
class PointPage:
    """Points of a map, and the rank after which the next ones follow; None after the last ones."""

    points: Sequence[Point]
    next: int | None


@dataclass(frozen=True)
class Area:
    """A square of the map: how many points of the sample are in it, the one nearest to its middle, and its filter."""

    name: str
    count: int
    middle: Point
    part: Expression


def make(actor: Actor, collection_id: UUID, *, idempotency_key: str | None = None) -> JobView:
    """Submit a job that makes the map.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
        Conflict: nothing is indexed, such a job is not over yet, or the idempotency key belongs to another request.
    """
    settings = services().settings
    return submissions.submit(
        actor, lambda session: submit_map(session, actor, collection_id, settings, idempotency_key=idempotency_key)
    )


def page(
    session: Session,
    collection: Collection,
    settings: Settings,
    filters: ItemFilters,
    field: Field,
    *,
    after: int | None = None,
    limit: int = SAMPLE,
) -> PointPage:
    """Return points whose items match, in their random order: the first ones are a sample of the map.

    With filters, a page may have few points or none although there are more pages: it looks at
    ``item_lists.MAX_COMPARED`` of them.

    Raises:
        InvalidInput, Busy: as :func:`item_lists.page`.
    """
    # also of a collection without a map, since what may not be named is refused everywhere
    matching = item_lists.conditions(session, collection, settings, filters)
    result = session.get(MapResult, collection.id)
    if result is None:
        return PointPage([], None)
    first = 0 if after is None else after + 1
    last = first + (limit if filters == ItemFilters() else item_lists.MAX_COMPARED) - 1
    with item_lists.bounded_for(session, filters):
        rows = session.execute(_query(collection, matching, field, first, last).limit(limit + 1)).all()
    points = [Point(row.id, row.x, row.y, row.value) for row in rows[:limit]]
    if len(rows) > limit:
        return PointPage(points, rows[limit - 1].rank)
    return PointPage(points, last if last < result.items - 1 else None)


def _query(
    collection: Collection, matching: Sequence[sa.ColumnElement[bool]], field: Field, first: int, last: int
) -> sa.Select[Any]:
    own = MapPoint.collection_id == collection.id, MapPoint.rank.between(first, last)
    # with its own limit, so that the planner looks up the items of these points, however large the collection is
    some = sa.select(MapPoint).where(*own).order_by(MapPoint.rank).limit(last - first + 1).subquery()
    columns = (Item.id, some.c.x, some.c.y, some.c.rank, value_of(field).label("value"))
    return sa.select(*columns).join_from(some, Item, Item.id == some.c.item_id).where(*matching).order_by(some.c.rank)


def colours(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters, field: Field
) -> Colours:
    """Return the colours of the points that match, by the first ``SAMPLE`` of them; raises like :func:`page`."""
    sample = page(session, collection, settings, filters, field)
    return colours_of(field, [point.value for point in sample.points])


def columns(session: Session, points: Sequence[Point]) -> list[Field]:
    """Return the further columns that the first of these points have, as the items spell them."""
    keys = [point.item_id for point in points[:_WITH_COLUMNS]]
    name = sa.func.jsonb_object_keys(Item.further).label("name")
    names = sa.select(name).where(one_of(Item.id, keys), Item.further.is_not(None)).subquery().c.name
    # upper and lower case are the same column, as for filters
    one = sa.select(sa.func.max(names)).group_by(folded(names)).order_by(folded(names)).limit(_MAX_COLUMNS)
    return [Field(text, is_column=True) for text in session.scalars(one)]


def areas(points: Sequence[Point]) -> list[Area]:
    """Return the squares of the map that have points, from its left top on."""
    size = SIDE / _AREAS
    inside: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        row, column = (min(_AREAS - 1, int(value / size)) for value in (point.y, point.x))
        inside.setdefault((row, column), []).append(point)
    return [_area(row, column, inside[row, column]) for row, column in sorted(inside)]


def _area(row: int, column: int, points: Sequence[Point]) -> Area:
    size = SIDE / _AREAS
    left, top = column * size, row * size
    middle = min(points, key=lambda point: (point.x - left - size / 2) ** 2 + (point.y - top - size / 2) ** 2)
    corners = (left, top, left + size, top + size)
    part = Compare(Field("map"), "within", tuple(f"{value:.2f}" for value in corners))
    return Area(f"{chr(ord('A') + row)}{column + 1}", len(points), middle, part)
