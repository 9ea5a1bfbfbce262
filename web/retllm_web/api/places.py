"""Where the items of a collection were made, in clusters."""

from __future__ import annotations

from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from retllm.db.session import transaction
from retllm.filters import parse
from retllm.identity.access import collection_for
from retllm_web.actions import places
from retllm_web.actions.item_lists import ItemFilters
from retllm_web.actions.places import MAX_ZOOM, Window
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api
from retllm_web.api.collections import CollectionPath
from retllm_web.api.items import ItemFilterQuery
from retllm_web.api.spec import tags
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services

TAGS = tags("items")


class PlacesQuery(ItemFilterQuery):
    """A window of the Earth, and which items count."""

    zoom: int = Field(default=0, ge=0, le=MAX_ZOOM, description="0 is the whole Earth; each step halves the window")
    latitude: float = Field(default=0, ge=-90, le=90, description="of the centre, in degrees north")
    longitude: float = Field(default=0, ge=-180, le=180, description="of the centre, in degrees east")


class ClusterView(BaseModel):
    """Items that are near to each other, for this window."""

    model_config = ConfigDict(from_attributes=True)

    count: int
    latitude: float = Field(description="the mean, in degrees north")
    longitude: float = Field(description="the mean, in degrees east")
    south: float = Field(description="of the box around them, in degrees")
    west: float
    north: float
    east: float
    item_id: UUID = Field(description="the item that was added last")


class PlacesView(BaseModel):
    """The clusters of a window."""

    model_config = ConfigDict(from_attributes=True)

    clusters: list[ClusterView] = Field(description="the largest first")
    is_exact: bool = Field(
        description="false if there were too many items to count them all: then only the first 10,000 of the "
        "collection were looked at"
    )


@api.get("/collections/<uuid:collection_id>/places", tags=TAGS, responses={200: PlacesView})
def list_places(path: CollectionPath, query: PlacesQuery) -> Response:
    """Count where the items of a collection were made; 404 for those who may not know it."""
    filters = ItemFilters(query.kind, query.state, query.q or "", parse(query.filter or ""))
    window = Window.at(query.zoom, query.latitude, query.longitude)
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), path.collection_id)
        found = places.places(session, collection, services().settings, filters, window)
    return answer(PlacesView.model_validate(found))
