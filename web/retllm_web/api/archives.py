"""Items as a ZIP: their files, and a sheet with their captions and facts."""

from __future__ import annotations

from flask import Response, request
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.response import Response as DocumentedResponse
from pydantic import BaseModel, ConfigDict, Field

from retllm.db.session import transaction
from retllm.filters import parse
from retllm_web.actions import item_archive
from retllm_web.actions.item_archive import Wanted
from retllm_web.actions.item_lists import ItemFilters
from retllm_web.api.blueprint import api, strictly
from retllm_web.api.chosen import Choice
from retllm_web.api.collections import CollectionPath
from retllm_web.api.items import ItemFilterQuery
from retllm_web.api.searches import SearchPath
from retllm_web.api.spec import BINARY, ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services

TAGS = tags("items")
ARCHIVE = DocumentedResponse(description="The ZIP.", content={"application/zip": MediaType(schema=BINARY)})


class SearchArchiveQuery(BaseModel):
    """Which items of a search."""

    model_config = ConfigDict(extra="forbid")

    marked: bool = Field(default=False, description="those that are marked as relevant to its query, not its results")


@api.get("/collections/<uuid:collection_id>/archive", tags=TAGS, responses={200: ARCHIVE})
def get_archive(path: CollectionPath, query: ItemFilterQuery) -> Response:
    """Return the items of a collection that match as a ZIP: the originals, and `items.csv` with captions and facts.

    An upload of the ZIP gives the same items. Who may not have originals gets copies that do not tell where they were
    made. It is made while it is sent, so that its length is not known before.
    """
    filters = ItemFilters(query.kind, query.state, query.q or "", parse(query.filter or ""))
    return item_archive.send(current_actor(), Wanted([path.collection_id], filters=filters))


@api.post("/collections/<uuid:collection_id>/items/download", tags=TAGS, responses={200: ARCHIVE})
def download_items(path: CollectionPath, body: Choice) -> Response:
    """Return named items of a collection, or those that match a filter, as a ZIP like that of the whole collection.

    A token with the scope `read` may do this. If one of the named items is not there, nothing is sent.
    """
    body = strictly(Choice, request.get_data())
    actor = current_actor()
    if body.items is None:
        return item_archive.send(actor, Wanted([path.collection_id], filters=body.filters))
    with transaction(services().sessions) as session:
        wanted = item_archive.of_items(session, actor, path.collection_id, body.items)
    return item_archive.send(actor, wanted)


@api.get("/searches/<uuid:search_id>/archive", tags=TAGS, responses={200: ARCHIVE, 409: ErrorBody})
def get_search_archive(path: SearchPath, query: SearchArchiveQuery) -> Response:
    """Return the results of a search as a ZIP, or the items that are marked as relevant to its query."""
    actor = current_actor()
    with transaction(services().sessions) as session:
        wanted = item_archive.of_search(session, actor, path.search_id, marked=query.marked)
    return item_archive.send(actor, wanted)
