"""The order of a search's candidates: a pure function of the rows, provisional until it is written once."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import DecidedBy
from retllm.db.tables import Candidate, Score, Search
from retllm.fine.decision import Ranked, Scored, final_order


@dataclass(frozen=True)
class Row:
    """A candidate with the score it has, if it has one."""

    candidate: Candidate
    score: Score | None


def rows_of(session: Session, search_id: UUID) -> list[Row]:
    """The candidates of a search in coarse order, each with its score by the search's scorer version."""
    query = (
        sa.select(Candidate, Score)
        .join(Search, Search.id == Candidate.search_id)
        .outerjoin(
            Score,
            sa.and_(
                Score.search_id == Candidate.search_id,
                Score.item_id == Candidate.item_id,
                Score.scorer_version == Search.scorer_version,
            ),
        )
        .where(Candidate.search_id == search_id)
        .order_by(Candidate.coarse_rank)
        .execution_options(populate_existing=True)
    )
    return [Row(candidate, score) for candidate, score in session.execute(query)]


def order_of(rows: list[Row], tie_decimals: int) -> list[Ranked[UUID]]:
    """The order that the scores there are give by now (method, section 5)."""
    scored = [
        Scored(
            key=row.candidate.item_id,
            coarse_rank=row.candidate.coarse_rank,
            score=row.score.score if row.score else None,
            entropy=row.score.entropy if row.score else None,
        )
        for row in rows
    ]
    return final_order(scored, tie_decimals)


def write_final_order(session: Session, search_id: UUID) -> None:
    """Store the final rank of every candidate; the job is locked by the caller, so this happens once."""
    search = session.get_one(Search, search_id)
    rows = rows_of(session, search_id)
    ranked = {entry.key: entry for entry in order_of(rows, search.tie_decimals)}
    for row in rows:
        entry = ranked[row.candidate.item_id]
        row.candidate.final_rank = entry.rank
        row.candidate.decided_by = DecidedBy(entry.decided_by)
    search.final_at = sa.func.clock_timestamp()
    session.flush()


def clear_final_order(session: Session, search_id: UUID) -> None:
    """Make the order provisional again, because units of the search were reopened."""
    session.execute(
        sa.update(Candidate).where(Candidate.search_id == search_id).values(final_rank=None, decided_by=None)
    )
    session.execute(sa.update(Search).where(Search.id == search_id).values(final_at=None))
