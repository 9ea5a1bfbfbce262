"""The ETag of a job changes with everything that its page shows, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, JobKind, JobState, Stage
from retllm.db.jobs import Job, Unit
from retllm.db.operations import PausedQueue
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.errors import NotFound
from retllm.history import control
from retllm.history.job_etag import EtagValues, job_etag
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.queue import claim as claims


def _etag(world, job_id: UUID) -> EtagValues:
    with transaction(world.sessions) as session:
        return job_etag(session, world.user, job_id)


@pytest.fixture
def search_id(world) -> UUID:
    """A running search with two candidates and one unit for both."""
    items = world.add_texts("a robin", "a wren")
    with transaction(world.sessions) as session:
        job = Job(
            id=new_id(),
            kind=JobKind.SEARCH,
            state=JobState.RUNNING,
            user_id=world.user.id,
            collection_id=world.collection_id,
            params={},
        )
        session.add(job)
        session.flush()
        search = Search(
            id=job.id,
            kind=ItemKind.TEXT,
            query_text="a bird",
            question="q",
            k=2,
            item_kinds=["text"],
            query_image_weight=0.5,
            embedder="e",
            scorer="s",
            scorer_version="v",
            mode="true_false",
            injection={},
            tie_decimals=4,
        )
        session.add(search)
        session.flush()
        session.add_all(
            Candidate(token=new_id(), search_id=job.id, item_id=item, coarse_rank=n) for n, item in enumerate(items, 1)
        )
    world.add_units(job.id, Stage.FINE, {"items": [str(item) for item in items]})
    return job.id


def test_the_etag_changes_with_each_step_of_a_unit(world, search_id: UUID) -> None:
    (unit,) = world.units(search_id)
    seen = [_etag(world, search_id)]
    assert _etag(world, search_id) == seen[0]
    claim = world.must_claim(unit.id)
    seen.append(_etag(world, search_id))
    claims.release(world.sessions, claim)
    claim = world.must_claim(unit.id)
    seen.append(_etag(world, search_id))
    claims.fail(world.sessions, claim, RuntimeError("no"), world.settings)
    seen.append(_etag(world, search_id))
    claims.complete(world.sessions, world.must_claim(unit.id), lambda _session, _job: [])
    seen.append(_etag(world, search_id))
    assert len(set(seen)) == len(seen)


def test_the_etag_does_not_change_with_a_renewed_lease_or_an_announcement(world, search_id: UUID) -> None:
    before = _etag(world, search_id)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(lease_until=sa.func.now(), announced_at=sa.func.now()))
    assert _etag(world, search_id) == before


def _score(session: Session, search_id: UUID) -> None:
    item = session.scalars(sa.select(Candidate.item_id).where(Candidate.search_id == search_id)).first()
    session.add(Score(token=new_id(), search_id=search_id, item_id=item, scorer_version="v", score=0.5, tokens=1))
    session.flush()


def _candidate_error(session: Session, search_id: UUID) -> None:
    session.execute(sa.update(Candidate).where(Candidate.coarse_rank == 1).values(error="no memory"))


def _final_order(session: Session, search_id: UUID) -> None:
    session.execute(sa.update(Search).values(final_at=sa.func.now()))


def _pause(session: Session, search_id: UUID) -> None:
    session.add(PausedQueue(queue="score"))


def _mark(session: Session, search_id: UUID) -> None:
    item = session.scalars(sa.select(Candidate.item_id).where(Candidate.search_id == search_id)).first()
    job = session.get_one(Job, search_id)
    session.add(Judgment(collection_id=job.collection_id, question="q", item_id=item, relevant=True))


@pytest.mark.parametrize("change", [_score, _candidate_error, _final_order, _pause, _mark])
def test_the_etag_changes_with_results_marks_and_pauses(
    world, search_id: UUID, change: Callable[[Session, UUID], None]
) -> None:
    before = _etag(world, search_id)
    with transaction(world.sessions) as session:
        change(session, search_id)
    assert _etag(world, search_id) != before


def test_the_etag_changes_when_an_entropy_is_added_to_a_score(world, search_id: UUID) -> None:
    with transaction(world.sessions) as session:
        _score(session, search_id)
    before = _etag(world, search_id)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Score).values(entropy=0.5))
    assert _etag(world, search_id) != before


def test_the_etag_changes_with_a_cancellation_request_while_a_worker_holds_the_unit(world, search_id: UUID) -> None:
    world.must_claim(world.units(search_id)[0].id)
    before = _etag(world, search_id)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, search_id)
    assert _etag(world, search_id) != before


def test_the_etag_does_not_change_with_another_job(world, search_id: UUID) -> None:
    before = _etag(world, search_id)
    with transaction(world.sessions) as session:
        other = Job(kind=JobKind.INDEX, user_id=world.user.id, collection_id=world.collection_id, params={})
        session.add(other)
        session.flush()
    world.add_units(other.id, Stage.EMBED, {"items": []})
    assert _etag(world, search_id) == before


def test_an_account_that_may_not_see_the_job_gets_no_etag(world, search_id: UUID) -> None:
    with transaction(world.sessions) as session:
        other = Actor.unlimited(accounts.create_user(session, "bob", "a-long-password"))
    with transaction(world.sessions) as session, pytest.raises(NotFound):
        job_etag(session, other, search_id)
