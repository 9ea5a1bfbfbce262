"""A collection of texts with searches of it, written as the workers leave them."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from retllm.db.enums import ItemKind, JobKind, JobState, Role
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Candidate, Collection, Item, Job, Search, new_id
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.search.submit import question_of

_TOPICS = ["robins", "wrens", "crows", "owls", "gulls", "terns", "ducks", "geese", "swans", "hawks", "larks", "finches"]


@dataclass
class World:
    """The database of one test: two accounts, ada's collection, a dozen texts in it."""

    sessions: Sessions
    ada: Actor
    bob: Actor
    collection_id: UUID
    items: list[UUID]

    def search(
        self,
        text: str,
        coarse: Sequence[int],
        final: Sequence[int] | None,
        *,
        collection_id: UUID | None = None,
        at: dt.datetime | None = None,
        **settings: Any,
    ) -> UUID:
        """A search: its pool as places in ``items``, in both orders; without ``final`` it is still at work."""
        values: dict[str, Any] = {
            "k": 5,
            "mode": "true_false",
            "injection": {"trigger": "off", "alpha": 0.3},
            "scorer_version": "v1",
            **settings,
        }
        with transaction(self.sessions) as session:
            job = Job(
                id=new_id(),
                kind=JobKind.SEARCH,
                state=JobState.RUNNING if final is None else JobState.SUCCEEDED,
                user_id=self.ada.id,
                collection_id=collection_id or self.collection_id,
                params={},
            )
            session.add(job)
            session.flush()
            session.add(
                Search(
                    id=job.id,
                    kind=ItemKind.TEXT,
                    query_text=text,
                    question=question_of(text, None),
                    item_kinds=["text"],
                    query_image_weight=0.8,
                    embedder="e",
                    scorer="s",
                    tie_decimals=4,
                    final_at=None if final is None else at or sa.func.now(),
                    **values,
                )
            )
            session.flush()
            ranks = {} if final is None else {place: rank for rank, place in enumerate(final, start=1)}
            session.add_all(
                Candidate(search_id=job.id, item_id=self.items[place], coarse_rank=rank, final_rank=ranks.get(place))
                for rank, place in enumerate(coarse, start=1)
            )
        return job.id


@pytest.fixture
def world(fresh_database: str) -> Iterator[World]:
    sessions = make_sessions(fresh_database)
    with transaction(sessions) as session:
        ada = accounts.create_user(session, "ada", "a-long-password")
        bob = accounts.create_user(session, "bob", "a-long-password", Role.VIEWER)
        collection = Collection(id=new_id(), owner_id=ada.id, name="papers")
        session.add(collection)
        session.flush()
        items = [
            Item(
                id=new_id(),
                collection_id=collection.id,
                kind=ItemKind.TEXT,
                name=f"item {number}",
                content_sha256=hashlib.sha256(bytes([number])).hexdigest(),
                text=f"a text about {topic}",
                size_bytes=10,
            )
            for number, topic in enumerate(_TOPICS)
        ]
        session.add_all(items)
    yield World(sessions, Actor.unlimited(ada), Actor.unlimited(bob), collection.id, [item.id for item in items])
    sessions.kw["bind"].dispose()
