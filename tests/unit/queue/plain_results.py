"""What a worker writes, as plain inserts, which fail for a duplicate key."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session
from tests.unit.queue.core_model import VERSION, MClaim

from retllm.db.enums import Stage
from retllm.db.jobs import Job
from retllm.db.searches import Candidate, Score, Search
from retllm.db.tables import Embedding
from retllm.queue import claim as claims
from retllm.queue.routing import Notification
from retllm.settings import default_of

WEIGHT = default_of("item_image_weight")


def embed(session: Session, model_id: UUID, collection: UUID, items: list[str], token: UUID) -> None:
    """Write a vector of each item."""
    for item in items:
        session.add(
            Embedding(
                item_id=UUID(item),
                model_id=model_id,
                collection_id=collection,
                item_version=1,
                image_weight=WEIGHT,
                vector=[1.0, 0.0, 0.0],
                token=token,
            )
        )


def results(held: MClaim, model_id: UUID) -> claims.Write:
    """Return what writes the results of a unit of any stage."""
    items, token = held.real.payload.get("items", []), held.real.token

    def write(session: Session, job: Job) -> list[Notification]:
        if held.real.stage is Stage.EMBED:
            embed(session, model_id, job.collection_id, items, token)
        elif held.real.stage is Stage.COARSE:
            for rank, item in enumerate(held.job.items, 1):
                key = {"search_id": job.id, "item_id": UUID(item)}
                session.add(Candidate(**key, coarse_rank=rank, similarity=0.5, token=token))
        else:
            session.get_one(Search, job.id).scorer_version = VERSION
            for item in items:
                score = int(item[-6:], 16) / 2**24
                session.add(
                    Score(
                        search_id=job.id,
                        item_id=UUID(item),
                        scorer_version=VERSION,
                        score=score,
                        log_odds=score,
                        entropy=0.5,
                        tokens=1,
                        token=token,
                    )
                )
        return []

    return write
