"""A collection of texts with searches, stored as the workers store them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.factories import make_candidate, make_collection, make_job, make_search, make_text, make_user, store

from retllm.db.enums import JobState, Role
from retllm.db.session import Sessions, transaction
from retllm.identity.actor import Actor

_TOPICS = ["robins", "wrens", "crows", "owls", "gulls", "terns", "ducks", "geese", "swans", "hawks", "larks", "finches"]


@dataclass
class World:
    """The database of one test: two accounts, and a collection of ada with 12 texts."""

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
        """Create a search; its candidates are indices of ``items`` in both orders; without ``final`` it is running."""
        job = make_job(
            self.ada.id,
            collection_id or self.collection_id,
            state=JobState.RUNNING if final is None else JobState.SUCCEEDED,
        )
        ranks = {} if final is None else {place: rank for rank, place in enumerate(final, start=1)}
        candidates = [
            make_candidate(job.id, self.items[place], rank, final_rank=ranks.get(place))
            for rank, place in enumerate(coarse, start=1)
        ]
        with transaction(self.sessions) as session:
            final_at = None if final is None else at or sa.func.now()
            store(session, job, make_search(job.id, text, final_at=final_at, **settings), *candidates)
        return job.id


@pytest.fixture
def world(fresh_sessions: Sessions) -> World:
    with transaction(fresh_sessions) as session:
        ada, bob = make_user(), make_user("bob", Role.VIEWER)
        collection = make_collection(ada.id)
        items = [
            make_text(collection.id, f"a text about {topic}", name=f"item {number}")
            for number, topic in enumerate(_TOPICS)
        ]
        store(session, ada, bob, collection, *items)
    return World(fresh_sessions, Actor.unlimited(ada), Actor.unlimited(bob), collection.id, [item.id for item in items])
