"""Where the items of a collection were made: clusters on a grid that becomes finer with the zoom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.tables import Collection, Item
from retllm.errors import NotFound
from retllm.filters import And, Compare, Expression, Field, Has
from retllm.identity.access import sees_positions
from retllm.settings import Settings
from retllm_web.actions import item_facets
from retllm_web.actions.item_lists import ItemFilters, bounded_for
from retllm_web.http.auth import current_actor

MAX_ZOOM = 16
"""At most: a window is then some 600 m wide at the equator."""
ACROSS, DOWN = 16, 8
"""Cells of the grid in a window."""
_WIDTH, _HEIGHT = 360.0, 180.0
# of a degree, about 10 cm: the ends of a box are rounded outwards to that
_DECIMALS = 6


@dataclass(frozen=True)
class Window:
    """A part of the Earth: 360 degrees of longitude and 180 of latitude, halved with each zoom, within its limits."""

    zoom: int = 0
    latitude: float = 0.0
    longitude: float = 0.0

    @property
    def width(self) -> float:
        """Degrees from west to east."""
        return _WIDTH / 2.0**self.zoom

    @property
    def height(self) -> float:
        """Degrees from south to north."""
        return _HEIGHT / 2.0**self.zoom

    @property
    def west(self) -> float:
        """The western end in degrees."""
        return self.longitude - self.width / 2

    @property
    def south(self) -> float:
        """The southern end in degrees."""
        return self.latitude - self.height / 2

    @property
    def east(self) -> float:
        """The eastern end in degrees."""
        return self.west + self.width

    @property
    def north(self) -> float:
        """The northern end in degrees."""
        return self.south + self.height

    @property
    def part(self) -> Expression:
        """The filter of the items in it."""
        return _within(self.south, self.west, self.north, self.east)

    @classmethod
    def at(cls, zoom: int, latitude: float, longitude: float) -> Window:
        """Return the window with this centre, moved if it would go beyond a pole or the meridian of 180 degrees."""
        whole = cls(max(0, min(MAX_ZOOM, zoom)))
        down, across = (_HEIGHT - whole.height) / 2, (_WIDTH - whole.width) / 2
        return replace(whole, latitude=max(-down, min(down, latitude)), longitude=max(-across, min(across, longitude)))

    def zoomed(self, steps: int) -> Window:
        """Return the window with the same centre that is halved so many times, or with a negative number doubled."""
        return Window.at(self.zoom + steps, self.latitude, self.longitude)

    def moved(self, up: float, right: float) -> Window:
        """Return the window that is so many of its heights and widths farther north and east."""
        return Window.at(self.zoom, self.latitude + up * self.height, self.longitude + right * self.width)


@dataclass(frozen=True)
class Cluster:
    """Items of one cell of the grid.

    Attributes:
        latitude: the mean in degrees; so is ``longitude``.
        south: of the box around them, in degrees, as are ``west``, ``north`` and ``east``.
        item_id: the one that was added last.
    """

    count: int
    latitude: float
    longitude: float
    south: float
    west: float
    north: float
    east: float
    item_id: UUID

    @property
    def part(self) -> Expression:
        """The filter of the items."""
        return _within(self.south, self.west, self.north, self.east)

    @property
    def is_point(self) -> bool:
        """Whether no window divides them."""
        return max(self.north - self.south, (self.east - self.west) / 2) < _HEIGHT / 2.0**MAX_ZOOM / DOWN

    def window(self, zoom: int) -> Window:
        """Return the smallest window with all of them, of a zoom above ``zoom``."""
        span = max(self.north - self.south, (self.east - self.west) / 2, 1e-9)
        fitting = int(math.log2(_HEIGHT / span))
        return Window.at(max(zoom + 1, fitting), (self.south + self.north) / 2, (self.west + self.east) / 2)


@dataclass(frozen=True)
class Places:
    """The clusters of a window, the largest first, and whether all items were counted."""

    clusters: Sequence[Cluster]
    is_exact: bool

    @property
    def count(self) -> int:
        """The number of the items."""
        return sum(cluster.count for cluster in self.clusters)


def require(session: Session, collection: Collection) -> None:
    """Require that this account may know where the items of a collection were made.

    Raises:
        NotFound: it may not, or the collection does not keep it.
    """
    if not sees_positions(session, current_actor(), collection):
        raise NotFound("This collection does not show where its items were made.")


def places(
    session: Session, collection: Collection, settings: Settings, filters: ItemFilters, window: Window
) -> Places:
    """Return the clusters of the items in a window that match.

    Of more items than can soon be read, those among the first ``item_lists.MAX_COMPARED`` of the collection count.

    Raises:
        NotFound: as :func:`require`.
        InvalidInput, Busy: as :func:`item_lists.page`.
    """
    require(session, collection)
    inside: Expression = Has(Field("position")) if window.zoom == 0 else window.part
    expression = inside if filters.expression is None else And((filters.expression, inside))
    with bounded_for(session, filters):
        matching, is_exact = item_facets.countable(
            session, collection, settings, replace(filters, expression=expression)
        )
        rows = session.execute(_query(matching, window)).all()
    return Places([Cluster(*row) for row in rows], is_exact)


def _query(matching: Sequence[sa.ColumnElement[bool]], window: Window) -> sa.Select[Any]:
    cell = window.width / ACROSS
    column = sa.func.least(sa.func.floor((Item.longitude - window.west) / cell), ACROSS - 1)
    row = sa.func.least(sa.func.floor((Item.latitude - window.south) / cell), DOWN - 1)
    count = sa.func.count().label("count")
    middle = (sa.func.avg(Item.latitude).label("latitude"), sa.func.avg(Item.longitude).label("longitude"))
    ends = (
        sa.func.min(Item.latitude).label("south"),
        sa.func.min(Item.longitude).label("west"),
        sa.func.max(Item.latitude).label("north"),
        sa.func.max(Item.longitude).label("east"),
    )
    newest = sa.cast(sa.func.max(sa.cast(Item.id, sa.Text)), sa.Uuid).label("item_id")
    query = sa.select(count, *middle, *ends, newest).where(*matching)
    return query.group_by(column, row).order_by(count.desc(), newest)


def _within(south: float, west: float, north: float, east: float) -> Compare:
    unit = 10**_DECIMALS
    low = [math.floor(value * unit) / unit for value in (south, west)]
    high = [math.ceil(value * unit) / unit for value in (north, east)]
    ends = [max(-90.0, low[0]), max(-180.0, low[1]), min(90.0, high[0]), min(180.0, high[1])]
    return Compare(Field("position"), "within", tuple(f"{value:.{_DECIMALS}f}" for value in ends))
