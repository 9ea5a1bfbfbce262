"""Collections: create, list, read, change, delete."""

from __future__ import annotations

from uuid import UUID

from flask import Response
from pydantic import BaseModel, Field

from retllm.db.session import transaction
from retllm.identity.access import Right, collection_for
from retllm_web.actions import catalog, membership
from retllm_web.actions.collection_views import CollectionChange, CollectionRequest, CollectionView, collection_views
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import PREFIX, api
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import PageQuery, cut
from retllm_web.http.services import services

TAGS = tags("collections")


class CollectionList(BaseModel):
    """A page of collections, newest first."""

    collections: list[CollectionView]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


class CollectionPath(BaseModel):
    """The key of a collection."""

    collection_id: UUID


@api.post("/collections", tags=TAGS, responses={201: CollectionView, 409: ErrorBody})
def create_collection(body: CollectionRequest) -> Response:
    """Create a collection."""
    with transaction(services().sessions) as session:
        created = catalog.create(session, current_actor(), body.name, body.description, body.language)
        view = collection_views(session, [created])[0]
    return answer(view, 201, location=f"{PREFIX}/collections/{view.id}")


@api.get("/collections", tags=TAGS, responses={200: CollectionList})
def list_collections(query: PageQuery) -> Response:
    """List the collections that the caller may see, newest first."""
    with transaction(services().sessions) as session:
        rows = catalog.page(session, current_actor(), after=query.after, limit=query.limit + 1)
        page, following = cut(rows, query.limit)
        return answer(CollectionList(collections=collection_views(session, page), next=following))


@api.get("/collections/<uuid:collection_id>", tags=TAGS, responses={200: CollectionView})
def get_collection(path: CollectionPath) -> Response:
    """Return one collection with its counts."""
    with transaction(services().sessions) as session:
        return answer(collection_views(session, [collection_for(session, current_actor(), path.collection_id)])[0])


@api.patch("/collections/<uuid:collection_id>", tags=TAGS, responses={200: CollectionView, 409: ErrorBody})
def change_collection(path: CollectionPath, body: CollectionChange) -> Response:
    """Change the name, the description, the language or, as its owner, embedder and positions of a collection."""
    chooses = "embedder" in body.model_fields_set
    with transaction(services().sessions) as session:
        right = Right.MANAGE if chooses or body.positions is not None else Right.CHANGE
        found = collection_for(session, current_actor(), path.collection_id, right)
        catalog.change(session, found, name=body.name, description=body.description, language=body.language)
        if chooses:
            catalog.use_embedder(session, found, body.embedder, services().settings)
        if body.positions is not None:
            membership.set_positions(session, found, body.positions)
        view = collection_views(session, [found])[0]
    return answer(view)


@api.delete("/collections/<uuid:collection_id>", tags=TAGS, responses={204: None})
def delete_collection(path: CollectionPath) -> Response:
    """Move a collection to the trash with its items, files, jobs and results; all are gone at once, for everyone.

    Its owner and administrators can restore it.
    """
    catalog.delete(current_actor(), path.collection_id)
    return nothing()
