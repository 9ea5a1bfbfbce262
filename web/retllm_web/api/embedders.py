"""The embedders of a collection: what each has embedded, indexing with one of them, removing old vectors."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.history.job_views import JobView
from retllm_web.actions import reembedding
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api
from retllm_web.api.collections import CollectionPath
from retllm_web.api.jobs import IdempotencyHeader, accepted
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor

TAGS = tags("embedders")


class EmbedderView(BaseModel):
    """An embedder with its counts in a collection."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    model_id: UUID | None = Field(description="null while no worker has loaded it")
    revision: str | None
    in_force: bool = Field(description="the server is configured with it, in this revision")
    in_use: bool = Field(description="it is the primary embedder for searches of the collection")
    embedded: int = Field(description="items with an up-to-date vector")
    failed: int = Field(description="items without a vector whose last embedding failed")
    missing: int = Field(description="other items without a vector; must be 0 before searches can use the embedder")
    vectors: int = Field(description="all its vectors in the collection, including outdated ones")


class EmbedderList(BaseModel):
    """Every configured embedder, the one in use first, and every other with vectors in the collection."""

    embedders: list[EmbedderView]


class IndexRequest(BaseModel):
    """Which embedder to index with."""

    model_config = ConfigDict(extra="forbid")

    embedder: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(
        description="one of the configured embedders"
    )


class ModelPath(CollectionPath):
    """The keys of a collection and of a model."""

    model_id: UUID


class Removed(BaseModel):
    """The number of removed vectors."""

    vectors: int


@api.get("/collections/<uuid:collection_id>/embedders", tags=TAGS, responses={200: EmbedderList})
def list_embedders(path: CollectionPath) -> Response:
    """List the embedders with their counts; for the owner of the collection and administrators."""
    _, covered = reembedding.coverage(current_actor(), path.collection_id)
    return answer(EmbedderList(embedders=[EmbedderView.model_validate(embedder) for embedder in covered]))


@api.post("/collections/<uuid:collection_id>/embedders/index", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def index_with_embedder(path: CollectionPath, header: IdempotencyHeader, body: IndexRequest) -> Response:
    """Embed every item that has no up-to-date vector of the named embedder; existing vectors stay."""
    return accepted(
        reembedding.index_with(
            current_actor(), path.collection_id, body.embedder, idempotency_key=header.idempotency_key
        )
    )


@api.delete(
    "/collections/<uuid:collection_id>/embedders/<uuid:model_id>", tags=TAGS, responses={200: Removed, 409: ErrorBody}
)
def remove_vectors(path: ModelPath) -> Response:
    """Delete the vectors of a model that searches of the collection do not use."""
    return answer(Removed(vectors=reembedding.remove(current_actor(), path.collection_id, path.model_id)))
