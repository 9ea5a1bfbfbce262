"""Embedding models, and the vector indexes of large collections (design: data)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.types import UserDefinedType

from retllm.db.base import Base, Keyed
from retllm.db.tables import Embedding, EmbeddingModel, new_id

log = structlog.get_logger(__name__)

# advisory lock for registering a model, so that two workers do not create the same row
_REGISTER_LOCK = 0x7265746C

INDEX_PREFIX = "ix_embeddings_hnsw_"
"""What the names of all vector indexes begin with, and of no other index."""


class VectorIndex(Keyed, Base):
    """A built HNSW index on the vectors of a model in a collection; at most one is in use.

    It has the vectors of items with keys up to ``through``; an index can't be extended without inserting each vector,
    which takes far longer than building it, so a search scans what came later. ``counts`` has the number of vectors of
    each kind of item when it was built.
    """

    __tablename__ = "vector_indexes"
    __table_args__ = (sa.UniqueConstraint("collection_id", "model_id"),)

    model_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("embedding_models.id", ondelete="CASCADE"))
    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    through: Mapped[uuid.UUID]
    counts: Mapped[dict[str, Any]]

    @property
    def vectors(self) -> int:
        """The number of vectors when it was built."""
        return sum(self.counts.values())


def index_name(index_id: uuid.UUID) -> str:
    """Return the name of the index of that row."""
    return f"{INDEX_PREFIX}{index_id.hex}"


def half(column: Any, dimension: int) -> Any:
    """Return ``column`` as ``halfvec(dimension)``, the expression that the indexes use."""
    return sa.cast(column, HALFVEC(dimension))


def distance(model: EmbeddingModel, query: Any) -> sa.ColumnElement[float]:
    """Return the cosine distance between the embeddings of ``model`` and a query vector of shape (dimension,)."""
    column: sa.ColumnElement[float] = half(Embedding.vector, model.dimension).cosine_distance(parameter(query))
    return column


class _Written(UserDefinedType[str]):
    """The text of a vector, sent without a type, so that the server reads it once as what it is compared with.

    A cast of it would be done again for each row.
    """

    cache_ok = True


def parameter(query: Any) -> sa.BindParameter[str]:
    """Return a query vector of shape (dimension,) as a parameter of a comparison."""
    return sa.literal(str(query.tolist()), _Written())


def covered(index: VectorIndex) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for the embeddings that an index has.

    They are written into the statement, since the planner can't tell from parameters of a prepared one that the partial
    index has the rows.
    """

    return *_of_collection(index), Embedding.item_id <= _literal(index.through)


def beyond(index: VectorIndex) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for the embeddings that came after an index was built; see :func:`covered`."""
    return _after(_literal(index.collection_id), _literal(index.model_id), _literal(index.through))


def _after(collection_id: Any, model_id: Any, item_id: Any) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for embeddings of a model in a collection behind that of an item.

    They are a range of the one index that has these columns. By the key of the item alone, the server may read those of
    all collections that came later; and beside a condition on the collection, a scan of that index begins with its
    first item.
    """
    place = sa.tuple_(Embedding.collection_id, Embedding.model_id, Embedding.item_id)
    return (
        place > sa.tuple_(collection_id, model_id, item_id),
        place <= sa.tuple_(collection_id, model_id, sa.literal_column(f"'{uuid.UUID(int=2**128 - 1)}'::uuid")),
    )


def _of_collection(index: VectorIndex) -> tuple[sa.ColumnElement[bool], ...]:
    return Embedding.model_id == _literal(index.model_id), Embedding.collection_id == _literal(index.collection_id)


def _literal(key: uuid.UUID) -> sa.BindParameter[uuid.UUID]:
    return sa.bindparam(None, key, sa.Uuid(), literal_execute=True)


def usable_index(session: Session, model_id: uuid.UUID, collection_id: uuid.UUID) -> VectorIndex | None:
    """Return the index of the vectors of a model in a collection, if there is one and the server has it."""
    name = sa.func.concat(INDEX_PREFIX, sa.func.replace(sa.cast(VectorIndex.id, sa.Text), "-", ""))
    there = sa.table("pg_index", sa.column("indexrelid"), sa.column("indisvalid"))
    valid = sa.exists().where(there.c.indexrelid == sa.func.to_regclass(name), there.c.indisvalid)
    query = sa.select(VectorIndex).filter_by(model_id=model_id, collection_id=collection_id)
    return session.scalar(query.where(valid))


def build_progress(session: Session, index_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, float]:
    """Return the share that the server has done of each of these indexes; those that it builds at the moment."""
    if not index_ids:
        return {}
    building = sa.table(
        "pg_stat_progress_create_index", *map(sa.column, ("index_relid", "blocks_done", "blocks_total"))
    )
    classes = sa.table("pg_class", sa.column("oid"), sa.column("relname"))
    names = {index_name(index_id): index_id for index_id in index_ids}
    query = sa.select(classes.c.relname, building.c.blocks_done, building.c.blocks_total).join_from(
        building, classes, classes.c.oid == building.c.index_relid
    )
    rows = session.execute(query.where(classes.c.relname.in_(names)))
    return {names[name]: done / total if total else 0.0 for name, done, total in rows}


def count_vectors(
    session: Session, model_id: uuid.UUID, collection_id: uuid.UUID, most: int, after: uuid.UUID | None = None
) -> int:
    """Return the number of vectors of a model in a collection, at most ``most``; it costs no more than these."""
    some = sa.select(Embedding.item_id)
    if after is None:
        some = some.filter_by(collection_id=collection_id, model_id=model_id)
    else:
        some = some.where(*_after(collection_id, model_id, after))
    return session.scalar(sa.select(sa.func.count()).select_from(some.limit(most).subquery())) or 0


def register_model(
    session: Session, *, name: str, revision: str, dimension: int, preprocessing_hash: str
) -> EmbeddingModel:
    """Return the row of this model; the first call creates it."""
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
    return model
