"""An upgrade goes on while work does: migrate, then replace the processes one by one.

So what the processes of the release before ask of the database keeps working on the newest schema, beside those of
today. Their statements are made here from the schema of that release, with the columns that it knows and no others.
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
from retllm.db.migrate import config, upgrade
from retllm.db.session import Sessions, make_sessions
from retllm.db.tables import Attempt, Candidate, Unit, new_id
from retllm.queue import claim as claims
from retllm.queue import lifecycle
from retllm.queue.audit import violations
from retllm.settings import Settings

# the newest revision of the release before; a release writes its own here
RELEASE, REVISION = "0.2", "0004"


class Before:
    """A process of the release before: it reads every column that it knows, and writes no others."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
        self.schema = sa.MetaData()
        self.schema.reflect(self.engine)

    def add(self, table: str, **values: Any) -> UUID:
        """A row; the columns left out have defaults of their own."""
        columns = self.schema.tables[table].columns
        values = {"id": new_id(), **values} if "id" in columns and "id" not in values else values
        with self.engine.begin() as connection:
            connection.execute(sa.insert(self.schema.tables[table]).values(values))
        return values.get("id") or new_id()

    def change(self, table: str, key: UUID, **values: Any) -> None:
        """Change the row with this key."""
        changed = self.schema.tables[table]
        (column,) = changed.primary_key.columns
        with self.engine.begin() as connection:
            done = connection.execute(sa.update(changed).where(column == key).values(values))
            assert done.rowcount == 1

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Every row."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.select(self.schema.tables[table])).mappings()]

    def claim(self, unit_id: UUID, number: int = 1) -> UUID:
        """Take a unit; the token."""
        token = new_id()
        self.add("attempts", token=token, unit_id=unit_id, number=number, worker="before:1")
        leased = sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, 60)
        self.change(
            "units", unit_id, state="leased", attempt=number, token=token, worker="before:1", lease_until=leased
        )
        return token

    def complete(self, unit_id: UUID, token: UUID) -> None:
        """The unit is done."""
        self.change("attempts", token, outcome="committed", ended_at=sa.func.clock_timestamp())
        self.change("units", unit_id, state="done", token=None, lease_until=None, finished_at=sa.func.now())


@pytest.fixture
def before(fresh_database: str) -> Iterator[Before]:
    """A process of the release before, whose database has its schema and nothing else yet."""
    command.downgrade(config(fresh_database), REVISION)
    made = Before(fresh_database)
    yield made
    made.engine.dispose()


@pytest.fixture
def sessions(before: Before, fresh_database: str) -> Iterator[Sessions]:
    """Sessions of today's processes."""
    made = make_sessions(fresh_database, pool_size=2)
    yield made
    made.kw["bind"].dispose()


def _library(before: Before) -> tuple[UUID, UUID, UUID]:
    """An account, its collection and an item."""
    user = before.add("users", name="ada", password_hash="-", role="editor")
    before.add("api_tokens", user_id=user, name="laptop", digest="d", scope="change")
    collection = before.add("collections", owner_id=user, name="birds", description="", visibility="private")
    text = {"kind": "text", "state": "ready", "text": "two circling birds", "size_bytes": 18}
    item = before.add("items", collection_id=collection, name="a", content_sha256="0", version=1, **text)
    return user, collection, item


def _search(before: Before, user: UUID, collection: UUID) -> tuple[UUID, UUID]:
    """A search job and its coarse unit."""
    whose = {"user_id": user, "collection_id": collection}
    job = before.add("jobs", kind="search", state="running", params={}, cancel_requested=False, **whose)
    asked = {
        "kind": "text",
        "query_text": "birds",
        "question": "q",
        "k": 1,
        "item_kinds": ["text"],
        "mode": "true_false",
    }
    more = {"query_image_weight": 0.8, "embedder": "e", "scorer": "s", "injection": {}, "tie_decimals": 4}
    before.add("searches", id=job, scorer_version="v", **asked, **more)
    return job, before.add("units", job_id=job, stage="coarse", seq=0, state="ready", payload={}, attempt=0)


def test_every_column_of_before_is_there_and_no_new_one_has_to_be_filled(before: Before, fresh_database: str) -> None:
    upgrade(fresh_database)
    for table in before.schema.tables:
        before.rows(table)
    today = sa.MetaData()
    today.reflect(before.engine)
    for name, table in before.schema.tables.items():
        new = [column for column in today.tables[name].columns if column.name not in table.columns]
        assert [column.name for column in new if not column.nullable and column.server_default is None] == []


def test_work_of_before_goes_on_over_the_upgrade_and_is_sound(
    before: Before, sessions: Sessions, fresh_database: str
) -> None:
    user, collection, item = _library(before)
    whose, asked = {"user_id": user, "collection_id": collection}, {"items": [str(item)]}
    index = before.add("jobs", kind="index", state="running", params={"embedder": "e"}, cancel_requested=False, **whose)
    embed = before.add("units", job_id=index, stage="embed", seq=0, state="ready", payload=asked, attempt=0)
    job, coarse = _search(before, user, collection)
    indexing, token = before.claim(embed), before.claim(coarse)
    upgrade(fresh_database)
    # what it took before, it ends after
    model = before.add("embedding_models", name="e", revision="r", dimension=2, preprocessing_hash="p")
    vector = {"item_version": 1, "image_weight": 0.5, "vector": [1.0, 0.0], "token": indexing}
    before.add("embeddings", item_id=item, model_id=model, collection_id=collection, **vector)
    before.complete(embed, indexing)
    before.change("jobs", index, state="succeeded", finished_at=sa.func.now())
    before.add("candidates", search_id=job, item_id=item, coarse_rank=1, similarity=0.5, token=token)
    before.complete(coarse, token)
    fine = before.add("units", job_id=job, stage="fine", seq=0, state="ready", payload=asked, attempt=0)
    token = before.claim(fine)
    scored = {"scorer_version": "v", "score": 0.9, "entropy": 0.1, "tokens": 9, "token": token}
    before.add("scores", search_id=job, item_id=item, **scored)
    before.complete(fine, token)
    with before.engine.begin() as connection:
        connection.execute(sa.update(before.schema.tables["candidates"]).values(final_rank=1, decided_by="score"))
    before.change("searches", job, coarse_at=sa.func.now(), final_at=sa.func.now())
    before.change("jobs", job, state="succeeded", finished_at=sa.func.now())
    assert [str(one) for one in violations(sessions, quiet=True)] == []


def test_what_one_gives_back_the_other_finishes(before: Before, sessions: Sessions, fresh_database: str) -> None:
    settings = Settings(home="/nowhere")
    user, collection, item = _library(before)
    upgrade(fresh_database)

    for begun_by_today in (True, False):
        job, coarse = _search(before, user, collection)
        if begun_by_today:
            claim = claims.claim_unit(sessions, coarse, "today:1", settings)
            assert claim is not None
            claims.release(sessions, claim)
            token = before.claim(coarse)
            before.add("candidates", search_id=job, item_id=item, coarse_rank=1, similarity=0.5, token=token)
            before.complete(coarse, token)
        else:
            token = before.claim(coarse)
            before.change("attempts", token, outcome="returned", ended_at=sa.func.clock_timestamp())
            before.change("units", coarse, state="ready", attempt=0, token=None, lease_until=None)
            claim = claims.claim_unit(sessions, coarse, "today:1", settings)
            assert claim is not None
            claims.complete(sessions, claim, _finds(item, claim.token))
        with sessions() as session:
            assert session.get_one(Unit, coarse).state is UnitState.DONE
            trail = session.execute(
                sa.select(Attempt.worker, Attempt.outcome).where(Attempt.unit_id == coarse).order_by(Attempt.token)
            ).all()
        workers = ("today:1", "before:1") if begun_by_today else ("before:1", "today:1")
        assert [tuple(one) for one in trail] == list(
            zip(workers, (AttemptOutcome.RETURNED, AttemptOutcome.COMMITTED), strict=True)
        )


def _finds(item: UUID, token: UUID) -> claims.Write:
    def write(session: Session, job: Any) -> list[Any]:
        session.add(Candidate(search_id=job.id, item_id=item, coarse_rank=1, similarity=0.5, token=token))
        return lifecycle.add_units(session, job, Stage.FINE, [{"items": [str(item)]}])

    return write
