"""The collections of a search of several: those that a request names, or all that its account may search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import TokenScope
from retllm.db.locks import lock_collections
from retllm.db.many import one_of
from retllm.db.searches import Search, SearchCollection
from retllm.db.tables import Collection
from retllm.errors import Conflict, InvalidInput, NotFound
from retllm.identity.access import require_scope, visible_collections
from retllm.identity.actor import Actor
from retllm.indexing.indexed import embedder_of, filled_among
from retllm.search import coarse
from retllm.search.request import MAX_COLLECTIONS, SeveralRequest
from retllm.settings import Settings


@dataclass(frozen=True)
class Asked:
    """The collections that a request is about, locked; ``named`` tells whether it names each of them."""

    collections: Sequence[Collection]
    named: bool


def asked(session: Session, actor: Actor, request: SeveralRequest) -> Asked:
    """Lock the collections of a request and return them; of all that ``actor`` may see those that are not empty.

    Raises:
        NotFound: there is no such collection that ``actor`` may see.
        Forbidden: the actor has a smaller scope than ``search``.
        InvalidInput: all are more than one search may have.
        Conflict: all are empty.
    """
    require_scope(actor, TokenScope.SEARCH)
    seen = sa.select(Collection.id).where(visible_collections(actor))
    if request.collections != "all":
        keys = list(dict.fromkeys(request.collections))
        found = _locked(session, seen.where(one_of(Collection.id, keys)))
        there = {collection.id for collection in found}
        for key in keys:
            if key not in there:
                raise NotFound(f"There is no collection with the id {key}.")
        return Asked(found, named=True)
    filled = filled_among(session, seen)
    if len(filled) > MAX_COLLECTIONS:
        raise InvalidInput(
            f"You may search {len(filled):,} collections, and one search takes {MAX_COLLECTIONS} at most: name those "
            "that it is for.",
            field="collections",
        )
    found = _locked(session, seen.where(one_of(Collection.id, filled)))
    if not found:
        raise Conflict("Every collection that you may search is empty: upload something first.")
    return Asked(found, named=False)


def _locked(session: Session, keys: sa.Select[UUID]) -> Sequence[Collection]:
    locked = lock_collections(session, Collection.id.in_(keys))
    return session.scalars(sa.select(Collection).where(one_of(Collection.id, locked)).order_by(Collection.id)).all()


def main_embedder(found: Asked, settings: Settings) -> str:
    """Return the main embedder of a search: of those of its collections the first one of the settings."""
    mains = {embedder_of(collection, settings) for collection in found.collections}
    return next(name for name in settings.embedders if name in mains)


def add(session: Session, found: Asked, search: Search) -> None:
    """Add a search, and the collections that it is asked of: of all those that it can be answered from.

    Raises:
        Conflict: none can be searched with these sources, or one that the request names.
    """
    able = coarse.searchable(session, [collection.id for collection in found.collections], search)
    left = [collection for collection in found.collections if collection.id not in able]
    if left and (found.named or not able):
        raise Conflict(_unable(session, left, search))
    search.collections = len(able)
    session.add(search)
    session.flush()
    session.add_all(SearchCollection(search_id=search.id, collection_id=key) for key in sorted(able))


def _unable(session: Session, left: Sequence[Collection], search: Search) -> str:
    filled = filled_among(session, [collection.id for collection in left])
    empty = [f"“{collection.name}”" for collection in left if collection.id not in filled]
    unindexed = [f"“{collection.name}”" for collection in left if collection.id in filled]
    parts = [f"Empty: {', '.join(empty)}."] if empty else []
    if unindexed:
        parts.append(
            f"Not indexed with {' or '.join(coarse.embedders_of(search))} yet: {', '.join(unindexed)}. Submit an index "
            "job, or wait for the running one."
        )
    return f"These collections can't be searched. {' '.join(parts)} Or leave them out."
