"""Searches of the past, stored as workers store them."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from retllm.db.enums import ItemKind, JobKind, JobState
from retllm.db.jobs import Job
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.db.tables import Item, new_id
from retllm.fine.injection import Injection
from retllm.search.submit import question_of
from retllm_web.http.services import Services


def store_search(
    served: Services,
    user_id: uuid.UUID,
    collection: str,
    text: str,
    order: list[uuid.UUID],
    state: JobState = JobState.SUCCEEDED,
    **settings: Any,
) -> str:
    """A search with these items in final order, the reverse of the coarse order."""
    with transaction(served.sessions) as session:
        over = state is not JobState.RUNNING
        job = Job(id=new_id(), kind=JobKind.SEARCH, state=state, user_id=user_id, params={"text": text})
        job.collection_id, job.finished_at = uuid.UUID(collection), sa.func.now() if over else None
        session.add(job)
        session.flush()
        given: dict[str, Any] = {
            "scorer": "s",
            "k": 3,
            "mode": "true_false",
            "injection": Injection(trigger="off").as_json(),
        }
        search = Search(
            id=job.id,
            kind=ItemKind.TEXT,
            query_text=text,
            question=question_of(text, None),
            item_kinds=["text"],
            query_image_weight=0.8,
            embedder="e",
            scorer_version="v",
            tie_decimals=3,
            final_at=sa.func.now() if over else None,
            **given | settings,
        )
        session.add(search)
        session.flush()
        for rank, item in enumerate(order, start=1):
            final = rank if over else None
            session.add(
                Candidate(
                    token=new_id(), search_id=job.id, item_id=item, coarse_rank=1 + len(order) - rank, final_rank=final
                )
            )
            session.flush()
            session.add(
                Score(token=new_id(), search_id=job.id, item_id=item, scorer_version="v", score=1 - rank / 10, tokens=1)
            )
    return str(job.id)


def items_of(served: Services, collection: str) -> list[uuid.UUID]:
    with served.sessions() as session:
        wanted = sa.select(Item.id).where(Item.collection_id == uuid.UUID(collection)).order_by(Item.id)
        return list(session.scalars(wanted))
