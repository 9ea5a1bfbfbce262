"""One call of a scorer for the pairs of several units: what fails there costs no other pair its score."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from retllm.db.searches import Search
from retllm.db.tables import Item
from retllm.errors import (
    InvalidInput,
    JobCancelled,
    NotFound,
    RetllmError,
    ScoreUnreadable,
    ServerAway,
    StaleClaim,
    TooLarge,
    TooLargeForDevice,
)
from retllm.fine import Content, Injection, PairScore
from retllm.fine.interface import FineScorer
from retllm.fine.prompts import Mode
from retllm.queue.claim import describe
from retllm.queue.worker import LeasedUnit
from retllm.search.fine_pictures import PicturesAhead
from retllm.search.score_cache import Columns

log = structlog.get_logger(__name__)

#: errors of one pair: no attempt of a worker like this one can score it
_OF_A_PAIR = (InvalidInput, NotFound, TooLarge, TooLargeForDevice, ScoreUnreadable)


@dataclass(frozen=True)
class Task:
    """What a unit asks of the scorer.

    Attributes:
        search: the search.
        injection: re-injection settings of the search.
        version: scorer version of the search's scores.
        mode: mode of this unit: that of the search, or ``true_false`` to compute the entropy of ties.
        mode_version: scorer version of the scores in this mode.
        entropy_only: the candidates have their score; compute only the entropy.
    """

    search: Search
    injection: Injection
    version: str
    mode: Mode
    mode_version: str
    entropy_only: bool

    @property
    def traced(self) -> bool:
        """Whether to keep the trace of the model's layers."""
        return self.search.trace and not self.entropy_only


@dataclass
class Work:
    """A unit of the fine stage in work.

    Attributes:
        items: the candidates to score, in order.
        deleted: candidates that were deleted meanwhile.
        keys: keys in the score cache, by item.
        known: scores in the cache, by key.
        fresh: new scores, by item.
        failed: errors of pairs at the server of the scorer, by item.
        error: why the unit can't go on.
    """

    held: LeasedUnit
    task: Task
    query: Content
    items: list[Item]
    deleted: list[Item]
    keys: dict[UUID, str]
    known: dict[str, Columns]
    fresh: dict[UUID, Columns] = field(default_factory=dict)
    failed: dict[UUID, Exception] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def way(self) -> Hashable:
        """Equal for units whose pairs can be scored in one call."""
        return self.task.injection, self.task.mode, self.task.traced

    @property
    def failure(self) -> Exception | None:
        """That of the pairs that failed: that the server is away, if it was so for one of them."""
        return next((error for error in self.failed.values() if isinstance(error, ServerAway)), None) or next(
            iter(self.failed.values()), None
        )


def score_units(pictures: PicturesAhead, scorer: FineScorer, works: Sequence[Work]) -> None:
    """Score the candidates of units in one call. If that fails for all, each unit is scored alone and has its error."""
    try:
        _score_pairs(pictures, scorer, [(work, item) for work in works for item in work.items])
    except Exception as error:
        # a server that is away is so for all of them
        if len(works) == 1 or isinstance(error, ServerAway):
            for work in works:
                work.error = work.error or error
            return
        log.warning("units.scored_alone", units=len(works), reason=str(error))
        for work in works:
            score_units(pictures, scorer, [work])


def _score_pairs(pictures: PicturesAhead, scorer: FineScorer, pairs: Sequence[tuple[Work, Item]]) -> None:
    pairs = [(work, item) for work, item in pairs if _goes_on(work) and item.id not in work.fresh | work.failed]
    if not pairs:
        return
    task = pairs[0][0].task
    asked = [(work.query, pictures.content(item)) for work, item in pairs]
    try:
        scores = scorer.score_each(asked, task.injection, mode=task.mode, trace=task.traced)
    except _OF_A_PAIR as error:
        if len(pairs) == 1:
            (work, item), *_ = pairs
            work.fresh[item.id] = _without_score(item, error)
            return
        # whichever it is of: the others are scored without it
        half = len(pairs) // 2
        _score_pairs(pictures, scorer, pairs[:half])
        _score_pairs(pictures, scorer, pairs[half:])
        return
    for (work, item), score in zip(pairs, scores, strict=True):
        if isinstance(score, _OF_A_PAIR):
            work.fresh[item.id] = _without_score(item, score)
        elif isinstance(score, Exception):
            log.warning("candidate.failed", item=str(item.id), reason=describe(score))
            work.failed[item.id] = score
        else:
            work.fresh[item.id] = _columns(score)


def _goes_on(work: Work) -> bool:
    """Return whether the unit is still to be done; the others of the same call go on without it."""
    try:
        work.held.lease.check()
    except (StaleClaim, JobCancelled) as error:
        work.error = error
    return work.error is None


def _columns(score: PairScore) -> Columns:
    names = ("score", "log_odds", "entropy", "injected_layer", "uncertainty", "tokens", "remark", "error")
    values: dict[str, Any] = {name: getattr(score, name) for name in names}
    return values | {"trace": None if score.trace is None else score.trace.as_json()}


def _without_score(item: Item, error: RetllmError) -> Columns:
    log.warning("candidate.not_scored", item=str(item.id), reason=error.message)
    nothing = PairScore(None, None, None, None, None, tokens=0, error=f"{item.name}: {error.message}")
    return _columns(nothing)
