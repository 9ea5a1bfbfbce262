"""Search by example: an item's picture and text become those of the query."""

from __future__ import annotations

from typing import TypeVar

from retllm.db.enums import ItemState
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import InvalidInput, NotFound
from retllm.identity.access import item_for
from retllm.identity.actor import Actor
from retllm.search.request import SearchRequest
from retllm_web.actions.submissions import QueryPicture
from retllm_web.http.services import services

Request = TypeVar("Request", bound=SearchRequest)


def resolve(actor: Actor, request: Request, picture: QueryPicture | None) -> tuple[Request, QueryPicture | None]:
    """Fill the request's text and picture, where it has none, from its example item.

    Raises:
        NotFound: there is no such item that ``actor`` may see, or it is deleted.
        InvalidInput: the item lacks a requested part.
    """
    if request.like is None:
        return request, picture
    with transaction(services().sessions) as session:
        item = item_for(session, actor, request.like.item)
    if item.state is not ItemState.READY:
        raise NotFound("There is no such item.")
    has = parts_of(item)
    for part in request.like.parts or ():
        if part not in has:
            raise InvalidInput(f"This item has no {part} to search by.", field="like.parts")
    parts = request.like.parts or has
    if "text" in parts and not (request.text or "").strip():
        request = request.model_copy(update={"text": item.text})
    if "picture" in parts and picture is None and item.picture_key is not None:
        picture = item
    return request, picture


def parts_of(item: Item) -> list[str]:
    """Return the parts of an item that a query can use."""
    return [part for part, value in (("picture", item.picture_key), ("text", item.text)) if value]
