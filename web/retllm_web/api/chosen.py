"""Many items at once: change, delete, move and copy them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from flask import Response, request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.filters import MAX_CHARS, parse
from retllm.identity.access import Right, collection_for
from retllm.media.skipped import Skipped
from retllm_web.actions import chosen
from retllm_web.actions.chosen import Chosen, Result
from retllm_web.actions.item_changes import ItemsChange
from retllm_web.actions.item_lists import ItemFilters
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api, strictly
from retllm_web.api.collections import CollectionPath
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services

TAGS = tags("items")


class Choice(BaseModel):
    """Items of a collection: either named ones, or all that match a filter."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[UUID], Field(min_length=1, max_length=chosen.MAX)] | None = None
    filter: Annotated[str, StringConstraints(max_length=MAX_CHARS)] | None = Field(
        default=None, description='such as `rating >= 4 and not tags = "shown"`; the empty one matches all'
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Choice:
        if (self.items is None) == (self.filter is None):
            raise ValueError("give either items or filter")
        return self

    @property
    def filters(self) -> ItemFilters:
        """The filter of the items.

        Raises:
            InvalidInput: it can't be read.
        """
        return ItemFilters(expression=parse(self.filter or ""))


class Batch(Choice):
    """Items of the collection of which a request does as many as it can."""

    after: UUID | None = Field(default=None, description="`next` of the request before, to go on with the filter")
    upto: UUID | None = Field(
        default=None, description="`upto` of the request before, so that items that were added meanwhile stay out of it"
    )

    def of(self, collection_id: UUID) -> Chosen:
        """Return the items, of this collection.

        Raises:
            InvalidInput: the filter can't be read.
        """
        return Chosen(collection_id, self.items, self.filters, self.after, self.upto or new_id())


class ChangeOfMany(Batch):
    """What to change of which items."""

    change: ItemsChange


class TransferOfMany(Batch):
    """Which items go into which collection."""

    to: UUID = Field(description="the other collection")


class SkippedItem(BaseModel):
    """An item that the request left as it was."""

    item_id: UUID
    name: str | None = Field(description="null if the collection never had it")
    reason: Skipped


class ManyView(BaseModel):
    """What became of the items: each is done completely or skipped."""

    done: list[UUID] = Field(description="the items that were changed, deleted, moved or copied")
    new: dict[UUID, UUID] = Field(
        description="of moved and copied items the keys in the other collection, by their old"
    )
    skipped: list[SkippedItem] = Field(description="the others, and why")
    next: UUID | None = Field(
        description=f"pass as `after`, with `upto`, for the rest of what matches the filter: a request takes at most "
        f"{chosen.MAX:,} items, and looks at a bounded number. Null if all are done"
    )
    upto: UUID
    error: str | None = Field(description="what ended the request early; what was done before stays done")
    trashed: bool = Field(
        description="whether the items are in the trash, from which they can be restored; deleted ones are, unless the "
        "server has no trash"
    )


@api.post("/collections/<uuid:collection_id>/items/change", tags=TAGS, responses={200: ManyView})
def change_items(path: CollectionPath, body: ChangeOfMany) -> Response:
    """Change captions, titles, tags, ratings and other facts of many items."""
    body = strictly(ChangeOfMany, request.get_data())
    return _do(path, body, lambda these: chosen.change(current_actor(), these, body.change.given()))


@api.post("/collections/<uuid:collection_id>/items/delete", tags=TAGS, responses={200: ManyView})
def delete_items(path: CollectionPath, body: Batch) -> Response:
    """Move many items to the trash, from which they can be restored; earlier results still show their names."""
    return _do(path, body, lambda these: chosen.delete(current_actor(), these))


@api.post("/collections/<uuid:collection_id>/items/move", tags=TAGS, responses={200: ManyView, 409: ErrorBody})
def move_items(path: CollectionPath, body: TransferOfMany) -> Response:
    """Move many items into another collection, with their vectors; those whose content it has stay.

    In the other collection they have keys of their own. Earlier results show moved items as deleted, with their names.
    """
    return _do(path, body, lambda these: chosen.transfer(current_actor(), these, body.to, moves=True))


@api.post("/collections/<uuid:collection_id>/items/copy", tags=TAGS, responses={200: ManyView, 409: ErrorBody})
def copy_items(path: CollectionPath, body: TransferOfMany) -> Response:
    """Copy many items into another collection, with their vectors; those whose content it has are skipped."""
    return _do(path, body, lambda these: chosen.transfer(current_actor(), these, body.to, moves=False))


def _do(path: CollectionPath, body: Batch, act: Callable[[Chosen], Result]) -> Response:
    these = body.of(path.collection_id)
    with transaction(services().sessions) as session:
        # before a filter is compared with anything
        collection_for(session, current_actor(), path.collection_id, Right.SEE)
    return answer(_view(these, act(these)))


def skipped_items(collection_id: UUID, result: Result) -> list[SkippedItem]:
    """Return the items that were skipped, with their names."""
    with transaction(services().sessions) as session:
        names = chosen.names_of(session, list(result.skipped), collection_id)
    return [SkippedItem(item_id=key, name=names.get(key), reason=why) for key, why in result.skipped.items()]


def _view(these: Chosen, result: Result) -> ManyView:
    skipped = skipped_items(these.collection_id, result)
    found: dict[str, Any] = {"done": result.done, "new": result.new, "next": result.next, "upto": these.upto}
    error = result.error.message if result.error else None
    return ManyView(**found, skipped=skipped, error=error, trashed=bool(result.trashed))
