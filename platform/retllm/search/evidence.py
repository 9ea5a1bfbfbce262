"""The evidence behind the score of one candidate, for display."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from retllm.db.enums import ItemState
from retllm.db.searches import Candidate, Score, Search
from retllm.db.tables import Item
from retllm.errors import NotFound
from retllm.fine.injection import Injection
from retllm.fine.trace import Trace
from retllm.identity.access import job_for, within_visible
from retllm.identity.actor import Actor


@dataclass(frozen=True)
class Evidence:
    """A candidate of a search with its score and, if the search kept it, its trace."""

    search: Search
    candidate: Candidate
    item: Item
    score: Score | None
    trace: Trace | None

    @property
    def injection(self) -> Injection:
        """The re-injection settings of the search."""
        return Injection.from_json(self.search.injection)

    @property
    def has_picture(self) -> bool:
        """Whether the query or the item has a picture; otherwise there is nothing to inject."""
        return self.search.query_picture_key is not None or self.item.picture_key is not None

    @property
    def item_is_there(self) -> bool:
        """Whether the item still has its content."""
        return self.item.state is ItemState.READY


def evidence_of(session: Session, actor: Actor, search_id: UUID, item_id: UUID) -> Evidence:
    """Return the evidence for one candidate.

    Raises:
        NotFound: the search or the item does not exist or this account may not see it, or it is no candidate of it.
    """
    job_for(session, actor, search_id)
    scored = sa.and_(
        Score.search_id == Candidate.search_id,
        Score.item_id == Candidate.item_id,
        Score.scorer_version == Search.scorer_version,
    )
    row = session.execute(
        sa.select(Search, Candidate, Item, Score)
        .join(Candidate, Candidate.search_id == Search.id)
        .join(Item, sa.and_(Item.id == Candidate.item_id, within_visible(actor, Item.collection_id)))
        .outerjoin(Score, scored)
        .where(Candidate.search_id == search_id, Candidate.item_id == item_id)
        .options(undefer(Score.trace))
    ).first()
    if row is None:
        raise NotFound("This item is not a candidate of the search.")
    search, candidate, item, score = row
    trace = score.trace if score is not None else None
    return Evidence(search, candidate, item, score, Trace.from_json(trace) if trace is not None else None)
