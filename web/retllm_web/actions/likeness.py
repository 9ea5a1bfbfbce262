"""A search for what is like an item: the item's picture and text become the query's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import BinaryIO

from retllm.db.enums import ItemState
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import InvalidInput, NotFound
from retllm.identity.access import item_for
from retllm.identity.actor import Actor
from retllm.search.request import SearchRequest
from retllm_web.http.services import services


def resolve(
    actor: Actor, request: SearchRequest, picture: BinaryIO | None, stack: ExitStack
) -> tuple[SearchRequest, BinaryIO | None]:
    """The request and its picture with those of the item that it wants to be like; its own text and picture go first.

    Args:
        stack: closes the item's picture when the request is over.

    Raises:
        NotFound: there is no such item that ``actor`` may see, or it is deleted.
        InvalidInput: the item lacks a part that was asked for by name.
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
            raise InvalidInput(f"This item has no {part} that a query could be like.", field="like.parts")
    parts = request.like.parts or has
    if "text" in parts and not (request.text or "").strip():
        request = request.model_copy(update={"text": item.text})
    if "picture" in parts and picture is None and item.picture_key is not None:
        picture = stack.enter_context(services().storage.open(item.picture_key))
    return request, picture


def parts_of(item: Item) -> list[str]:
    """What of an item a query can be like."""
    return [part for part, value in (("picture", item.picture_key), ("text", item.text)) if value]
