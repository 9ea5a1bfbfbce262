"""Index jobs on a worker: embed the items of a unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.jobs import Job, Unit
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.db.vectors import register_model
from retllm.embedding import fuse
from retllm.errors import ModelUnavailable, RetllmError, UnitPostponed
from retllm.indexing import sharing, vector_indexes
from retllm.indexing.indexed import clear_errors, has_content
from retllm.indexing.submit import replan
from retllm.media.parallel import InParallel, PixelBudget
from retllm.queue import lifecycle
from retllm.queue.claim import after, complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LastStep, LeasedUnit, WorkerContext
from retllm.settings import public_name

if TYPE_CHECKING:
    # at run time this name imports torch
    from retllm.embedding import Embedder

# items embedded between two checks of the lease
_BATCH = 32

Vectors = NDArray[np.float32]

# returns the loaded embedder of a configured name; raises ModelUnavailable
Embedders = Callable[[str], "Embedder"]


def register(session: Session, embedder: Embedder) -> EmbeddingModel:
    """Register an embedder that this worker has loaded, and return its row."""
    info = embedder.info
    return register_model(
        session,
        name=public_name(info.name),
        revision=info.revision,
        dimension=info.dimension,
        preprocessing_hash=info.preprocessing_hash,
    )


def embed_unit(context: WorkerContext, held: LeasedUnit, embedders: Embedders) -> LastStep:
    """Embed the unit's items; return the step that stores their vectors. Or return the step that builds an index.

    Items that were deleted for good, or have their vector already, are skipped; those in the trash are not. Items that
    another unit embeds just now are left for a later unit of this job (:mod:`retllm.indexing.sharing`).

    Raises:
        UnitPostponed: other units embed all its items.
        StaleClaim, JobCancelled: between two batches; StaleClaim also by the last step.
        ModelUnavailable: the unit's embedder can't be loaded, or this worker does not serve it.
        InvalidInput: no item of the unit can be embedded: no picture can be decoded, or none has what the model takes.
            If some can, the others get their own units instead.
    """
    if "index" in held.claim.payload:
        return vector_indexes.build(context, held)
    if "drop" in held.claim.payload:
        return vector_indexes.drop(context, held)
    name, weight = _embedder_and_weight(context, held)
    embedder = embedders(configured_name(context, name))
    ids = [UUID(item) for item in held.claim.payload["items"]]
    with context.sessions() as session:
        found = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(ids)))}
    with transaction(context.sessions) as session:
        # in its own transaction: no other lock is held while it waits for another worker that registers one
        model = register(session, embedder)
    planned_for = held.claim.payload.get("model")
    if planned_for not in (None, str(model.id)):
        # before the items are embedded: the others need their vectors even if these fail
        units = run_transaction(context.sessions, lambda session: replan(session, held.claim, model, context.settings))
        context.notifier.notify(units)
    there = [key for key in ids if key in found and found[key].state is not ItemState.DELETED]
    share = run_transaction(
        context.sessions, lambda session: sharing.claim_items(session, held.claim, model.id, there, weight)
    )
    if share.elsewhere and len(share.elsewhere) == len(ids):
        raise UnitPostponed(context.settings.republish_seconds)
    items = [found[key] for key in there if key in share.mine]
    vectors, unreadable = _embed_items(context, held, embedder, items, weight)
    held.lease.check()

    def write(session: Session, job: Job) -> list[Notification]:
        done = [item for item in items if item.id in vectors]
        _store(session, model, job.one_collection, done, [vectors[item.id] for item in done], weight, held.claim.token)
        sharing.release_items(session, held.claim.token, model.id, share.mine)
        unit = session.get_one(Unit, held.claim.unit_id)
        if share.elsewhere:
            later = after(context.settings.republish_seconds)
            lifecycle.set_aside(session, job, unit, {str(item) for item in share.elsewhere}, later)
        # each of them gets its own unit, which fails and can be retried separately
        return lifecycle.set_apart(session, job, unit, unreadable) if unreadable else []

    return partial(complete, context.sessions, held.claim, write)


def _embed_items(
    context: WorkerContext, held: LeasedUnit, embedder: Embedder, items: Sequence[Item], weight: float
) -> tuple[dict[UUID, Vectors], list[str]]:
    """Return the vectors of the items, and the ids of those whose picture can't be read, or that the model can't take.

    Raises:
        StaleClaim, JobCancelled: between two batches.
        RetllmError: no item can be embedded, or a retry can help.
    """
    vectors: dict[UUID, Vectors] = {}
    errors: dict[str, RetllmError] = {}
    takes_pictures = embedder.info.pictures
    for item in items:
        refusal = embedder.info.refusal("item", picture=bool(item.picture_key), text=bool(item.text))
        if refusal is not None:
            errors[str(item.id)] = refusal
    items = [item for item in items if str(item.id) not in errors]
    pictures = InParallel(
        [item for item in items if item.picture_key and takes_pictures],
        partial(_prepare, context, embedder),
        partial(context.pictures.decoded_bytes, min_side=embedder.least_side),
        threads=context.settings.decoders_at_once,
        budget=PixelBudget(context.settings.decoded_bytes),
        # decode the next batch while the model embeds this one
        ahead=2 * _BATCH,
    )
    with closing(pictures):
        for start in range(0, len(items), _BATCH):
            held.lease.check()
            batch, prepared = [], {}
            for item in items[start : start + _BATCH]:
                if item.picture_key and takes_pictures:
                    result = next(pictures)
                    if result.error is not None:
                        errors[str(item.id)] = _permanent_error(result.error)
                        continue
                    prepared[item.id] = result.value
                batch.append(item)
            vectors |= zip((item.id for item in batch), _embed(embedder, batch, prepared, weight), strict=True)
    if errors and not vectors:
        # the files of an item that was deleted meanwhile are gone
        with context.sessions() as session:
            there = sa.select(Item.id).where(Item.id.in_([UUID(item) for item in errors]), has_content())
            left = {str(item) for item in session.scalars(there)}
        errors = {item: error for item, error in errors.items() if item in left}
        if errors:
            raise next(iter(errors.values()))
    return vectors, list(errors)


def _prepare(context: WorkerContext, embedder: Embedder, item: Item) -> Any:
    """Return the item's picture, preprocessed for the embedder's model."""
    return embedder.prepare(context.pictures.open(item, embedder.least_side))


def _permanent_error(error: Exception) -> RetllmError:
    """Return the error if a retry can't help this picture; raise any other error, which fails the attempt."""
    if isinstance(error, RetllmError) and not error.retryable:
        return error
    raise error


def _embedder_and_weight(context: WorkerContext, held: LeasedUnit) -> tuple[str, float]:
    """Return the name of the unit's embedder, and the weight of the picture in the job's parameters."""
    with context.sessions() as session:
        params = session.scalars(sa.select(Job.params).where(Job.id == held.claim.job_id)).one()
    return held.claim.payload.get("embedder", params["embedder"]), float(params["item_image_weight"])


def configured_name(context: WorkerContext, name: str) -> str:
    """Return the full name of an embedder by its public name."""
    served = context.settings.embedders
    if name not in served:
        raise ModelUnavailable(
            f"This job requires the embedder {name}, but the workers serve {', '.join(served)}: "
            "start workers with the same settings as the web server."
        )
    return served[name]


def _embed(embedder: Embedder, items: Sequence[Item], prepared: Mapping[UUID, Any], weight: float) -> list[Vectors]:
    """Return the vectors of the items, each of shape (dimension,): of the picture, of the text, or of both fused."""
    with_text = [item for item in items if item.text and embedder.info.texts]
    by_picture = dict(zip(prepared, embedder.embed_prepared(list(prepared.values())), strict=True) if prepared else ())
    by_text = dict(
        zip((i.id for i in with_text), embedder.embed_texts([i.text or "" for i in with_text]), strict=True)
        if with_text
        else ()
    )
    return [fuse(by_picture.get(item.id), by_text.get(item.id), weight) for item in items]


def _store(
    session: Session,
    model: EmbeddingModel,
    collection_id: UUID,
    items: Sequence[Item],
    vectors: Sequence[Vectors],
    weight: float,
    token: UUID,
) -> None:
    """Store the vectors, except where a newer one exists or the item was deleted."""
    failed_before = any(item.error is not None for item in items)
    there = set(
        session.scalars(
            sa.select(Item.id)
            .where(Item.id.in_([item.id for item in items]), has_content())
            .order_by(Item.id)
            .with_for_update(read=not failed_before)
        )
    )
    if failed_before:
        clear_errors(session, list(there))
    rows = [
        {
            "item_id": item.id,
            "model_id": model.id,
            "collection_id": collection_id,
            "item_version": item.version,
            "image_weight": weight,
            "vector": vector,
            "token": token,
        }
        for item, vector in sorted(zip(items, vectors, strict=True), key=lambda pair: pair[0].id)
        if item.id in there
    ]
    if not rows:
        return
    statement = insert(Embedding).values(rows)
    fresh = statement.excluded
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["item_id", "model_id"],
            set_={name: fresh[name] for name in ("vector", "item_version", "image_weight", "token")},
            where=Embedding.item_version <= fresh.item_version,
        )
    )
