"""The vector index of each embedding model (design: data)."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
import structlog
from pgvector import HalfVector
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.orm import Session

from retllm.db.tables import Embedding, EmbeddingModel, new_id

log = structlog.get_logger(__name__)

# advisory lock for registering a model, so that two workers do not create the same index
_REGISTER_LOCK = 0x7265746C


def index_name(model_id: uuid.UUID) -> str:
    """Return the name of the model's partial HNSW index."""
    return f"ix_embeddings_hnsw_{model_id.hex}"


def half(column: Any, dimension: int) -> Any:
    """Return ``column`` as ``halfvec(dimension)``, the expression that the index uses."""
    return sa.cast(column, HALFVEC(dimension))


def distance(model: EmbeddingModel, query: Any) -> sa.ColumnElement[float]:
    """Return the cosine distance between the embeddings of ``model`` and a query vector of shape (dimension,)."""
    vector = HalfVector([float(x) for x in query])
    column: sa.ColumnElement[float] = half(Embedding.vector, model.dimension).cosine_distance(vector)
    return column


def register_model(
    session: Session, *, name: str, revision: str, dimension: int, preprocessing_hash: str
) -> EmbeddingModel:
    """Return the row of this model; the first call creates it together with its partial HNSW index.

    Creating the index waits for all writers of vectors, so call it in a transaction that holds no locks.
    """
    query = sa.select(EmbeddingModel).filter_by(name=name, revision=revision, preprocessing_hash=preprocessing_hash)
    known = session.scalar(query)
    if known is not None:
        return known
    session.execute(sa.select(sa.func.pg_advisory_xact_lock(_REGISTER_LOCK)))
    # another worker may have created it while this one waited
    known = session.scalar(query)
    if known is not None:
        return known
    model = EmbeddingModel(
        id=new_id(), name=name, revision=revision, dimension=dimension, preprocessing_hash=preprocessing_hash
    )
    if session.scalar(sa.select(EmbeddingModel.id).filter_by(name=name).limit(1)) is not None:
        log.warning("embedder.changed", model=name, advice="index each collection again; its old vectors do not count")
    session.add(model)
    session.flush()
    session.execute(
        sa.text(
            f"CREATE INDEX {index_name(model.id)} ON embeddings "
            f"USING hnsw ((vector::halfvec({int(dimension)})) halfvec_cosine_ops) WHERE model_id = '{model.id}'"
        )
    )
    return model
