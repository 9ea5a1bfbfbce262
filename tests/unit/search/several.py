"""Searches of several collections, for tests."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from tests.factories import make_collection, store
from tests.unit.stand_ins import index

from retllm.db.enums import MemberRole, Role
from retllm.db.people import CollectionMember
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.queue.worker import WorkerContext
from retllm.search.request import SeveralRequest
from retllm.search.results import SearchView
from retllm.search.submit import submit_search
from retllm.search.views import search_view


def fill(context: WorkerContext, world: Any, name: str, *texts: str, embedders: Any = None, **columns: Any) -> UUID:
    """Make a collection of these texts, index it, and give it the values of further columns."""
    with transaction(world.sessions) as session:
        collection = make_collection(world.user.id, name)
        store(session, collection)
    world.collection_id = collection.id
    world.add_texts(*texts)
    index(context, world, embedders)
    if columns:
        with transaction(world.sessions) as session:
            session.execute(sa.update(Collection).where(Collection.id == collection.id).values(**columns))
    return collection.id


def ask(world: Any, collections: Any, *, actor: Actor | None = None, key: str | None = None, **fields: Any) -> UUID:
    """Submit a search of several collections."""
    request = SeveralRequest(collections=collections, **{"text": "red circle", **fields})
    with transaction(world.sessions) as session:
        actor = actor or world.user
        return submit_search(session, actor, None, request, world.settings, idempotency_key=key).job.id


def seen(world: Any, search_id: UUID, actor: Actor | None = None) -> SearchView:
    """The search as an account sees it."""
    with world.sessions() as session:
        return search_view(session, search_id, world.settings, actor=actor or world.user)


def texts_of(view: SearchView) -> list[str | None]:
    return [candidate.text for candidate in view.candidates]


def person(world: Any, name: str, *collections: UUID, role: Role = Role.VIEWER) -> Actor:
    """An account that is a member of these collections."""
    with transaction(world.sessions) as session:
        user = accounts.create_user(session, name, "a-long-password", role)
        for key in collections:
            session.add(CollectionMember(collection_id=key, user_id=user.id, role=MemberRole.VIEWER))
        return Actor.unlimited(user)


def expel(world: Any, actor: Actor, collection_id: UUID) -> None:
    """End a membership."""
    with transaction(world.sessions) as session:
        session.execute(sa.delete(CollectionMember).filter_by(collection_id=collection_id, user_id=actor.id))


def key_of(world: Any, text: str) -> UUID:
    """The key of the item with that text."""
    with world.sessions() as session:
        return session.scalars(sa.select(Item.id).where(Item.text == text)).one()
