"""A database of its own for each test of the job core, with an account, a collection and some texts in it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.factories import make_collection, make_text, make_user, store
from tests.unit.stand_ins import SilentNotifier

from retllm.db.enums import Stage
from retllm.db.jobs import Job, Unit
from retllm.db.session import Sessions, transaction
from retllm.identity.actor import Actor
from retllm.media.storage import get_storage
from retllm.queue import claim as claims
from retllm.queue import lifecycle
from retllm.queue.claim import Claim
from retllm.queue.worker import WorkerContext
from retllm.settings import Settings


@dataclass
class World:
    """The database of one test and what is in it."""

    sessions: Sessions
    settings: Settings
    user: Actor
    collection_id: UUID
    notified: list[tuple[UUID, Stage]] = field(default_factory=list)

    def add_texts(self, *texts: str) -> list[UUID]:
        """Text items, as an upload stores them."""
        with transaction(self.sessions) as session:
            items = [make_text(self.collection_id, text) for text in texts]
            store(session, *items)
        return [item.id for item in items]

    def in_transaction(self, do: Callable[[Session], object]) -> object:
        with transaction(self.sessions) as session:
            return do(session)

    def settle_units(self) -> None:
        """Leave nothing of earlier rows in the table of units and its indexes, and tell the planner what is in them.

        As long as another process, like an automatic ANALYZE, may still see them, rows that were deleted or updated
        stay, and are read and counted as others are.
        """
        dead = sa.text("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'units'")
        deadline = time.monotonic() + 60
        with self.sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM units"))
            while connection.scalar(dead):
                assert time.monotonic() < deadline, "some process holds a snapshot"
                time.sleep(0.05)
                connection.execute(sa.text("VACUUM units"))
            connection.execute(sa.text("REINDEX TABLE units"))
            connection.execute(sa.text("VACUUM ANALYZE units"))

    def job(self, job_id: UUID) -> Job:
        with self.sessions() as session:
            return session.get_one(Job, job_id)

    def units(self, job_id: UUID, stage: Stage | None = None) -> list[Unit]:
        with self.sessions() as session:
            query = session.query(Unit).filter_by(job_id=job_id)
            if stage is not None:
                query = query.filter_by(stage=stage)
            return query.order_by(Unit.stage, Unit.seq).all()

    def claim(self, unit_id: UUID, worker: str = "w1") -> Claim | None:
        return claims.claim_unit(self.sessions, unit_id, worker, self.settings)

    def must_claim(self, unit_id: UUID, worker: str = "w1") -> Claim:
        claim = self.claim(unit_id, worker)
        assert claim is not None
        return claim

    def add_units(self, job_id: UUID, stage: Stage, *payloads: dict[str, object]) -> list[UUID]:
        with transaction(self.sessions) as session:
            job = lifecycle.lock_job(session, job_id)
            assert job is not None
            return [unit.unit_id for unit in lifecycle.add_units(session, job, stage, list(payloads))]


@pytest.fixture
def world(fresh_database: str, fresh_sessions: Sessions) -> World:
    settings = Settings(
        database_url=fresh_database,
        embedder="local-dir:/models/embedder",
        scorer="/models/scorer",
        lease_seconds=30,
        backoff_seconds=0,
        max_attempts=3,
        index_unit_items=2,
        score_unit_candidates=2,
    )
    with transaction(fresh_sessions) as session:
        user = make_user()
        collection = make_collection(user.id)
        store(session, user, collection)
    return World(fresh_sessions, settings, Actor.unlimited(user), collection.id)


@pytest.fixture
def unused_tcp_port() -> int:
    """A port of the loopback address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def context(world, tmp_path: Path) -> WorkerContext:
    world.settings = world.settings.model_copy(update={"home": tmp_path})
    return WorkerContext(world.sessions, get_storage(world.settings), world.settings, SilentNotifier(), "tester:1")
