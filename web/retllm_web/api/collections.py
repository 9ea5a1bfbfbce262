"""Collections: make, list, read, rename, delete."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from retllm.access import Right, collection_for
from retllm.db.enums import ItemKind, JobKind, JobState, Visibility
from retllm.db.session import transaction
from retllm.db.tables import Collection
from retllm.jobs.indexed import embedder_of
from retllm.media import ingest
from retllm_web import catalog
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import PREFIX, api
from retllm_web.api.paging import PageQuery, cut
from retllm_web.api.spec import ONE_LINE, ErrorBody, tags
from retllm_web.auth import current_user
from retllm_web.services import services

TAGS = tags("collections")

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=ONE_LINE)]
Description = Annotated[str, StringConstraints(max_length=4000)]


class CollectionRequest(BaseModel):
    """A collection to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="unique among its owner's collections; spaces around it are dropped")
    description: Description = ""


class CollectionChange(BaseModel):
    """What to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    description: Description | None = None
    embedder: Annotated[str, StringConstraints(max_length=500)] | None = Field(
        default=None,
        description="the embedder that searches use first, one of those in force that has embedded every item; "
        "null follows the settings of the server",
    )


class LastJob(BaseModel):
    """The newest job of a collection."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: JobKind
    state: JobState
    created_at: datetime
    finished_at: datetime | None


class CollectionView(BaseModel):
    """A collection with its counts."""

    id: UUID
    name: str
    description: str
    owner: str
    visibility: Visibility
    created_at: datetime
    items: dict[ItemKind, int] = Field(description="items of each kind")
    items_total: int
    items_indexed: int = Field(description="items whose embedding by the embedder in use is up to date")
    items_failed: int = Field(description="items that have none, and could not be embedded the last time")
    embedder: str = Field(description="the embedder that searches use first")
    last_job: LastJob | None


class CollectionList(BaseModel):
    """A page of collections, newest first."""

    collections: list[CollectionView]
    next: UUID | None = Field(description="send as `after` for the next page; null at the end")


class CollectionPath(BaseModel):
    """The key of a collection."""

    collection_id: UUID


def views(session: Session, found: list[Collection]) -> list[CollectionView]:
    """``found`` as the API and the pages show them."""
    facts = catalog.facts_of(session, found, services().settings)
    owners = catalog.owners_of(session, found)
    return [_view(one, owners[one.id], facts[one.id]) for one in found]


def _view(collection: Collection, owner: str, facts: catalog.Facts) -> CollectionView:
    job = facts.last_job
    return CollectionView(
        id=collection.id,
        name=collection.name,
        description=collection.description,
        owner=owner,
        visibility=collection.visibility,
        created_at=collection.created_at,
        items=facts.items,
        items_total=facts.total,
        items_indexed=facts.indexed,
        items_failed=facts.failed,
        embedder=embedder_of(collection, services().settings),
        last_job=LastJob.model_validate(job) if job else None,
    )


@api.post("/collections", tags=TAGS, responses={201: CollectionView, 409: ErrorBody})
def create_collection(body: CollectionRequest) -> Response:
    """Make a collection."""
    with transaction(services().sessions) as session:
        made = catalog.create(session, current_user(), body.name, body.description)
        view = views(session, [made])[0]
    return answer(view, 201, location=f"{PREFIX}/collections/{view.id}")


@api.get("/collections", tags=TAGS, responses={200: CollectionList})
def list_collections(query: PageQuery) -> Response:
    """The collections that the caller may see, newest first."""
    with transaction(services().sessions) as session:
        rows = catalog.page(session, current_user(), after=query.after, limit=query.limit + 1)
        page, following = cut(rows, query.limit)
        return answer(CollectionList(collections=views(session, page), next=following))


@api.get("/collections/<uuid:collection_id>", tags=TAGS, responses={200: CollectionView})
def get_collection(path: CollectionPath) -> Response:
    """One collection with its counts."""
    with transaction(services().sessions) as session:
        return answer(views(session, [collection_for(session, current_user(), path.collection_id)])[0])


@api.patch("/collections/<uuid:collection_id>", tags=TAGS, responses={200: CollectionView, 409: ErrorBody})
def change_collection(path: CollectionPath, body: CollectionChange) -> Response:
    """Change the name, the description, or (as its owner) the embedder that searches use first."""
    chooses = "embedder" in body.model_fields_set
    with transaction(services().sessions) as session:
        right = Right.MANAGE if chooses else Right.CHANGE
        found = collection_for(session, current_user(), path.collection_id, right)
        catalog.change(session, found, name=body.name, description=body.description)
        if chooses:
            catalog.use_embedder(session, found, body.embedder, services().settings)
        view = views(session, [found])[0]
    return answer(view)


@api.delete("/collections/<uuid:collection_id>", tags=TAGS, responses={204: None})
def delete_collection(path: CollectionPath) -> Response:
    """Delete a collection: its items, files, jobs and results."""
    with services().sessions() as session:
        found = collection_for(session, current_user(), path.collection_id, Right.MANAGE)
        catalog.note_deletion(session, found)
        ingest.delete_collection(session, services().storage, found.id)
    return nothing()
