"""Measure abstention: run each query with and without its right picture in the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retllm.evaluation.fine import CachingScorer, Pool
from retllm.evaluation.metrics import area_under_roc
from retllm.evaluation.scores import KeptScore
from retllm.evaluation.variants import Variant
from retllm.fine.abstention import learn_threshold, no_match


@dataclass(frozen=True, slots=True)
class Abstention:
    """How well the best log-odds of a pool show whether the right candidate is in the gallery.

    Attributes:
        queries: number of queries; each is run with and without its right candidate in the gallery.
        threshold: log-odds learned from the log-odds of all pairs; None if these do not form two clusters.
        matched: share of queries with their right candidate in the gallery that are not rejected.
        refused: share of queries without their right candidate that are rejected.
        area: area under the ROC curve of the best log-odds.
    """

    queries: int
    threshold: float | None
    matched: float
    refused: float
    area: float

    @property
    def right(self) -> float:
        """Share of right decisions; queries with and without the right candidate have equal weight."""
        return (self.matched + self.refused) / 2


def measure(pools: Sequence[Pool], variant: Variant, scorer: CachingScorer) -> Abstention | None:
    """Measure one variant; return None if no pair has log-odds.

    The pools have one candidate more than the variant's k, so that a pool is equally large without its right candidate.
    """
    with_right: list[float] = []
    without: list[float] = []
    pairs: list[float] = []
    for pool in pools:
        scores = scorer.scores(pool.query, pool.candidates[: variant.k + 1], variant.mode, variant.injection)
        wrong = [score for place, score in zip(pool.places, scores, strict=False) if place not in pool.right]
        pairs += [score.log_odds for score in scores if score.log_odds is not None]
        with_right += _best(scores[: variant.k])
        without += _best(wrong[: variant.k])
    if not with_right or not without:
        return None
    threshold = learn_threshold(pairs)

    def is_refused(best: float) -> bool:
        return threshold is not None and no_match(best, threshold)

    return Abstention(
        queries=len(with_right),
        threshold=None if threshold is None else threshold.value,
        matched=sum(not is_refused(best) for best in with_right) / len(with_right),
        refused=sum(is_refused(best) for best in without) / len(without),
        area=area_under_roc(with_right, without),
    )


def _best(scores: Sequence[KeptScore]) -> list[float]:
    """Return a list with the largest log-odds, or an empty list if there are none."""
    known = [score.log_odds for score in scores if score.log_odds is not None]
    return [max(known)] if known else []
