"""The map of a collection: make it, read its state and its points."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from flask import Response
from pydantic import BaseModel, Field

from retllm.db.session import transaction
from retllm.filters import all_of, parse
from retllm.history.job_views import JobView
from retllm.identity.access import collection_for
from retllm.maps import views
from retllm_web.actions import map_points
from retllm_web.actions.item_lists import ItemFilters
from retllm_web.actions.map_colours import field_of
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api
from retllm_web.api.collections import CollectionPath
from retllm_web.api.items import ItemFilterQuery
from retllm_web.api.jobs import IdempotencyHeader, accepted
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import optional
from retllm_web.http.services import services

TAGS = tags("items")
_MAX = 10_000


class MapView(BaseModel):
    """What is known of the map of a collection."""

    job_id: UUID | None = Field(description="the newest job that makes it; null if there is none (any more)")
    made_at: datetime | None = Field(description="when the map was made; null if there is none")
    items: int | None = Field(description="how many items it had then")
    out_of_date: bool = Field(description="whether items were indexed since, or the main embedder is another one")


class PointsQuery(ItemFilterQuery):
    """Which points to list, and by what they are grouped."""

    colour: str = Field(
        default="", max_length=500, description="the field whose values are the groups, such as `camera`; default: year"
    )
    after: int | None = optional("`next` of the previous page", ge=0, le=2**31 - 1 - _MAX)
    limit: int = Field(default=map_points.SAMPLE, ge=1, le=_MAX, description="maximum of points per page")


class PointGroup(BaseModel):
    """The points of one colour."""

    label: str
    count: int = Field(description="how many points of the sample that decides the groups")
    filter: str | None = Field(description="the filter that finds the items; null if there is none")


class MapPoints(BaseModel):
    """Points of a map, in columns and in a random order: the first page is a sample of the map."""

    groups: list[PointGroup] = Field(description="the last but one has all other values, the last one has none")
    ids: list[UUID] = Field(description="the items")
    x: list[float] = Field(description="from the left, 0 to 100")
    y: list[float] = Field(description="from the top, 0 to 100")
    group: list[int] = Field(description="the place of the group of each point in `groups`")
    next: int | None = Field(
        description="pass as `after` to get the next page; null on the last page. With filters, a page may have few "
        "points or none although there are more pages"
    )


@api.post("/collections/<uuid:collection_id>/map", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def make_map(path: CollectionPath, header: IdempotencyHeader) -> Response:
    """Lay out the vectors of a collection in two dimensions; the map replaces that of the job before."""
    return accepted(map_points.make(current_actor(), path.collection_id, idempotency_key=header.idempotency_key))


@api.get("/collections/<uuid:collection_id>/map", tags=TAGS, responses={200: MapView})
def get_map(path: CollectionPath) -> Response:
    """Return the state of the map of a collection."""
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), path.collection_id)
        state = views.state_of(session, collection, services().settings)
        return answer(
            MapView(
                job_id=state.job.id if state.job else None,
                made_at=state.result.created_at if state.result else None,
                items=state.result.items if state.result else None,
                out_of_date=state.out_of_date,
            )
        )


@api.get("/collections/<uuid:collection_id>/map/points", tags=TAGS, responses={200: MapPoints})
def list_map_points(path: CollectionPath, query: PointsQuery) -> Response:
    """List the points of the map whose items match the filters."""
    field, settings = field_of(query.colour), services().settings
    filters = ItemFilters(query.kind, query.state, query.q or "", parse(query.filter or ""))
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), path.collection_id)
        colours = map_points.colours(session, collection, settings, filters, field)
        found = map_points.page(session, collection, settings, filters, field, after=query.after, limit=query.limit)
    parts = [all_of(group.parts) for group in colours.groups]
    return answer(
        MapPoints(
            groups=[
                PointGroup(label=group.label, count=group.count, filter=str(part) if part else None)
                for group, part in zip(colours.groups, parts, strict=True)
            ],
            ids=[point.item_id for point in found.points],
            x=[round(point.x, 2) for point in found.points],
            y=[round(point.y, 2) for point in found.points],
            group=[colours.group_of(point.value) for point in found.points],
            next=found.next,
        )
    )
