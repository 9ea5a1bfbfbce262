"""The review of one search: the marks of its query, and its measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.searches import Candidate, Search
from retllm.identity.actor import Actor
from retllm.review.marks import Asked, Mark, asked_by, marks_of
from retllm.review.measures import Measures, RankPair, Verdict, measure


@dataclass(frozen=True)
class Review:
    """The marks of a search's query, and the measures of the search."""

    asked: Asked
    marks: Sequence[Mark]
    measures: Measures

    def mark(self, item_id: UUID) -> Mark | None:
        """Return the mark of an item, or None."""
        return self._by_item.get(item_id)

    @cached_property
    def _by_item(self) -> dict[UUID, Mark]:
        return {mark.item_id: mark for mark in self.marks}

    @property
    def missing(self) -> list[Mark]:
        """Return relevant items that are not candidates of this search."""
        return [mark for mark in self.marks if mark.relevant and mark.coarse_rank is None]


def review_of(session: Session, actor: Actor, search_id: UUID) -> Review:
    """Return the review of a search; marks of deleted items do not count in the measures.

    Raises:
        NotFound: ``actor`` sees no such search.
    """
    asked = asked_by(session, actor, search_id)
    pool = sa.select(sa.func.count()).where(Candidate.search_id == search_id).scalar_subquery()
    row = session.execute(sa.select(Search.final_at.is_not(None), pool).where(Search.id == search_id)).one()
    marks = marks_of(session, asked)
    return Review(asked, marks, measures_of(marks, pool=row[1], final=row[0]))


def measures_of(marks: Sequence[Mark], *, pool: int, final: bool) -> Measures:
    """Return the measures of the search that the ranks of the marks belong to."""
    counted = [mark for mark in marks if not mark.deleted]
    relevant = [mark for mark in counted if mark.relevant]
    marked = sum(mark.coarse_rank is not None for mark in counted)
    if not final:
        return Measures(Verdict.UNKNOWN, pool, marked, len(relevant), None, None)
    places = [
        RankPair(mark.coarse_rank, mark.final_rank)
        for mark in relevant
        if mark.coarse_rank is not None and mark.final_rank is not None
    ]
    return measure(len(relevant), places, pool=pool, marked=marked)
