"""Where the items of a collection were made: an equirectangular map with clusters, each a link."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.session import transaction
from retllm.errors import InvalidInput
from retllm.filters import narrowed
from retllm.identity.access import collection_for
from retllm_web.actions import item_lists, places
from retllm_web.actions.places import ACROSS, DOWN, MAX_ZOOM, Cluster, Places, Window
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages
from retllm_web.pages.item_list import ItemListFilters

WIDTH, HEIGHT = 720, 360
"""Of the picture, in its own units."""
_STEPS = (45, 30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_LEAST_LINES = 4
_SMALLEST, _LARGEST = 9.0, 22.0
# half of what the circles of two cells are apart at least: on phones all have that radius
_APART = 17.0
# so many items are looked at in the gallery and not divided further
_FEW = 24
_METRES = 111_320.0
# latitude and longitude of names that help to find one's way on a map without coasts
_NAMES = {
    "Europe": (52, 20),
    "Asia": (48, 92),
    "Africa": (8, 20),
    "North America": (46, -100),
    "South America": (-14, -58),
    "Australia": (-26, 134),
    "Antarctica": (-72, 20),
    "Atlantic": (18, -38),
    "Pacific": (12, -150),
    "Indian Ocean": (-36, 74),
}
_NAMES_UNTIL = 2


@dataclass(frozen=True)
class Mark:
    """A cluster as it is drawn: where in the picture, how large, and where it leads to."""

    cluster: Cluster
    x: float
    y: float
    radius: float
    address: str
    label: str


@dataclass(frozen=True)
class Line:
    """A line of the graticule: how far from the left or the top, and its name."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """The length of a line that is so many units long in the middle of the picture."""

    length: float
    label: str


@pages.get("/collections/<uuid:collection_id>/places")
def show_places(collection_id: UUID) -> ResponseReturnValue:
    """Show where the items of a collection were made that match the filter of the address, in a window."""
    filters, window = ItemListFilters.of(request.args), _window()
    found = Places([], is_exact=True)
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), collection_id)
        places.require(session, collection)
        if filters.refused is None:
            try:
                found = places.places(session, collection, services().settings, filters.items, window)
            except InvalidInput as error:
                filters.refused = error.message
    address = _Address(collection_id, filters)
    return render_template(
        "places.html",
        collection=collection,
        filters=filters,
        window=window,
        found=found,
        marks=[_mark(cluster, window, address) for cluster in found.clusters],
        meridians=list(_lines(window.west, window.width, WIDTH, "W", "E")),
        parallels=[
            Line(HEIGHT - line.at, line.label) for line in _lines(window.south, window.height, HEIGHT, "S", "N")
        ],
        names=[(name, *_at(window, *place)) for name, place in _NAMES.items()] if window.zoom <= _NAMES_UNTIL else [],
        scale=_scale(window),
        address=address,
        size=(WIDTH, HEIGHT),
        max_zoom=MAX_ZOOM,
        max_compared=item_lists.MAX_COMPARED,
    )


def _window() -> Window:
    """Return the window of the address; what is no number counts as absent."""

    def number(name: str) -> float:
        try:
            value = float(request.args.get(name, "0"))
        except ValueError:
            return 0.0
        return value if math.isfinite(value) else 0.0

    return Window.at(int(max(0, min(MAX_ZOOM, number("zoom")))), number("latitude"), number("longitude"))


@dataclass(frozen=True)
class _Address:
    """Links of the page: to other windows, and to the gallery."""

    collection_id: UUID
    filters: ItemListFilters

    def to(self, window: Window) -> str:
        """Return the address of this page with another window."""
        address: dict[str, Any] = {**self.filters.address()}
        if window.zoom:
            address |= {
                "zoom": window.zoom,
                "latitude": f"{window.latitude:.6f}",
                "longitude": f"{window.longitude:.6f}",
            }
        return url_for("pages.show_places", collection_id=self.collection_id, **address)

    def gallery(self, thing: Window | Cluster) -> str:
        """Return the address of the items in a window or of a cluster."""
        part = narrowed(self.filters.expression, thing.part)
        address: dict[str, Any] = {**self.filters.address(filter=str(part))}
        return url_for("pages.collection", collection_id=self.collection_id, _anchor="items", **address)


def _at(window: Window, latitude: float, longitude: float) -> tuple[float, float]:
    x = (longitude - window.west) / window.width * WIDTH
    y = (window.north - latitude) / window.height * HEIGHT
    return round(x, 1), round(y, 1)


def _mark(cluster: Cluster, window: Window, address: _Address) -> Mark:
    radius = min(_LARGEST, _SMALLEST + 3.5 * math.log10(cluster.count))
    margin = max(_APART, radius)
    x = _inside((cluster.longitude - window.west) / window.width, ACROSS, WIDTH, margin)
    y = HEIGHT - _inside((cluster.latitude - window.south) / window.height, DOWN, HEIGHT, margin)
    to_gallery = cluster.count <= _FEW or cluster.is_point or window.zoom == MAX_ZOOM
    where = f"{_degrees(cluster.latitude, 'S', 'N', 2)}, {_degrees(cluster.longitude, 'W', 'E', 2)}"
    items = f"{cluster.count:,} {'item' if cluster.count == 1 else 'items'}"
    return Mark(
        cluster,
        x,
        y,
        radius,
        address.gallery(cluster) if to_gallery else address.to(cluster.window(window.zoom)),
        f"{items} near {where}: {'open in the gallery' if to_gallery else 'zoom in'}",
    )


def _inside(share: float, cells: int, length: float, margin: float) -> float:
    """Return a place in units; it keeps a margin to the ends of its cell, so that circles of two do not overlap."""
    cell = length / cells
    begin = min(int(share * cells), cells - 1) * cell
    return round(max(begin + margin, min(begin + cell - margin, share * length)), 1)


def _degrees(value: float, below: str, above: str, decimals: int) -> str:
    text = f"{abs(value):.{decimals}f}"
    return f"{text}°" if not float(text) else f"{text}° {below if value < 0 else above}"


def _lines(begin: float, degrees: float, length: float, below: str, above: str) -> Iterator[Line]:
    step = next((step for step in _STEPS if degrees / step >= _LEAST_LINES), _STEPS[-1])
    decimals = max(0, -math.floor(math.log10(step))) if step < 1 else 0
    for number in range(math.ceil(begin / step), math.floor((begin + degrees) / step) + 1):
        value = number * step
        yield Line(round((value - begin) / degrees * length, 1), _degrees(value, below, above, decimals))


def _scale(window: Window) -> Scale:
    """Return a round distance from west to east that is between a twelfth and a quarter of the picture's width."""
    metres = window.width * _METRES * max(0.01, math.cos(math.radians(window.latitude))) / 4
    power = 10 ** math.floor(math.log10(metres))
    rounded = power * next(one for one in (5, 2, 1) if one * power <= metres)
    label = f"{rounded / 1000:,.0f} km" if rounded >= 1000 else f"{rounded:,.0f} m"
    return Scale(round(WIDTH / 4 * rounded / metres, 1), label)
