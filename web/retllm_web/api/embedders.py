"""The embedders of a collection: what each has embedded, indexing with one beside the others, removing old vectors."""

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
    """What an embedder has embedded in a collection."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    model_id: UUID | None = Field(description="null while no worker has loaded it")
    revision: str | None
    in_force: bool = Field(description="workers serve it, in this revision")
    in_use: bool = Field(description="searches of the collection use it first")
    embedded: int = Field(description="items whose vector is up to date")
    failed: int = Field(description="items without one that could not be embedded the last time")
    missing: int = Field(description="the other items without one; 0 before searches can use it")
    vectors: int = Field(description="all its vectors in the collection, those out of date too")


class EmbedderList(BaseModel):
    """Every embedder in force, the one in use first, and every other that still has vectors in the collection."""

    embedders: list[EmbedderView]


class IndexRequest(BaseModel):
    """Which embedder to index with."""

    model_config = ConfigDict(extra="forbid")

    embedder: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(
        description="one of those in force"
    )


class ModelPath(CollectionPath):
    """The keys of a collection and of a model."""

    model_id: UUID


class Removed(BaseModel):
    """What was removed."""

    vectors: int


@api.get("/collections/<uuid:collection_id>/embedders", tags=TAGS, responses={200: EmbedderList})
def list_embedders(path: CollectionPath) -> Response:
    """What each embedder has embedded; for the owner of the collection and administrators."""
    _, covered = reembedding.coverage(current_actor(), path.collection_id)
    return answer(EmbedderList(embedders=[EmbedderView.model_validate(one) for one in covered]))


@api.post("/collections/<uuid:collection_id>/embedders/index", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def index_with_embedder(path: CollectionPath, header: IdempotencyHeader, body: IndexRequest) -> Response:
    """Embed every item that has no up-to-date vector of one embedder, beside the vectors that there are."""
    return accepted(
        reembedding.index_with(
            current_actor(), path.collection_id, body.embedder, idempotency_key=header.idempotency_key
        )
    )


@api.delete(
    "/collections/<uuid:collection_id>/embedders/<uuid:model_id>", tags=TAGS, responses={200: Removed, 409: ErrorBody}
)
def remove_vectors(path: ModelPath) -> Response:
    """Remove the vectors of a model that searches of the collection do not use."""
    return answer(Removed(vectors=reembedding.remove(current_actor(), path.collection_id, path.model_id)))
