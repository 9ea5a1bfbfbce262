"""The units of the embedders: items of an index job, and the coarse stage of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from PIL.Image import Image
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.session import transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item, Job, Search
from retllm.db.vectors import register_model
from retllm.embedding import Embedder, fuse
from retllm.errors import ModelUnavailable
from retllm.jobs import coarse_stage
from retllm.jobs.announce import Announcement
from retllm.jobs.claim import complete
from retllm.jobs.coarse_stage import Question
from retllm.jobs.indexed import clear_errors
from retllm.jobs.work import Bench, Held
from retllm.logs import carried
from retllm.media.ingest import open_picture
from retllm.settings import public_name

# pictures decoded and embedded between two looks at the lease
_BATCH = 32
_DECODERS = 4

Vectors = NDArray[np.float32]

# the embedder of an open_clip name, loaded; raises ModelUnavailable
Embedders = Callable[[str], Embedder]


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


def embed_unit(bench: Bench, held: Held, embedders: Embedders) -> list[Announcement]:
    """Embed the unit's items and store their vectors; items deleted meanwhile are passed over.

    Raises:
        StaleClaim, JobCancelled: between two batches, or at the end.
        ModelUnavailable: the unit's embedder can't be loaded, or is none of those that this worker serves.
        MediaRejected: a picture can't be decoded; with others in the unit, the unit is split.
    """
    name, weight = _embedder_and_weight(bench, held)
    embedder = embedders(_served(bench, name))
    ids = [UUID(item) for item in held.claim.payload["items"]]
    with bench.sessions() as session:
        found = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(ids)))}
    items = [found[key] for key in ids if key in found and found[key].state is ItemState.READY]
    vectors: list[Vectors] = []
    with ThreadPoolExecutor(_DECODERS) as pool:
        batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
        # the next batch is decoded while this one is in the model
        decode = carried(_decode)
        decoded = pool.submit(decode, bench, batches[0]) if batches else None
        for number, batch in enumerate(batches):
            held.lease.check()
            pictures = decoded.result() if decoded else {}
            following = batches[number + 1] if number + 1 < len(batches) else None
            decoded = pool.submit(decode, bench, following) if following else None
            vectors.extend(_embed(embedder, batch, pictures, weight))
    held.lease.check()

    def write(session: Session, job: Job) -> list[Announcement]:
        model = register(session, embedder)
        _store(session, model, job.collection_id, items, vectors, weight, held.claim.token)
        return []

    return complete(bench.sessions, held.claim, write)


def _embedder_and_weight(bench: Bench, held: Held) -> tuple[str, float]:
    """The name of the unit's embedder, and the share of the picture that the job was accepted with."""
    with bench.sessions() as session:
        params = session.scalars(sa.select(Job.params).where(Job.id == held.claim.job_id)).one()
    return held.claim.payload.get("embedder", params["embedder"]), float(params["item_image_weight"])


def _served(bench: Bench, asked: str) -> str:
    """The open_clip name of an embedder, by the name that jobs keep."""
    serves = bench.settings.embedders
    if asked not in serves:
        raise ModelUnavailable(
            f"This job wants the embedder {asked}, but the workers serve {', '.join(serves)}: "
            "start workers with the settings that the web server has."
        )
    return serves[asked]


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
    token: UUID,
) -> None:
    """Write the vectors; a newer one that is there already stays, and an item that is gone gets none."""
    failed_before = any(item.error is not None for item in items)
    alive = set(
        session.scalars(
            sa.select(Item.id)
            .where(Item.id.in_([item.id for item in items]), Item.state == ItemState.READY)
            # always in the same order, so that two workers that write to the same items do not wait for each other
            .order_by(Item.id)
            .with_for_update(read=not failed_before)
        )
    )
    if failed_before:
        clear_errors(session, list(alive))
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
            set_={name: fresh[name] for name in ("vector", "item_version", "image_weight", "token")},
            where=Embedding.item_version <= fresh.item_version,
        )
    )


def coarse_unit(bench: Bench, held: Held, embedders: Embedders) -> list[Announcement]:
    """Embed the query, ask every source and store the first k items as candidates; the fine stage follows.

    A source that can't answer is passed over as long as there is another one, and the search says why.

    Raises:
        ModelUnavailable: the search's own embedder can't be loaded, or the only one that it asks.
        Conflict: no source can answer, since nothing in the collection was indexed by these embedders.
    """
    with bench.sessions() as session:
        search = session.get_one(Search, held.claim.job_id)
        unused = coarse_stage.unindexed(session, search)
    # the similarity of every candidate is by the search's own embedder, whichever source has found it
    loaded = {search.embedder: embedders(_served(bench, search.embedder))}
    for name in coarse_stage.embedders_of(search):
        if name in loaded or name in unused:
            continue
        try:
            loaded[name] = embedders(_served(bench, name))
        except ModelUnavailable as error:
            if coarse_stage.has_one_source(search):
                raise
            unused[name] = error.message
    vectors = _embed_query(bench, search, loaded)
    with transaction(bench.sessions) as session:
        models = {name: register(session, embedder) for name, embedder in loaded.items()}
    held.lease.check()

    def write(session: Session, job: Job) -> list[Announcement]:
        questions = {name: Question(models[name], vector) for name, vector in vectors.items()}
        coarse_stage.store_pool(session, job, questions, unused, held.claim.token)
        # with this unit done none is open, and what settles the job opens the fine stage
        return []

    return complete(bench.sessions, held.claim, write)


def _embed_query(bench: Bench, search: Search, embedders: Mapping[str, Embedder]) -> dict[str, Vectors]:
    """The query's vector by each embedder, of shape (dimension,)."""
    picture = bench.query_picture(search.query_picture_key) if search.query_picture_key else None
    return {
        name: fuse(
            embedder.embed_images([picture])[0] if picture else None,
            embedder.embed_texts([search.query_text])[0] if search.query_text else None,
            search.query_image_weight,
        )
        for name, embedder in embedders.items()
    }
