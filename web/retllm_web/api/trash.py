"""The trash: list, restore and delete for good items and collections."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from flask import Response, request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from retllm.db.session import transaction
from retllm.identity.access import Right, collection_for
from retllm_web.actions import chosen, trash
from retllm_web.actions.chosen import Result
from retllm_web.actions.collection_views import CollectionView, collection_views
from retllm_web.actions.trash import Trashed, TrashedCollection, TrashedItem
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api, strictly
from retllm_web.api.chosen import SkippedItem, skipped_items
from retllm_web.api.collections import CollectionPath
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import PageQuery
from retllm_web.http.services import services

TAGS = tags("trash")

Named = Annotated[list[UUID], Field(min_length=1, max_length=chosen.MAX)]


class TrashedItems(BaseModel):
    """A page of the items in the trash of a collection, those that came last first."""

    items: list[TrashedItem]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


class TrashedCollections(BaseModel):
    """A page of the collections in the trash, newest first."""

    collections: list[TrashedCollection]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


class ToRestore(BaseModel):
    """Items to restore: either named ones, or all."""

    model_config = ConfigDict(extra="forbid")

    items: Named | None = None
    all: bool = Field(default=False, description="all items in the trash of the collection")
    after: UUID | None = Field(default=None, description="`next` of the request before, to go on with all")

    @model_validator(mode="after")
    def _one_of_both(self) -> ToRestore:
        if (self.items is None) != self.all:
            raise ValueError("give either items or all")
        return self


class ToRemove(BaseModel):
    """Items to delete for good."""

    model_config = ConfigDict(extra="forbid")

    items: Named


class TrashResult(BaseModel):
    """What became of the items: each is done completely or skipped."""

    done: list[UUID] = Field(description="the items that were restored, or deleted for good")
    skipped: list[SkippedItem] = Field(description="the others, and why")
    next: UUID | None = Field(
        description=f"pass as `after` for the rest of all: a request takes at most {chosen.MAX:,} items. Null if all "
        "are done"
    )
    error: str | None = Field(description="what ended the request early; what was done before stays done")


@api.get("/trash", tags=TAGS, responses={200: TrashedCollections})
def list_trashed_collections(query: PageQuery) -> Response:
    """List the collections in the trash that the caller may restore."""
    with transaction(services().sessions) as session:
        found, following = trash.collections(session, current_actor(), after=query.after, limit=query.limit)
    return answer(TrashedCollections(collections=found, next=following))


@api.delete("/trash/<uuid:collection_id>", tags=TAGS, responses={204: None, 409: ErrorBody})
def remove_collection(path: CollectionPath) -> Response:
    """Delete a collection in the trash for good."""
    trash.remove_collection(current_actor(), path.collection_id)
    return nothing()


@api.post("/collections/<uuid:collection_id>/restore", tags=TAGS, responses={200: CollectionView, 409: ErrorBody})
def restore_collection(path: CollectionPath) -> Response:
    """Restore a collection with its items, jobs and results; it gets another name if its own is taken by now."""
    trash.restore_collection(current_actor(), path.collection_id)
    with transaction(services().sessions) as session:
        return answer(collection_views(session, [collection_for(session, current_actor(), path.collection_id)])[0])


@api.get("/collections/<uuid:collection_id>/trash", tags=TAGS, responses={200: TrashedItems})
def list_trashed_items(path: CollectionPath, query: PageQuery) -> Response:
    """List the items in the trash of a collection; only for those who may change it."""
    with transaction(services().sessions) as session:
        collection_for(session, current_actor(), path.collection_id, Right.CHANGE)
        found, following = trash.page(session, path.collection_id, after=query.after, limit=query.limit)
    return answer(TrashedItems(items=found, next=following))


@api.delete("/collections/<uuid:collection_id>/trash", tags=TAGS, responses={204: None})
def empty_trash(path: CollectionPath) -> Response:
    """Delete all items in the trash of a collection for good, however many there are."""
    trash.empty(current_actor(), path.collection_id)
    return nothing()


@api.post("/collections/<uuid:collection_id>/trash/restore", tags=TAGS, responses={200: TrashResult})
def restore_items(path: CollectionPath, body: ToRestore) -> Response:
    """Restore items; those whose content the collection has by now stay in the trash."""
    body = strictly(ToRestore, request.get_data())
    these = Trashed(path.collection_id, body.items, after=body.after)
    return _answer(path.collection_id, trash.restore(current_actor(), these))


@api.post("/collections/<uuid:collection_id>/trash/delete", tags=TAGS, responses={200: TrashResult})
def remove_items(path: CollectionPath, body: ToRemove) -> Response:
    """Delete items in the trash for good; earlier results still show their names."""
    body = strictly(ToRemove, request.get_data())
    return _answer(path.collection_id, trash.remove(current_actor(), path.collection_id, body.items))


def _answer(collection_id: UUID, result: Result) -> Response:
    skipped = skipped_items(collection_id, result)
    error = result.error.message if result.error else None
    return answer(TrashResult(done=result.done, skipped=skipped, next=result.next, error=error))
