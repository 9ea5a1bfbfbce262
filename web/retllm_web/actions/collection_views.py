"""Collections as the API and the pages show and take them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, JobKind, JobState, Visibility
from retllm.db.tables import Collection
from retllm.indexing.indexed import embedder_of
from retllm_web.actions import catalog
from retllm_web.http.bodies import ONE_LINE
from retllm_web.http.services import services

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
    notice: str | None = Field(description="what to know of the models in force, such as that they are for a demo")


def collection_views(session: Session, found: list[Collection]) -> list[CollectionView]:
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
        notice=services().settings.notice,
    )
