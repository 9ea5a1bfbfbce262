"""The coarse stage on a worker: embed the query, query every source, store the candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from retllm.db.jobs import Job
from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.embedding import fuse
from retllm.errors import ModelUnavailable
from retllm.indexing.worker import Embedders, Vectors, configured_name, register
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
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
        InvalidInput: one of these takes no pictures, or no texts, and the query has nothing else.
        Conflict: no source can answer, since no item of the collection is indexed with these embedders.
    """
    with context.sessions() as session:
        search = session.get_one(Search, held.claim.job_id)
        unused = coarse.unindexed(session, search)
    # the main embedder computes the similarity of every candidate, whichever source found it
    loaded = {search.embedder: embedders(configured_name(context, search.embedder))}
    for name in coarse.embedders_of(search):
        if name in loaded or name in unused:
            continue
        try:
            loaded[name] = embedders(configured_name(context, name))
        except ModelUnavailable as error:
            if coarse.has_one_source(search):
                raise
            unused[name] = error.message
    _drop_unsuited(search, loaded, unused)
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


def _drop_unsuited(search: Search, loaded: dict[str, Embedder], unused: dict[str, str]) -> None:
    """Move the embedders that can't take the query from ``loaded`` to ``unused``, each with a message."""
    picture, text = search.query_picture_key is not None, bool(search.query_text)
    for name, embedder in list(loaded.items()):
        refusal = embedder.info.refusal("query", picture=picture, text=text)
        if refusal is None:
            continue
        if name == search.embedder or coarse.has_one_source(search):
            raise refusal
        unused[name] = refusal.message
        del loaded[name]


def _embed_query(context: WorkerContext, search: Search, embedders: Mapping[str, Embedder]) -> dict[str, Vectors]:
    """Return the query's vector for each embedder, of shape (dimension,)."""
    key = search.query_picture_key

    def of_picture(embedder: Embedder) -> Vectors | None:
        if key is None or not embedder.info.pictures:
            return None
        # decode it as items are decoded, so that the same picture gives the same vector
        picture = query_picture(context, key, embedder.least_side)
        vector: Vectors = embedder.embed_images([picture], query=True)[0]
        return vector

    def of_text(embedder: Embedder) -> Vectors | None:
        if not search.query_text or not embedder.info.texts:
            return None
        vector: Vectors = embedder.embed_texts([search.query_text], query=True)[0]
        return vector

    return {
        name: fuse(of_picture(embedder), of_text(embedder), search.query_image_weight)
        for name, embedder in embedders.items()
    }
