"""Factories of rows, each with the values that its table requires; any other column is set by keyword.

A factory only creates the object; ``store`` writes objects in the order that their foreign keys require.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.base import Base
from retllm.db.enums import ItemKind, JobKind, Role, Stage
from retllm.db.jobs import Job, Unit
from retllm.db.searches import Candidate, Score, Search
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item, User, new_id
from retllm.search.submit import question_of


def store(session: Session, *rows: Base) -> None:
    """Write rows, the ones that others refer to first."""
    for table in Base.metadata.sorted_tables:
        session.add_all(row for row in rows if row.__table__ is table)
        session.flush()


def make_user(name: str = "ada", role: Role = Role.EDITOR, **columns: Any) -> User:
    """Make an account without a valid password; ``accounts.create_user`` makes one with a password."""
    return User(**{"id": new_id(), "name": name, "password_hash": "-", "role": role, **columns})


def make_collection(owner_id: UUID, name: str = "papers", **columns: Any) -> Collection:
    """Make a private collection."""
    return Collection(**{"id": new_id(), "owner_id": owner_id, "name": name, **columns})


def make_text(collection_id: UUID, text: str, **columns: Any) -> Item:
    """Make a text item as an upload stores it."""
    raw = text.encode()
    made = {
        "id": new_id(),
        "collection_id": collection_id,
        "kind": ItemKind.TEXT,
        "name": text[:20],
        "content_sha256": hashlib.sha256(raw).hexdigest(),
        "text": text,
        "size_bytes": len(raw),
    }
    return Item(**{**made, **columns})


def make_picture(collection_id: UUID, caption: str | None = None, **columns: Any) -> Item:
    """Make a PNG item of 32 x 24 pixels with or without a caption; its files are not in the storage."""
    key = new_id()
    made = {
        "id": key,
        "collection_id": collection_id,
        "kind": ItemKind.BOTH if caption else ItemKind.IMAGE,
        "name": f"{key}.png",
        "content_sha256": key.hex,
        "text": caption,
        "media_type": "image/png",
        "width": 32,
        "height": 24,
        "size_bytes": 100,
        "picture_key": f"items/{key}/original",
        "thumbnail_key": f"items/{key}/thumbnail",
    }
    return Item(**{**made, **columns})


def make_model(name: str = "embedder", *, revision: str = "1", dimension: int = 2, **columns: Any) -> EmbeddingModel:
    """Make an embedding model."""
    made = {"id": new_id(), "name": name, "revision": revision, "dimension": dimension, "preprocessing_hash": "h"}
    return EmbeddingModel(**{**made, **columns})


def make_embedding(item: Item, model_id: UUID, vector: Sequence[float] = (1.0, 0.0), **columns: Any) -> Embedding:
    """Make the embedding of the current version of an item."""
    made = {
        "token": new_id(),
        "item_id": item.id,
        "model_id": model_id,
        "collection_id": item.collection_id,
        "item_version": item.version or 1,
        "image_weight": 0.5,
        "vector": list(vector),
    }
    return Embedding(**{**made, **columns})


def make_job(user_id: UUID, collection_id: UUID | None, kind: JobKind = JobKind.SEARCH, **columns: Any) -> Job:
    """Make a queued job."""
    made = {"id": new_id(), "kind": kind, "user_id": user_id, "collection_id": collection_id, "params": {}}
    return Job(**{**made, **columns})


def make_search(job_id: UUID, text: str | None = "a small bird", **columns: Any) -> Search:
    """Make the query of a search job, for text items and with the mode `true_false`."""
    made = {
        "id": job_id,
        "kind": ItemKind.TEXT,
        "query_text": text,
        "question": question_of(text, None),
        "k": 5,
        "item_kinds": ["text"],
        "query_image_weight": 0.8,
        "embedder": "embedder",
        "scorer": "scorer",
        "scorer_version": "v1",
        "mode": "true_false",
        "injection": {"trigger": "off", "alpha": 0.3},
        "tie_decimals": 4,
    }
    return Search(**{**made, **columns})


def make_candidate(search_id: UUID, item_id: UUID, coarse_rank: int, **columns: Any) -> Candidate:
    """Make a candidate of a search."""
    return Candidate(
        **{"token": new_id(), "search_id": search_id, "item_id": item_id, "coarse_rank": coarse_rank, **columns}
    )


def make_score(search_id: UUID, item_id: UUID, score: float | None, **columns: Any) -> Score:
    """Make the score of a candidate."""
    made = {
        "token": new_id(),
        "search_id": search_id,
        "item_id": item_id,
        "score": score,
        "scorer_version": "v1",
        "tokens": 10,
    }
    return Score(**{**made, **columns})


def make_unit(job_id: UUID, stage: Stage = Stage.FINE, seq: int = 0, **columns: Any) -> Unit:
    """Make a unit that is ready."""
    return Unit(**{"id": new_id(), "job_id": job_id, "stage": stage, "seq": seq, "payload": {}, **columns})
