"""The coarse stage on a worker: embed the query, query every source, store the candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Job
from retllm.embedding import fuse
from retllm.errors import ModelUnavailable
from retllm.indexing.worker import Embedders, Vectors, open_clip_name, register
from retllm.queue.claim import complete
from retllm.queue.notifications import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext
from retllm.search import coarse
from retllm.search.coarse import QueryVector
from retllm.search.query_picture import query_picture

if TYPE_CHECKING:
    from retllm.embedding import Embedder


def coarse_unit(context: WorkerContext, held: LeasedUnit, embedders: Embedders) -> list[Notification]:
    """Embed the query, query every source and store the first k items as candidates; the fine stage follows.

    A source that can't answer is skipped if there is another one; the search shows the reason.

    Raises:
        ModelUnavailable: the search's main embedder, or its only source, can't be loaded.
        Conflict: no source can answer, since no item of the collection is indexed with these embedders.
    """
    with context.sessions() as session:
        search = session.get_one(Search, held.claim.job_id)
        unused = coarse.unindexed(session, search)
    # the main embedder computes the similarity of every candidate, whichever source found it
    loaded = {search.embedder: embedders(open_clip_name(context, search.embedder))}
    for name in coarse.embedders_of(search):
        if name in loaded or name in unused:
            continue
        try:
            loaded[name] = embedders(open_clip_name(context, name))
        except ModelUnavailable as error:
            if coarse.has_one_source(search):
                raise
            unused[name] = error.message
    vectors = _embed_query(context, search, loaded)
    with transaction(context.sessions) as session:
        models = {name: register(session, embedder) for name, embedder in loaded.items()}
    held.lease.check()

    def write(session: Session, job: Job) -> list[Notification]:
        questions = {name: QueryVector(models[name], vector) for name, vector in vectors.items()}
        coarse.store_pool(session, job, questions, unused, held.claim.token)
        # this was the only open unit: completing it makes the job core add the units of the fine stage
        return []

    return complete(context.sessions, held.claim, write)


def _embed_query(context: WorkerContext, search: Search, embedders: Mapping[str, Embedder]) -> dict[str, Vectors]:
    """Return the query's vector for each embedder, of shape (dimension,)."""
    key = search.query_picture_key

    def of_picture(embedder: Embedder) -> Vectors | None:
        # decode it as items are decoded, so that the same picture gives the same vector
        return embedder.embed_images([query_picture(context, key, embedder.least_side)])[0] if key else None

    return {
        name: fuse(
            of_picture(embedder),
            embedder.embed_texts([search.query_text])[0] if search.query_text else None,
            search.query_image_weight,
        )
        for name, embedder in embedders.items()
    }
