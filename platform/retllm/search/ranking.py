"""The order of a search's candidates: computed from the rows while provisional, then stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import DecidedBy, JobKind
from retllm.db.jobs import Job
from retllm.db.searches import Candidate, Score, Search
from retllm.fine.abstention import Threshold, learn_threshold, no_match
from retllm.fine.decision import Ranked, Scored, final_order
from retllm.fine.fusion import fused

# newest scores used to learn the match threshold: enough for two significant digits, and fast to fit
_THRESHOLD_SCORES = 2000
# of so many jobs of the collection, the newest searches
_JOBS = 2000
_SEARCHES = 500


@dataclass(frozen=True)
class Row:
    """A candidate with its score, if any; the trace of the score is not loaded."""

    candidate: Candidate
    score: Score | None
    has_trace: bool = False


def rows_of(session: Session, search_id: UUID) -> list[Row]:
    """Return the candidates of a search in coarse order, each with its score by the search's scorer version."""
    query = (
        sa.select(Candidate, Score, Score.trace.is_not(None))
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
    return [Row(candidate, score, traced) for candidate, score, traced in session.execute(query)]


def fused_of(rows: Sequence[Row], search: Search) -> list[float | None]:
    """Return the fused log-odds and similarity of each row; None if there is no score or the search does not fuse."""
    if search.fusion_weight == 0:
        return [None] * len(rows)
    log_odds = [row.score.log_odds if row.score else None for row in rows]
    return fused(log_odds, [row.candidate.similarity for row in rows], search.fusion_weight)


def decision_inputs(rows: Sequence[Row], search: Search) -> list[Scored[UUID]]:
    """Return the rows as input of the final order: with their score, or the fused number if the search fuses."""
    numbers = fused_of(rows, search)
    if search.fusion_weight == 0:
        numbers = [row.score.score if row.score else None for row in rows]
    return [
        Scored(
            key=row.candidate.item_id,
            coarse_rank=row.candidate.coarse_rank,
            score=number,
            entropy=row.score.entropy if row.score else None,
            failed=row.score is not None and row.score.error is not None,
        )
        for row, number in zip(rows, numbers, strict=True)
    ]


def order_of(rows: Sequence[Row], search: Search) -> list[Ranked[UUID]]:
    """Return the order according to the current scores (method, section 5)."""
    return final_order(decision_inputs(rows, search), search.tie_decimals)


def write_final_order(session: Session, search_id: UUID) -> None:
    """Store the final rank of every candidate, and whether any candidate is a match.

    The caller holds the lock of the job, so this happens once.
    """
    search = session.get_one(Search, search_id)
    rows = rows_of(session, search_id)
    _store_order(session, search_id, order_of(rows, search))
    known = [row.score.log_odds for row in rows if row.score and row.score.log_odds is not None]
    # without a threshold nothing is claimed: a score above one half may be wrong, and one below it right
    if known and (threshold := _threshold(session, search)) is not None:
        search.match_threshold = threshold.value
        search.no_match = no_match(max(known), threshold)
    search.final_at = sa.func.clock_timestamp()
    session.flush()


def _store_order(session: Session, search_id: UUID, order: Sequence[Ranked[UUID]]) -> None:
    """Store the order in one statement, since there may be a thousand candidates."""
    keys = sa.literal([entry.key for entry in order], ARRAY(sa.Uuid))
    ranks = sa.literal([entry.rank for entry in order], ARRAY(sa.Integer))
    reasons = sa.literal([DecidedBy(entry.decided_by).value for entry in order], ARRAY(sa.String))
    ranked = sa.func.unnest(keys, ranks, reasons).table_valued("key", "rank", "reason").render_derived("ranked")
    own = (Candidate.search_id == search_id, Candidate.item_id == ranked.c.key)
    values = {"final_rank": ranked.c.rank, "decided_by": ranked.c.reason}
    session.execute(sa.update(Candidate).where(*own).values(values).execution_options(synchronize_session=False))


def _threshold(session: Session, search: Search) -> Threshold | None:
    """Learn the match threshold from the newest scores of this version in the same collection.

    None for a search of several: each has a threshold of its own, and a match by that of one may be none by another's.
    Not from those of other collections, which others may have filled with anything, nor from those of queries of
    another kind: a picture beside its like has other scores than words beside what they say.
    """
    if search.collections is not None:
        return None
    jobs = aliased(Job)
    own = sa.select(Job.collection_id).where(Job.id == search.id).scalar_subquery()
    recent = (
        sa.select(jobs.id, jobs.kind).where(jobs.collection_id == own).order_by(jobs.id.desc()).limit(_JOBS).subquery()
    )
    alike = recent.c.kind == JobKind.SEARCH, Search.kind == search.kind
    searches = sa.select(recent.c.id).join(Search, Search.id == recent.c.id).where(*alike).order_by(recent.c.id.desc())
    newest = (
        sa.select(Score.log_odds)
        .where(
            Score.search_id.in_(searches.limit(_SEARCHES)),
            Score.scorer_version == search.scorer_version,
            Score.log_odds.is_not(None),
            # leave out cached scores: they repeat a score that is already counted
            ~Score.cached,
        )
        .order_by(Score.created_at.desc())
        .limit(_THRESHOLD_SCORES)
    )
    return learn_threshold([value for value in session.scalars(newest) if value is not None])


def clear_final_order(session: Session, search_id: UUID) -> None:
    """Make the order provisional again after units of the search were reopened."""
    session.execute(
        sa.update(Candidate).where(Candidate.search_id == search_id).values(final_rank=None, decided_by=None)
    )
    session.execute(
        sa.update(Search).where(Search.id == search_id).values(final_at=None, match_threshold=None, no_match=None)
    )
