"""The coarse stage of search jobs for ``retllm bench coarse``: what a worker does beside embedding the query."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from retllm.bench.coarse_data import Vectors
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, EmbeddingModel, User
from retllm.embedding.info import EmbedderInfo
from retllm.identity.actor import Actor
from retllm.job_kinds import register_handlers
from retllm.media.storage import get_storage
from retllm.queue.claim import Lease, claim_unit
from retllm.queue.notifications import Notifier
from retllm.queue.worker import LeasedUnit, WorkerContext
from retllm.search.coarse_worker import coarse_unit
from retllm.search.request import SearchRequest
from retllm.search.submit import submit_search
from retllm.settings import Settings

if TYPE_CHECKING:
    from retllm.embedding import Embedder

# the notifier of a worker, which nothing asks here
_NO_REDIS = "redis://127.0.0.1:1/0"


class _Known:
    """Takes the place of an embedder: the text of a query is the number of its vector."""

    def __init__(self, model: EmbeddingModel, queries: Vectors) -> None:
        self.info = EmbedderInfo(model.name, model.revision, model.dimension, model.preprocessing_hash)
        self._queries = queries

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> NDArray[np.float32]:
        """Return the vectors of queries."""
        assert query
        return self._queries[[int(text) for text in texts]]


def seconds_of_searches(
    home: Path, sessions: Sessions, model: EmbeddingModel, collection_id: uuid.UUID, queries: Vectors, k: int
) -> list[float]:
    """Return the seconds of the coarse stage of a search job for each query, from the claim to the last commit.

    The model must have the name of the collection's embedder.
    """
    register_handlers()
    settings = Settings(home=home, embedder=model.name, redis_url=None, default_k=k)
    context = WorkerContext(sessions, get_storage(settings), settings, Notifier(_NO_REDIS), "bench")
    embedder = cast("Embedder", _Known(model, queries))
    with sessions() as session:
        owner = session.get_one(User, session.get_one(Collection, collection_id).owner_id)
    spent = []
    for number in range(len(queries)):
        with transaction(sessions) as session:
            request = SearchRequest.model_validate({"text": str(number), "k": k})
            units = submit_search(session, Actor.unlimited(owner), collection_id, request, settings).units
        began = time.perf_counter()
        claim = claim_unit(sessions, units[0].unit_id, "bench", settings)
        assert claim is not None
        coarse_unit(context, LeasedUnit(claim, Lease(sessions, claim, settings)), lambda _name: embedder)
        spent.append(time.perf_counter() - began)
    return spent
