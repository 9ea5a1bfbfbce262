"""The models of collections in the API and the pages."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, JobKind, JobState, Positions, Visibility
from retllm.db.tables import DEFAULT_LANGUAGE, Collection
from retllm.identity.members import MAX_COUNTED
from retllm.identity.members import counts as counts_of_members
from retllm.indexing.indexed import embedder_of
from retllm_web.actions import catalog
from retllm_web.http.bodies import ONE_LINE
from retllm_web.http.services import services

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=ONE_LINE)]


Description = Annotated[str, StringConstraints(max_length=4000)]

Language = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=ONE_LINE)]
LANGUAGE_MEANING = (
    "language of its texts and captions for full-text search, a text search configuration of the server's PostgreSQL "
    "such as `english`, `german`, or `simple` (words are not stemmed); an unknown one is refused with a list"
)


POSITIONS_MEANING = (
    "who sees where items were made, and gets originals: everyone who sees the collection, its editors, or nobody; "
    "for nobody, positions are erased, and not read from files, and editors get originals"
)


class CollectionRequest(BaseModel):
    """A collection to create."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="unique among its owner's collections; surrounding whitespace is removed")
    description: Description = ""
    language: Language = Field(default=DEFAULT_LANGUAGE, description=LANGUAGE_MEANING)


class CollectionChange(BaseModel):
    """The changes of a collection; omitted fields stay unchanged."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    description: Description | None = None
    language: Language | None = Field(default=None, description=LANGUAGE_MEANING)
    positions: Positions | None = Field(default=None, description=f"{POSITIONS_MEANING}; null leaves it unchanged")
    embedder: Annotated[str, StringConstraints(max_length=500)] | None = Field(
        default=None,
        description="the primary embedder for searches, a configured one that has embedded every item; "
        "null follows the settings of the server",
    )


class LastJob(BaseModel):
    """The job of a collection that runs, else one that is queued, else the newest."""

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
    members: int = Field(
        description=f"accounts that it is shared with; {MAX_COUNTED + 1:,} means more than {MAX_COUNTED:,}"
    )
    positions: Positions = Field(description=POSITIONS_MEANING)
    created_at: datetime
    items: dict[ItemKind, int] = Field(description="items of each kind")
    items_total: int
    items_indexed: int = Field(description="items with an up-to-date embedding by the primary embedder")
    items_failed: int = Field(description="items without an embedding whose last attempt failed")
    embedder: str = Field(description="the primary embedder for searches")
    language: str = Field(description="language of its texts and captions for full-text search")
    last_job: LastJob | None
    notice: str | None = Field(description="a notice on the configured models, such as that they are for a demo")


def collection_views(session: Session, found: list[Collection]) -> list[CollectionView]:
    """Return ``found`` as the API and the pages show them."""
    counts = catalog.count_items(session, found, services().settings)
    owners = catalog.owners_of(session, found)
    shared = counts_of_members(session, [collection.id for collection in found])
    return [
        _view(collection, owners[collection.id], counts[collection.id], shared[collection.id]) for collection in found
    ]


def _view(collection: Collection, owner: str, counts: catalog.CollectionCounts, shared: int) -> CollectionView:
    job = counts.last_job
    return CollectionView(
        id=collection.id,
        name=collection.name,
        description=collection.description,
        owner=owner,
        visibility=collection.visibility,
        members=shared,
        positions=collection.positions,
        created_at=collection.created_at,
        items=counts.items,
        items_total=counts.total,
        items_indexed=counts.indexed,
        items_failed=counts.failed,
        embedder=embedder_of(collection, services().settings),
        language=collection.language,
        last_job=LastJob.model_validate(job) if job else None,
        notice=services().settings.notice,
    )
