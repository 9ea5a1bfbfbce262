"""Rolling upgrades: the schema is migrated first, and then the processes are replaced one by one.

The statements of the previous release must therefore work on the newest schema, together with those of the current one.
They are built here from the schema of the previous release, with its columns only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.orm import Session

from retllm.db.enums import AttemptOutcome, Stage, UnitState
from retllm.db.jobs import Attempt, Unit
from retllm.db.migrate import config, upgrade
from retllm.db.searches import Candidate
from retllm.db.session import Sessions, make_sessions
from retllm.db.tables import new_id
from retllm.queue import claim as claims
from retllm.queue import lifecycle
from retllm.queue.audit import violations
from retllm.settings import Settings

# the newest revision of the previous release; updated with each release
RELEASE, REVISION = "0.2", "0004"


class PreviousRelease:
    """A process of the previous release: it reads and writes only the columns of its schema."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
        self.schema = sa.MetaData()
        self.schema.reflect(self.engine)

    def add(self, table: str, **values: Any) -> UUID:
        """Insert a row; omitted columns get their defaults."""
        columns = self.schema.tables[table].columns
        values = {"id": new_id(), **values} if "id" in columns and "id" not in values else values
        with self.engine.begin() as connection:
            connection.execute(sa.insert(self.schema.tables[table]).values(values))
        return values.get("id") or new_id()

    def change(self, table: str, key: UUID, **values: Any) -> None:
        """Update the row with this primary key."""
        changed = self.schema.tables[table]
        (column,) = changed.primary_key.columns
        with self.engine.begin() as connection:
            done = connection.execute(sa.update(changed).where(column == key).values(values))
            assert done.rowcount == 1

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return every row."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.select(self.schema.tables[table])).mappings()]

    def claim(self, unit_id: UUID, number: int = 1) -> UUID:
        """Claim a unit and return the token."""
        token = new_id()
        self.add("attempts", token=token, unit_id=unit_id, number=number, worker="before:1")
        leased = sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, 60)
        self.change(
            "units", unit_id, state="leased", attempt=number, token=token, worker="before:1", lease_until=leased
        )
        return token

    def complete(self, unit_id: UUID, token: UUID) -> None:
        """Complete a unit."""
        self.change("attempts", token, outcome="committed", ended_at=sa.func.clock_timestamp())
        self.change("units", unit_id, state="done", token=None, lease_until=None, finished_at=sa.func.now())


@pytest.fixture
def previous(fresh_database: str) -> Iterator[PreviousRelease]:
    """A process of the previous release with an empty database of its schema."""
    command.downgrade(config(fresh_database), REVISION)
    process = PreviousRelease(fresh_database)
    yield process
    process.engine.dispose()


@pytest.fixture
def sessions(previous: PreviousRelease, fresh_database: str) -> Iterator[Sessions]:
    """Sessions of processes of the current release."""
    made = make_sessions(fresh_database, pool_size=2)
    yield made
    made.kw["bind"].dispose()


def _library(previous: PreviousRelease) -> tuple[UUID, UUID, UUID]:
    """Create an account, its collection and an item."""
    user = previous.add("users", name="ada", password_hash="-", role="editor")
    previous.add("api_tokens", user_id=user, name="laptop", digest="d", scope="change")
    collection = previous.add("collections", owner_id=user, name="birds", description="", visibility="private")
    text = {"kind": "text", "state": "ready", "text": "two circling birds", "size_bytes": 18}
    item = previous.add("items", collection_id=collection, name="a", content_sha256="0", version=1, **text)
    return user, collection, item


def _search(previous: PreviousRelease, user: UUID, collection: UUID) -> tuple[UUID, UUID]:
    """Create a search job and its coarse unit."""
    owner = {"user_id": user, "collection_id": collection}
    job = previous.add("jobs", kind="search", state="running", params={}, cancel_requested=False, **owner)
    query = {
        "kind": "text",
        "query_text": "birds",
        "question": "q",
        "k": 1,
        "item_kinds": ["text"],
        "mode": "true_false",
    }
    more = {"query_image_weight": 0.8, "embedder": "e", "scorer": "s", "injection": {}, "tie_decimals": 4}
    previous.add("searches", id=job, scorer_version="v", **query, **more)
    return job, previous.add("units", job_id=job, stage="coarse", seq=0, state="ready", payload={}, attempt=0)


def test_an_upgrade_keeps_every_column_and_requires_no_value_for_new_ones(
    previous: PreviousRelease, fresh_database: str
) -> None:
    upgrade(fresh_database)
    for table in previous.schema.tables:
        previous.rows(table)
    today = sa.MetaData()
    today.reflect(previous.engine)
    for name, table in previous.schema.tables.items():
        new = [column for column in today.tables[name].columns if column.name not in table.columns]
        assert [column.name for column in new if not column.nullable and column.server_default is None] == []


def test_work_of_the_previous_release_continues_after_the_upgrade(
    previous: PreviousRelease, sessions: Sessions, fresh_database: str
) -> None:
    user, collection, item = _library(previous)
    owner, payload = {"user_id": user, "collection_id": collection}, {"items": [str(item)]}
    index = previous.add(
        "jobs", kind="index", state="running", params={"embedder": "e"}, cancel_requested=False, **owner
    )
    embed = previous.add("units", job_id=index, stage="embed", seq=0, state="ready", payload=payload, attempt=0)
    job, coarse = _search(previous, user, collection)
    indexing, token = previous.claim(embed), previous.claim(coarse)
    upgrade(fresh_database)
    # units that it claimed before the upgrade are completed after it
    model = previous.add("embedding_models", name="e", revision="r", dimension=2, preprocessing_hash="p")
    vector = {"item_version": 1, "image_weight": 0.5, "vector": [1.0, 0.0], "token": indexing}
    previous.add("embeddings", item_id=item, model_id=model, collection_id=collection, **vector)
    previous.complete(embed, indexing)
    previous.change("jobs", index, state="succeeded", finished_at=sa.func.now())
    previous.add("candidates", search_id=job, item_id=item, coarse_rank=1, similarity=0.5, token=token)
    previous.complete(coarse, token)
    fine = previous.add("units", job_id=job, stage="fine", seq=0, state="ready", payload=payload, attempt=0)
    token = previous.claim(fine)
    scored = {"scorer_version": "v", "score": 0.9, "entropy": 0.1, "tokens": 9, "token": token}
    previous.add("scores", search_id=job, item_id=item, **scored)
    previous.complete(fine, token)
    with previous.engine.begin() as connection:
        connection.execute(sa.update(previous.schema.tables["candidates"]).values(final_rank=1, decided_by="score"))
    previous.change("searches", job, coarse_at=sa.func.now(), final_at=sa.func.now())
    previous.change("jobs", job, state="succeeded", finished_at=sa.func.now())
    assert [str(one) for one in violations(sessions, quiet=True)] == []


def test_a_unit_returned_by_one_release_is_finished_by_the_other(
    previous: PreviousRelease, sessions: Sessions, fresh_database: str
) -> None:
    settings = Settings(home="/nowhere")
    user, collection, item = _library(previous)
    upgrade(fresh_database)

    for claimed_by_current in (True, False):
        job, coarse = _search(previous, user, collection)
        if claimed_by_current:
            claim = claims.claim_unit(sessions, coarse, "today:1", settings)
            assert claim is not None
            claims.release(sessions, claim)
            token = previous.claim(coarse)
            previous.add("candidates", search_id=job, item_id=item, coarse_rank=1, similarity=0.5, token=token)
            previous.complete(coarse, token)
        else:
            token = previous.claim(coarse)
            previous.change("attempts", token, outcome="returned", ended_at=sa.func.clock_timestamp())
            previous.change("units", coarse, state="ready", attempt=0, token=None, lease_until=None)
            claim = claims.claim_unit(sessions, coarse, "today:1", settings)
            assert claim is not None
            claims.complete(sessions, claim, _finds(item, claim.token))
        with sessions() as session:
            assert session.get_one(Unit, coarse).state is UnitState.DONE
            trail = session.execute(
                sa.select(Attempt.worker, Attempt.outcome).where(Attempt.unit_id == coarse).order_by(Attempt.token)
            ).all()
        workers = ("today:1", "before:1") if claimed_by_current else ("before:1", "today:1")
        assert [tuple(one) for one in trail] == list(
            zip(workers, (AttemptOutcome.RETURNED, AttemptOutcome.COMMITTED), strict=True)
        )


def _finds(item: UUID, token: UUID) -> claims.Write:
    def write(session: Session, job: Any) -> list[Any]:
        session.add(Candidate(search_id=job.id, item_id=item, coarse_rank=1, similarity=0.5, token=token))
        return lifecycle.add_units(session, job, Stage.FINE, [{"items": [str(item)]}])

    return write
