"""Index jobs share work: an item is embedded once for a model and version, whoever asks, and every job ends."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from tests.soak import scaled
from tests.unit.stand_ins import FakeEmbedder

from retllm.db.enums import AttemptOutcome, JobState, UnitState
from retllm.db.jobs import Attempt, Unit
from retllm.db.session import transaction
from retllm.db.tables import Embedding, EmbeddingClaim, Item
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import embed_unit
from retllm.media import records
from retllm.queue.audit import violations
from retllm.queue.worker import WorkerContext, run_unit


class Counting(FakeEmbedder):
    """Counts the texts that it embeds; ``meanwhile`` runs during the first call."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._meanwhile = [meanwhile]
        self._lock = threading.Lock()
        self.texts: Counter[str] = Counter()

    def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
        with self._lock:
            self.texts.update(texts)
            meanwhile = self._meanwhile.pop() if self._meanwhile else lambda: None
        meanwhile()
        return super().embed_texts(texts, query=query)


@pytest.fixture
def context(context: WorkerContext, world) -> WorkerContext:
    world.settings = world.settings.model_copy(update={"republish_seconds": 0.01})
    return dataclasses.replace(context, settings=world.settings)


def submit(world, size: int) -> UUID:
    settings = world.settings.model_copy(update={"index_unit_items": size})
    with transaction(world.sessions) as session:
        return submit_index(session, world.user, world.collection_id, settings).job.id


def do(context: WorkerContext, embedder: FakeEmbedder, unit: Unit) -> bool:
    return run_unit(context, unit.id, lambda ctx, held: embed_unit(ctx, held, lambda _: embedder))


def finish(context: WorkerContext, world, embedder: FakeEmbedder, *jobs: UUID) -> None:
    """Run the ready units of the jobs, again and again, until there is none."""
    while ready := [unit for job in jobs for unit in world.units(job) if unit.state is UnitState.READY]:
        for unit in ready:
            do(context, embedder, unit)


def vectors(world) -> int:
    with world.sessions() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Embedding)) or 0


def claims(world) -> int:
    with world.sessions() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(EmbeddingClaim)) or 0


def test_a_unit_leaves_out_items_that_have_their_vector_already(context: WorkerContext, world) -> None:
    world.add_texts("a", "b", "c", "d")
    first, second = submit(world, 4), submit(world, 4)
    embedder = Counting()
    finish(context, world, embedder, first)
    with transaction(world.sessions) as session:
        changed = session.scalars(sa.select(Item).where(Item.text == "b")).one()
        changed.text, changed.version = "new", 2
    finish(context, world, embedder, second)
    assert embedder.texts == Counter(["a", "b", "c", "d", "new"])
    assert [world.job(job).state for job in (first, second)] == [JobState.SUCCEEDED] * 2
    assert (vectors(world), claims(world)) == (4, 0)


def test_a_unit_whose_items_are_all_embedded_elsewhere_waits_without_losing_an_attempt(
    context: WorkerContext, world
) -> None:
    world.add_texts("a", "b")
    first, second = submit(world, 2), submit(world, 2)
    other = Counting()

    def meanwhile() -> None:
        (unit,) = world.units(second)
        assert do(context, other, unit)
        (unit,) = world.units(second)
        assert (unit.state, unit.attempt, unit.token) == (UnitState.READY, 0, None)
        assert unit.run_after > unit.started_at
        assert not other.texts

    embedder = Counting(meanwhile)
    assert do(context, embedder, world.units(first)[0])
    finish(context, world, other, second)
    assert (embedder.texts, other.texts) == (Counter(["a", "b"]), Counter())
    with world.sessions() as session:
        outcomes = session.scalars(
            sa.select(Attempt.outcome).join(Unit).where(Unit.job_id == second).order_by(Attempt.token)
        ).all()
    assert outcomes[0] is AttemptOutcome.RETURNED
    assert outcomes[-1] is AttemptOutcome.COMMITTED
    assert [world.job(job).state for job in (first, second)] == [JobState.SUCCEEDED] * 2
    assert [str(one) for one in violations(world.sessions, quiet=True)] == []


def test_items_embedded_elsewhere_go_into_a_unit_of_their_own(context: WorkerContext, world) -> None:
    one, two, three, four = world.add_texts("a", "b", "c", "d")
    first = submit(world, 2)
    second = submit(world, 4)
    other = Counting()

    def meanwhile() -> None:
        assert do(context, other, world.units(second)[0])
        done, later = world.units(second)
        assert (done.state, done.payload["items"]) == (UnitState.DONE, [str(three), str(four)])
        assert (later.state, later.attempt, later.payload["items"]) == (UnitState.READY, 0, [str(one), str(two)])
        assert later.run_after > done.finished_at
        assert world.job(second).finished_at is None

    embedder = Counting(meanwhile)
    assert do(context, embedder, world.units(first)[0])
    finish(context, world, embedder, first, second)
    assert embedder.texts + other.texts == Counter(["a", "b", "c", "d"])
    assert [world.job(job).state for job in (first, second)] == [JobState.SUCCEEDED] * 2
    assert [str(found) for found in violations(world.sessions, quiet=True)] == []


def test_the_claim_of_a_worker_whose_lease_ran_out_is_void(context: WorkerContext, world) -> None:
    world.add_texts("a", "b")
    first, second = submit(world, 2), submit(world, 2)
    other = Counting()

    def die() -> None:
        with transaction(world.sessions) as session:
            session.execute(sa.update(Unit).where(Unit.job_id == first).values(lease_until=sa.func.now()))
        assert do(context, other, world.units(second)[0])

    assert do(context, Counting(die), world.units(first)[0])
    assert other.texts == Counter(["a", "b"])
    assert world.job(second).state is JobState.SUCCEEDED
    assert world.job(first).finished_at is None, "its own vectors were refused"
    assert (vectors(world), claims(world)) == (2, 0)


def test_an_item_that_changed_while_it_was_embedded_is_embedded_again_for_the_other_job(
    context: WorkerContext, world
) -> None:
    (item_id,) = world.add_texts("old")
    first = submit(world, 2)
    jobs = [first]
    other = Counting()

    def meanwhile() -> None:
        with transaction(world.sessions) as session:
            item = session.get_one(Item, item_id)
            item.text, item.version = "new", 2
        jobs.append(submit(world, 2))
        assert do(context, other, world.units(jobs[1])[0])

    assert do(context, Counting(meanwhile), world.units(first)[0])
    finish(context, world, other, *jobs)
    assert other.texts == Counter(["new"])
    with world.sessions() as session:
        assert session.scalars(sa.select(Embedding.item_version)).all() == [2]


def test_an_item_deleted_while_it_is_claimed_elsewhere_does_not_keep_the_job_open(
    context: WorkerContext, world
) -> None:
    item_id, _ = world.add_texts("gone", "b")
    first, second = submit(world, 2), submit(world, 2)
    other = Counting()

    def meanwhile() -> None:
        with transaction(world.sessions) as session:
            records.empty_item(session, item_id)
        assert do(context, other, world.units(second)[0])

    assert do(context, Counting(meanwhile), world.units(first)[0])
    finish(context, world, other, second)
    assert [world.job(job).state for job in (first, second)] == [JobState.SUCCEEDED] * 2
    assert vectors(world) == 1


def test_overlapping_jobs_of_several_workers_embed_each_item_once(context: WorkerContext, world) -> None:
    """Each upload asks for all items without a vector, with units of different sizes, before any was embedded."""
    jobs, texts = [], []
    for number in range(scaled(6, 40)):
        texts += [f"text-{number}-{part}" for part in range(5)]
        world.add_texts(*texts[-5:])
        jobs.append(submit(world, 2 + number % 4))
    embedder = Counting()

    def work(worker: int) -> None:
        mine = dataclasses.replace(context, worker=f"tester:{worker}")
        while ready := [unit for job in jobs for unit in world.units(job) if unit.state is UnitState.READY]:
            for at in range(len(ready)):
                do(mine, embedder, ready[(at * 7 + worker * 3) % len(ready)])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert embedder.texts == Counter(texts), "each (item, model, version) once"
    assert {world.job(job).state for job in jobs} == {JobState.SUCCEEDED}
    assert (vectors(world), claims(world)) == (len(texts), 0)
    assert [str(found) for found in violations(world.sessions, quiet=True)] == []
