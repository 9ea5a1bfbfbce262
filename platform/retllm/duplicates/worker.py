"""The search for near-duplicates on a worker: do one unit; results are written in the transaction that ends it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.duplicates import Dismissal, SimilarPair
from retllm.db.enums import ItemKind, Stage
from retllm.db.jobs import Job, Unit
from retllm.db.many import insert_many, one_of, update_many
from retllm.db.plans import joined
from retllm.db.session import transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.duplicates.grouping import SIMILARITY, Similar, form_groups
from retllm.duplicates.pictures import HashedPictures, hashed_pictures
from retllm.duplicates.replacing import replace_groups
from retllm.duplicates.submit import GROUP, HASH, NEIGHBOURS, PLAN, STEP
from retllm.errors import NotFound, RetllmError
from retllm.indexing.indexed import current_model, is_ready
from retllm.media.decoding.perceptual import perceptual_hash
from retllm.media.parallel import InParallel, PixelBudget
from retllm.media.pictures import load_stored
from retllm.queue import lifecycle
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LastStep, LeasedUnit, WorkerContext
from retllm.search.neighbours import nearest

_PICTURES = (ItemKind.IMAGE, ItemKind.BOTH)
# items of one unit; each waits for a file, or for a search of an index
_HASHED, _SEARCHED = 256, 64
# of each picture so many nearest vectors are looked at, with its own
_NEAREST = 9


def duplicates_unit(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """Do the unit; return the step that stores its result.

    Raises:
        StaleClaim, JobCancelled: between two pictures; StaleClaim also by the last step.
        MediaRejected, NotFound: no picture of the unit can be read. If some can, the others get units of their own.
        StackError, OSError: storage or decoders can't be used; no picture is at fault.
    """
    return _STEPS[held.claim.payload[STEP]](context, held)


def _ids(held: LeasedUnit) -> list[UUID]:
    return [UUID(item) for item in held.claim.payload["items"]]


def _job_and_model(session: Session, held: LeasedUnit) -> tuple[UUID, EmbeddingModel | None]:
    """Return the collection, and the version of its embedder that workers loaded last."""
    job = session.get_one(Job, held.claim.job_id)
    return job.one_collection, current_model(session, job.params["embedder"])


def _plan(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """List the pictures without a hash, and those with a vector."""
    with transaction(context.sessions) as session:
        collection_id, model = _job_and_model(session, held)
        inside = Item.collection_id == collection_id, is_ready()
        lacks_hash = Item.perceptual_hash.is_(None), Item.thumbnail_key.is_not(None)
        unhashed = session.scalars(sa.select(Item.id).where(*inside, *lacks_hash).order_by(Item.id)).all()
        with_vector: Sequence[UUID] = ()
        if model is not None:
            own = Embedding.collection_id == collection_id, Embedding.model_id == model.id
            found = sa.select(Item.id).join(Embedding, Embedding.item_id == Item.id).where(*inside, *own)
            rows = joined(session, found.where(Item.kind.in_(_PICTURES)).order_by(Item.id))
            with_vector = [row.id for row in rows]
    payloads = [*_payloads(HASH, unhashed, _HASHED), *_payloads(NEIGHBOURS, with_vector, _SEARCHED)]

    def write(session: Session, job: Job) -> list[Notification]:
        return lifecycle.append_units(session, job, Stage.MEDIA, payloads)

    return partial(complete, context.sessions, held.claim, write)


def _payloads(step: str, ids: Sequence[UUID], size: int) -> list[dict[str, Any]]:
    items = [str(key) for key in ids]
    return [{STEP: step, "items": items[start : start + size]} for start in range(0, len(items), size)]


def _hash(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """Compute the hashes of pictures from their thumbnails, which have many times more pixels than a hash needs."""
    lacking = one_of(Item.id, _ids(held)), is_ready(), Item.perceptual_hash.is_(None)
    with context.sessions() as session:
        items = session.scalars(sa.select(Item).where(*lacking).order_by(Item.id)).all()
    settings = context.settings
    results = InParallel(
        items,
        partial(_hash_of, context, held.lease.check),
        lambda _: 4 * settings.thumbnail_size**2,
        threads=settings.decoders_at_once,
        budget=PixelBudget(settings.decoded_bytes),
        ahead=2 * settings.decoders_at_once,
    )
    hashes: dict[UUID, int] = {}
    errors: dict[str, RetllmError] = {}
    with closing(results):
        for item, result in zip(items, results, strict=True):
            if result.error is None:
                assert result.value is not None
                hashes[item.id] = result.value
            elif not isinstance(result.error, RetllmError) or result.error.retryable:
                raise result.error
            # the files of an item that was deleted meanwhile are gone
            elif not context.pictures.is_gone(item):
                errors[str(item.id)] = result.error
    if errors and not hashes:
        raise next(iter(errors.values()))

    def write(session: Session, job: Job) -> list[Notification]:
        locked = sa.select(Item.id).where(one_of(Item.id, list(hashes)), is_ready()).order_by(Item.id)
        rows = [{"id": key, "perceptual_hash": hashes[key]} for key in session.scalars(_locking(locked))]
        if rows:
            session.execute(update_many(Item, rows).execution_options(synchronize_session=False))
        # each of them gets its own unit, which fails and can be retried separately
        return lifecycle.set_apart(session, job, session.get_one(Unit, held.claim.unit_id), errors) if errors else []

    return partial(complete, context.sessions, held.claim, write)


def _locking(query: sa.Select[UUID]) -> sa.Select[UUID]:
    return query.with_for_update(key_share=True)


def _hash_of(context: WorkerContext, check: Callable[[], None], item: Item) -> int:
    check()
    if item.thumbnail_key is None:
        raise NotFound("This item has no picture.", item_id=str(item.id))
    with context.storage.open(item.thumbnail_key) as file:
        return perceptual_hash(load_stored(file, context.settings))


def _neighbours(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """Find the pictures whose vectors are near to those of the unit's pictures."""
    found: dict[tuple[UUID, UUID], float] = {}
    with transaction(context.sessions) as session:
        collection_id, model = _job_and_model(session, held)
        vectors: dict[UUID, Any] = {}
        if model is not None:
            of_model = Embedding.model_id == model.id, one_of(Embedding.item_id, _ids(held))
            vectors = dict(iter(session.execute(sa.select(Embedding.item_id, Embedding.vector).where(*of_model))))
        for item_id, vector in vectors.items():
            held.lease.check()
            assert model is not None
            near = nearest(session, model, collection_id, np.asarray(vector, np.float32), _NEAREST, _PICTURES)
            for other in near.neighbours:
                if other.item_id != item_id and other.similarity >= SIMILARITY:
                    first, second = sorted((item_id, other.item_id))
                    found[first, second] = min(1.0, other.similarity)
    rows = [
        {"job_id": held.claim.job_id, "first": first, "second": second, "similarity": similarity}
        for (first, second), similarity in sorted(found.items())
    ]

    def write(session: Session, _job: Job) -> list[Notification]:
        if rows:
            # most pairs are found from both sides
            session.execute(insert_many(SimilarPair, rows).on_conflict_do_nothing())
        return []

    return partial(complete, context.sessions, held.claim, write)


def _group(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """Form the groups of all pictures, and put them in the place of the earlier ones."""
    with transaction(context.sessions) as session:
        collection_id, _ = _job_and_model(session, held)
        pictures = hashed_pictures(session, collection_id, held.lease.check)
        similar = _similar(session, held.claim.job_id, pictures)
        dismissed = _dismissed(session, collection_id, pictures)
    groups = form_groups(pictures.hashes, similar, dismissed, held.lease.check)
    keyed = [[(pictures.key(member.place), member) for member in group] for group in groups]
    held.lease.check()

    def write(session: Session, job: Job) -> list[Notification]:
        replace_groups(session, job, pictures, keyed)
        return []

    return partial(complete, context.sessions, held.claim, write)


def _similar(session: Session, job_id: UUID, pictures: HashedPictures) -> list[Similar]:
    query = sa.select(SimilarPair.first, SimilarPair.second, SimilarPair.similarity).where(SimilarPair.job_id == job_id)
    found: list[Similar] = []
    for first, second, similarity in session.execute(query.execution_options(yield_per=10_000)):
        places = pictures.place(first), pictures.place(second)
        # one may be deleted meanwhile
        if places[0] is not None and places[1] is not None:
            found.append(Similar(places[0], places[1], similarity))
    return found


def _dismissed(session: Session, collection_id: UUID, pictures: HashedPictures) -> Mapping[int, frozenset[UUID]]:
    query = sa.select(Dismissal.item_id, Dismissal.dismissal_id).where(Dismissal.collection_id == collection_id)
    found: defaultdict[int, set[UUID]] = defaultdict(set)
    for item_id, dismissal_id in session.execute(query):
        if (place := pictures.place(item_id)) is not None:
            found[place].add(dismissal_id)
    return {place: frozenset(dismissals) for place, dismissals in found.items()}


_STEPS: Mapping[str, Callable[[WorkerContext, LeasedUnit], LastStep]] = {
    PLAN: _plan,
    HASH: _hash,
    NEIGHBOURS: _neighbours,
    GROUP: _group,
}
