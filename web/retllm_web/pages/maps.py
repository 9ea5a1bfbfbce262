"""The map of a collection: its picture, coloured by a field, with a legend; and the form that has it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import OVER_JOBS
from retllm.db.many import one_of
from retllm.db.maps import SIDE
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item
from retllm.errors import InvalidInput, RetllmError
from retllm.filters import Compare, Field, all_of
from retllm.identity.access import Right, collection_for, right_in, sees_positions
from retllm.maps import views
from retllm_web.actions import catalog, map_colours, map_points
from retllm_web.actions.map_colours import Colours
from retllm_web.actions.map_points import Area, Point
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.collections import rights
from retllm_web.pages.item_list import ItemListFilters

_AREA = "AREA"


@dataclass(frozen=True)
class Dots:
    """The points of one colour, as the path of an SVG: each is a line without length, whose round ends are the dot."""

    mark: str
    path: str


@dataclass(frozen=True)
class Entry:
    """A line of the legend; ``address`` are the arguments of the page with these points only, None if there is none."""

    mark: str
    label: str
    count: int
    address: dict[str, str] | None


@pages.get("/collections/<uuid:collection_id>/map")
def collection_map(collection_id: UUID) -> ResponseReturnValue:
    """Show the map of a collection: the items that match the filter of the address."""
    filters, settings = ItemListFilters.of(request.args), services().settings
    problem, field = None, map_colours.field_of("")
    try:
        field = map_colours.field_of(request.args.get("colour", ""))
    except InvalidInput as error:
        problem = error.message
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), collection_id)
        state = views.state_of(session, collection, settings)
        right = right_in(session, current_actor(), collection)
        changeable = catalog.changeable(session, current_actor()) if right and right >= Right.CHANGE else []
        drawn = _drawn(session, collection, filters, field)
        field = _spelled(field, drawn["columns"])
        may_see_places = sees_positions(session, current_actor(), collection)
    return render_template(
        "collection_map.html",
        collection=collection,
        state=state,
        working=state.job is not None and state.job.state not in OVER_JOBS,
        filters=filters,
        problem=problem,
        field=field,
        title=map_colours.title_of(field),
        fields={name: map_colours.title_of(Field(name)) for name in map_colours.FIELDS},
        side=SIDE,
        selection=_selection(filters),
        targets=[one for one in changeable if one.id != collection_id],
        may_see_places=may_see_places,
        **drawn,
        **rights(right),
    )


def _drawn(session: Session, collection: Collection, filters: ItemListFilters, field: Field) -> dict[str, Any]:
    """Return what the template draws; nothing if the filter can't be read or takes too long, which is then noted."""
    empty: dict[str, Any] = {
        "dots": [],
        "legend": [],
        "areas": [],
        "middles": {},
        "columns": [],
        "number": 0,
        "more": False,
    }
    if filters.refused is not None:
        return empty
    try:
        page = map_points.page(session, collection, services().settings, filters.items, field)
    except InvalidInput as error:
        filters.refused = error.message
        return empty
    colours = map_colours.colours_of(field, [point.value for point in page.points])
    return {
        "dots": _dots(page.points, colours),
        "legend": _legend(colours, filters),
        "areas": (areas := map_points.areas(page.points)),
        "middles": _items(session, areas),
        "columns": map_points.columns(session, page.points),
        "number": len(page.points),
        "more": page.next is not None,
    }


def _spelled(field: Field, columns: Sequence[Field]) -> Field:
    """Return a further column as the items spell it, if these are theirs."""
    spelled = {map_colours.folded_key(one.name): one for one in columns} if field.is_column else {}
    return spelled.get(map_colours.folded_key(field.name), field)


def _items(session: Session, areas: Sequence[Area]) -> dict[UUID, Item]:
    keys = [area.middle.item_id for area in areas]
    return {item.id: item for item in session.scalars(sa.select(Item).where(one_of(Item.id, keys)))}


def _dots(points: Sequence[Point], colours: Colours) -> list[Dots]:
    paths: dict[int, list[str]] = {}
    for point in points:
        paths.setdefault(colours.group_of(point.value), []).append(f"M{point.x:.2f} {point.y:.2f}h0")
    # items without a value first, so that others are drawn over them
    return [Dots(colours.mark(group), "".join(paths[group])) for group in sorted(paths, reverse=True)]


def _legend(colours: Colours, filters: ItemListFilters) -> list[Entry]:
    return [
        Entry(
            colours.mark(place),
            group.label,
            group.count,
            filters.address_with(*group.parts) if group.parts else None,
        )
        for place, group in enumerate(colours.groups)
    ]


def _selection(filters: ItemListFilters) -> str:
    """Return the filter of a selected area, in which a script puts numbers in the place of its last word."""
    return str(all_of((*filters.parts, Compare(Field("map"), "within", (_AREA,)))))


@pages.post("/collections/<uuid:collection_id>/map")
def make_map(collection_id: UUID) -> ResponseReturnValue:
    """Submit a job that makes the map."""
    try:
        job = map_points.make(current_actor(), collection_id)
    except RetllmError as error:
        return refused(error, url_for("pages.collection_map", collection_id=collection_id))
    return redirect(url_for("pages.job", job_id=job.id))
