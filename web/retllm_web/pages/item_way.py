"""From one item to the next, in the order that one came from: the results of a search, or a list of a collection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import request, url_for
from sqlalchemy.orm import Session

from retllm.db.searches import Candidate
from retllm.db.tables import Collection, Item
from retllm.errors import Busy, InvalidInput, NotFound
from retllm.identity.access import job_for, within_visible
from retllm.indexing.indexed import is_ready
from retllm_web.actions import item_lists
from retllm_web.actions.item_lists import Order
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.item_list import ItemListFilters


@dataclass(frozen=True)
class Way:
    """Where an item lies in what one came from.

    Attributes:
        kept: what the addresses of the others say about it.
        back: its address; empty if it is the whole collection in the order in which items were added.
        words: what it is.
    """

    previous: UUID | None
    next: UUID | None
    kept: dict[str, Any] = field(default_factory=dict)
    back: str = ""
    words: str = ""
    is_search: bool = False


def way_of_request(session: Session, item: Item, collection: Collection) -> Way:
    """Return the way that the address of this request names; of one that is not there, that of the collection."""
    search_id = key_or_none(request.args.get("search"), "search")
    if search_id is not None and (way := _in_results(session, item, search_id)) is not None:
        return way
    filters = ItemListFilters.of(request.args)
    if filters.refused is None and (filters.any or filters.sort != Order()):
        try:
            return _in_list(session, item, collection, filters)
        except (Busy, InvalidInput):
            # what others do at the moment, or a filter that takes long, keeps nobody from an item
            pass
    return Way(*_around(session, item, collection, ItemListFilters()))


def back_of_request(collection_id: UUID) -> str:
    """Return the address of what one came from, where the item is no longer."""
    search_id = key_or_none(request.args.get("search"), "search")
    if search_id is not None:
        return url_for("pages.job", job_id=search_id)
    kept: dict[str, Any] = ItemListFilters.of(request.args).address(facets=None)
    return url_for("pages.collection", collection_id=collection_id, _anchor="items", **kept)


def _in_list(session: Session, item: Item, collection: Collection, filters: ItemListFilters) -> Way:
    previous, following = _around(session, item, collection, filters)
    kept: dict[str, Any] = filters.address(facets=None)
    back = url_for("pages.collection", collection_id=collection.id, _anchor="items", **kept)
    return Way(previous, following, kept, back, "Filtered items" if filters.any else "Sorted items")


def _around(
    session: Session, item: Item, collection: Collection, filters: ItemListFilters
) -> tuple[UUID | None, UUID | None]:
    return item_lists.around(session, collection, services().settings, filters.items, filters.sort, item.id)


def _in_results(session: Session, item: Item, search_id: UUID) -> Way | None:
    try:
        job_for(session, current_actor(), search_id)
    except NotFound:
        return None
    seen = sa.and_(is_ready(), within_visible(current_actor(), Item.collection_id))
    around = around_in_results(session, item.id, search_id, seen)
    if around is None:
        return None
    return Way(*around, {"search": str(search_id)}, url_for("pages.job", job_id=search_id), "Results", is_search=True)


def around_in_results(
    session: Session, item_id: UUID, search_id: UUID, seen: sa.ColumnElement[bool]
) -> tuple[UUID | None, UUID | None] | None:
    """Return the items before and after one among the results of a search that may be ``seen``; None if it is none."""
    rank = sa.func.coalesce(Candidate.final_rank, Candidate.coarse_rank)
    ranked = sa.select(Item.id).join(Candidate, Candidate.item_id == Item.id).where(Candidate.search_id == search_id)
    keys: list[UUID | None] = [None, *session.scalars(ranked.where(seen).order_by(rank)), None]
    if item_id not in keys:
        return None
    at = keys.index(item_id)
    return keys[at - 1], keys[at + 1]
