"""Whether the fine stage knows when nothing matches: each query with its right picture in the gallery, and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retllm.evaluation.fine import Judging, Pool
from retllm.evaluation.metrics import area_under_roc
from retllm.evaluation.scores import KeptScore
from retllm.evaluation.variants import Variant
from retllm.fine.abstention import Threshold, learn_threshold, no_match


@dataclass(frozen=True, slots=True)
class Abstention:
    """How well the best log-odds of a pool tell that the right candidate is there.

    Attributes:
        queries: each counted twice, with and without its right candidate in the gallery.
        threshold: log-odds learned from the distribution of all pairs' log-odds; None where it has no two heaps.
        matched: share of queries with their right candidate in the gallery that are not turned away.
        refused: share of queries without it that are.
        area: under the ROC curve of the best log-odds.
    """

    queries: int
    threshold: float | None
    matched: float
    refused: float
    area: float

    @property
    def right(self) -> float:
        """Share of right decisions, with and without counting the same."""
        return (self.matched + self.refused) / 2


def measure(pools: Sequence[Pool], variant: Variant, judging: Judging) -> Abstention | None:
    """Measure one variant; None where no pair has log-odds.

    The pools hold one candidate more than the variant's k, so that a pool without its right candidate is as large
    as one with it.
    """
    with_right: list[float] = []
    without: list[float] = []
    pairs: list[float] = []
    for pool in pools:
        scores = judging.scores(pool.query, pool.candidates[: variant.k + 1], variant.mode, variant.injection)
        wrong = [score for place, score in zip(pool.places, scores, strict=False) if place not in pool.right]
        pairs += [score.log_odds for score in scores if score.log_odds is not None]
        with_right += _best(scores[: variant.k])
        without += _best(wrong[: variant.k])
    if not with_right or not without:
        return None
    threshold: Threshold | None = learn_threshold(pairs)
    return Abstention(
        queries=len(with_right),
        threshold=None if threshold is None else threshold.value,
        matched=sum(not no_match(best, threshold) for best in with_right) / len(with_right),
        refused=sum(no_match(best, threshold) for best in without) / len(without),
        area=area_under_roc(with_right, without),
    )


def _best(scores: Sequence[KeptScore]) -> list[float]:
    """The largest log-odds as a list of one, empty where there is none."""
    known = [score.log_odds for score in scores if score.log_odds is not None]
    return [max(known)] if known else []
