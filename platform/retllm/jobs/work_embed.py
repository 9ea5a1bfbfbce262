"""The units of the embedder: items of an index job, and the coarse stage of a search."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from PIL.Image import Image
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.coarse import nearest
from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import transaction
from retllm.db.tables import Candidate, Embedding, EmbeddingModel, Item, Job, Search
from retllm.db.vectors import register_model
from retllm.embedding import Embedder, fuse
from retllm.errors import Conflict, ModelUnavailable
from retllm.jobs.announce import Announcement
from retllm.jobs.claim import complete
from retllm.jobs.work import Bench, Held
from retllm.media.ingest import open_picture
from retllm.settings import public_name

# pictures decoded and embedded between two looks at the lease
_BATCH = 32
_DECODERS = 4

Vectors = NDArray[np.float32]


def register(session: Session, embedder: Embedder) -> EmbeddingModel:
    """The row of the embedder that this worker holds."""
    info = embedder.info
    return register_model(
        session,
        name=public_name(info.name),
        revision=info.revision,
        dimension=info.dimension,
        preprocessing_hash=info.preprocessing_hash,
    )


def embed_unit(bench: Bench, held: Held, embedder: Embedder) -> list[Announcement]:
    """Embed the unit's items and store their vectors; items deleted meanwhile are passed over.

    Raises:
        StaleClaim, JobCancelled: between two batches, or at the end.
        MediaRejected: a picture can't be decoded; with others in the unit, the unit is split.
    """
    weight = _image_weight(bench, held)
    ids = [UUID(item) for item in held.claim.payload["items"]]
    with bench.sessions() as session:
        found = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(ids)))}
    items = [found[key] for key in ids if key in found and found[key].state is ItemState.READY]
    vectors: list[Vectors] = []
    with ThreadPoolExecutor(_DECODERS) as pool:
        batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
        # the next batch is decoded while this one is in the model
        decoded = pool.submit(_decode, bench, batches[0]) if batches else None
        for number, batch in enumerate(batches):
            held.lease.check()
            pictures = decoded.result() if decoded else {}
            following = batches[number + 1] if number + 1 < len(batches) else None
            decoded = pool.submit(_decode, bench, following) if following else None
            vectors.extend(_embed(embedder, batch, pictures, weight))
    held.lease.check()

    def write(session: Session, job: Job) -> list[Announcement]:
        model = register(session, embedder)
        _store(session, model, job.collection_id, items, vectors, weight)
        return []

    return complete(bench.sessions, held.claim, write)


def _image_weight(bench: Bench, held: Held) -> float:
    """The share of the picture that the job was accepted with."""
    with bench.sessions() as session:
        params = session.scalars(sa.select(Job.params).where(Job.id == held.claim.job_id)).one()
    _demand_embedder(bench, params["embedder"])
    return float(params["item_image_weight"])


def _demand_embedder(bench: Bench, asked: str) -> None:
    serves = public_name(bench.settings.embedder_name)
    if asked != serves:
        raise ModelUnavailable(
            f"This job wants the embedder {asked}, but the workers serve {serves}: "
            "start workers with the settings that the web server has."
        )


def _decode(bench: Bench, items: Sequence[Item]) -> dict[UUID, Image]:
    return {item.id: open_picture(bench.storage, item) for item in items if item.picture_key}


def _embed(embedder: Embedder, items: Sequence[Item], pictures: dict[UUID, Image], weight: float) -> list[Vectors]:
    """The vectors of the items, shape (dimension,) each: of the picture, of the text, or of both fused."""
    with_picture = [item for item in items if item.id in pictures]
    with_text = [item for item in items if item.text]
    of_picture = dict(
        zip((i.id for i in with_picture), embedder.embed_images([pictures[i.id] for i in with_picture]), strict=True)
        if with_picture
        else ()
    )
    of_text = dict(
        zip((i.id for i in with_text), embedder.embed_texts([i.text or "" for i in with_text]), strict=True)
        if with_text
        else ()
    )
    return [fuse(of_picture.get(item.id), of_text.get(item.id), weight) for item in items]


def _store(
    session: Session,
    model: EmbeddingModel,
    collection_id: UUID,
    items: Sequence[Item],
    vectors: Sequence[Vectors],
    weight: float,
) -> None:
    """Write the vectors; a newer one that is there already stays, and an item that is gone gets none."""
    kept = session.execute(
        sa.select(Item.id)
        .where(Item.id.in_([item.id for item in items]), Item.state == ItemState.READY)
        .with_for_update(read=True)
    ).scalars()
    alive = set(kept)
    rows = [
        {
            "item_id": item.id,
            "model_id": model.id,
            "collection_id": collection_id,
            "item_version": item.version,
            "image_weight": weight,
            "vector": vector,
        }
        for item, vector in zip(items, vectors, strict=True)
        if item.id in alive
    ]
    if not rows:
        return
    statement = insert(Embedding).values(rows)
    fresh = statement.excluded
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["item_id", "model_id"],
            set_={"vector": fresh.vector, "item_version": fresh.item_version, "image_weight": fresh.image_weight},
            where=Embedding.item_version <= fresh.item_version,
        )
    )


def coarse_unit(bench: Bench, held: Held, embedder: Embedder) -> list[Announcement]:
    """Embed the query and store the k nearest items as candidates; the fine stage follows.

    Raises:
        Conflict: nothing in the collection was indexed by this embedder.
    """
    with bench.sessions() as session:
        search = session.get_one(Search, held.claim.job_id)
    _demand_embedder(bench, search.embedder)
    picture = bench.query_picture(search.query_picture_key) if search.query_picture_key else None
    query = fuse(
        embedder.embed_images([picture])[0] if picture else None,
        embedder.embed_texts([search.query_text])[0] if search.query_text else None,
        search.query_image_weight,
    )
    with transaction(bench.sessions) as session:
        model = register(session, embedder)
    held.lease.check()

    def write(session: Session, job: Job) -> list[Announcement]:
        return _store_candidates(session, job, model, query)

    return complete(bench.sessions, held.claim, write)


def _store_candidates(session: Session, job: Job, model: EmbeddingModel, query: Vectors) -> list[Announcement]:
    search = session.get_one(Search, job.id)
    kinds = [ItemKind(kind) for kind in search.item_kinds]
    pool, searched = nearest(session, model, job.collection_id, query, search.k, kinds)
    if not pool and not session.scalar(
        sa.select(Embedding.item_id).filter_by(collection_id=job.collection_id, model_id=model.id).limit(1)
    ):
        raise Conflict(f"Nothing in the collection is indexed with {search.embedder}: submit an index job first.")
    session.add_all(
        Candidate(search_id=job.id, item_id=near.item_id, coarse_rank=near.rank, similarity=near.similarity)
        for near in pool
    )
    search.model_id = model.id
    search.searched_items = searched
    search.coarse_at = sa.func.clock_timestamp()
    # with this unit done none is open, and what settles the job opens the fine stage
    return []
