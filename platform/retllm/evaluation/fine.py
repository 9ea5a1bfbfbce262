"""The fine stage of an evaluation: score each pair once, and compute each variant's final order of every query."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retllm.errors import InvalidInput, ScoreUnreadable, TooLargeForDevice
from retllm.evaluation.benchmark import Item, Task
from retllm.evaluation.coarse import CoarseRanking
from retllm.evaluation.scores import KeptScore, KeptScores
from retllm.evaluation.variants import Variant
from retllm.fine import Content, Injection, PairScore, Scored, final_order
from retllm.fine.decision import default_tie_decimals, tied
from retllm.fine.fusion import fused
from retllm.fine.prompts import Mode
from retllm.fine.waves import next_wave

if TYPE_CHECKING:
    from retllm.fine.interface import FineScorer


class CachingScorer:
    """Returns the scores of pairs: reads stored ones, and computes and stores the others."""

    def __init__(self, scorer: FineScorer, kept: KeptScores) -> None:
        self._scorer = scorer
        self._kept = kept

    def scores(self, query: Item, candidates: Sequence[Item], mode: Mode, injection: Injection) -> list[KeptScore]:
        """Return the scores of the candidates, in order.

        Raises:
            The errors of :meth:`retllm.fine.interface.FineScorer.score`, and BenchmarkUnreadable.
        """
        version = self._scorer.version(injection, mode)
        keys = [candidate.key for candidate in candidates]
        known = self._kept.find(version, query.key, keys)
        missing = {item.key: item for item in candidates if item.key not in known}
        if missing:
            started = time.perf_counter()
            contents = [_content(item) for item in missing.values()]
            scored = self._scored(_content(query), contents, mode, injection)
            share = (time.perf_counter() - started) / len(scored)
            new = {key: KeptScore.of(pair, share) for key, pair in zip(missing, scored, strict=True)}
            self._kept.keep(version, query.key, new)
            known |= new
        return [known[key] for key in keys]

    def _scored(self, query: Content, contents: Sequence[Content], mode: Mode, injection: Injection) -> list[PairScore]:
        """Score pairs; a pair that can't be scored gets an error, since one pair must not stop a run of thousands."""
        try:
            return self._scorer.score(query, contents, injection, mode=mode)
        except (TooLargeForDevice, ScoreUnreadable, InvalidInput) as error:
            if isinstance(error, InvalidInput) and "index" not in error.detail:
                raise  # the settings are invalid, not a pair
            if len(contents) == 1:
                return [PairScore(None, None, None, None, None, 0, error=error.message)]
        return [score for content in contents for score in self._scored(query, [content], mode, injection)]


def _content(item: Item) -> Content:
    return Content(image=item.picture, text=item.text)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """One query with its best candidates in coarse order."""

    query: Item
    candidates: Sequence[Item]
    places: Sequence[int]
    similarity: Sequence[float]
    right: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class QueryOutcome:
    """The result of a variant for one query.

    Attributes:
        order: indices of the task's candidates, best first.
        scores: of the scored candidates, in coarse order.
        values: the values that they are sorted by; None for a candidate without a score.
        entropies: the entropies that decide ties; None if unknown or not used.
        seconds: time for scoring, including second passes.
        second_passes: number of pairs with a second pass for the entropy of a tie.
    """

    order: Sequence[int]
    scores: Sequence[KeptScore]
    values: Sequence[float | None]
    entropies: Sequence[float | None]
    seconds: float
    second_passes: int


def pools(task: Task, ranking: CoarseRanking) -> list[Pool]:
    """Return the queries of a task with their candidates in coarse order."""
    result = []
    for query, right, order, similarity in zip(
        task.queries, task.right, ranking.order.tolist(), ranking.similarity.tolist(), strict=True
    ):
        places = [place for place in order if place >= 0]
        items = [task.candidates[place] for place in places]
        result.append(Pool(query, items, places, similarity[: len(places)], right))
    return result


def run_variant(pool: Pool, variant: Variant, scorer: CachingScorer) -> QueryOutcome:
    """Run one variant of the fine stage on one query."""
    scores = _wave_scores(pool, variant, scorer)
    seconds, second = sum(score.seconds for score in scores), {}
    if variant.entropy:
        second = _second_pass(pool, variant, scorer, scores)
        seconds += sum(score.seconds for score in second.values())
    entropies = [
        (second[place].entropy if place in second else score.entropy) if variant.entropy else None
        for place, score in enumerate(scores)
    ]
    values = _values(pool, variant, scores)
    rows = [
        Scored(place, place, value, entropy, failed=score.error is not None)
        for place, (score, value, entropy) in enumerate(zip(scores, values, entropies, strict=True))
    ]
    rows += [Scored(place, place) for place in range(len(scores), len(pool.places))]
    order = [pool.places[ranked.key] for ranked in final_order(rows, default_tie_decimals(variant.mode))]
    return QueryOutcome(order, scores, values, entropies, seconds, len(second))


def _wave_scores(pool: Pool, variant: Variant, scorer: CachingScorer) -> list[KeptScore]:
    """Score the variant's candidates: the whole pool, or wave by wave."""
    limit = min(variant.k, len(pool.candidates))
    scores: list[KeptScore] = []
    while True:
        wave = limit - len(scores)
        if variant.adaptive is not None:
            wave = next_wave(variant.adaptive, [score.log_odds for score in scores], limit)
        if wave == 0:
            return scores
        candidates = pool.candidates[len(scores) : len(scores) + wave]
        scores += scorer.scores(pool.query, candidates, variant.mode, variant.injection)


def _second_pass(
    pool: Pool, variant: Variant, scorer: CachingScorer, scores: Sequence[KeptScore]
) -> dict[int, KeptScore]:
    """Run the second pass for the entropy of tied candidates; keys are positions in coarse order (method section 3)."""
    rows = [
        Scored(place, place, score.score, score.entropy, failed=score.error is not None)
        for place, score in enumerate(scores)
    ]
    places = tied(rows, default_tie_decimals(variant.mode))
    items = [pool.candidates[place] for place in places]
    second = scorer.scores(pool.query, items, "true_false", variant.injection) if items else []
    return dict(zip(places, second, strict=True))


def _values(pool: Pool, variant: Variant, scores: Sequence[KeptScore]) -> list[float | None]:
    if variant.fusion == 0:
        return [score.score for score in scores]
    similarity = pool.similarity[: variant.k]
    # the similarity is standardised over the whole pool, even if only a part of it was scored
    padding: list[float | None] = [None] * (len(similarity) - len(scores))
    return fused([score.log_odds for score in scores] + padding, similarity, variant.fusion)[: len(scores)]


def rank_of_right(pool: Pool, order: Sequence[int]) -> int | None:
    """Return the rank, from 1, of the first right candidate; None if there is none."""
    return next((rank for rank, place in enumerate(order, start=1) if place in pool.right), None)


def coarse_choice(pool: Pool) -> float:
    """Return 1 if the right one of two candidates is more similar, 1/2 if both are equally similar, else 0."""
    return _won(pool, [(similarity,) for similarity in pool.similarity])


def fine_choice(pool: Pool, outcome: QueryOutcome, fusion: float) -> float:
    """Return 1 if the right one of two candidates scores higher, 1/2 if they are tied, else 0.

    The comparison uses the log-odds, which have a higher precision than the score, and then the entropy; never the
    order of the coarse stage or of the file.
    """
    if any(score.error is not None for score in outcome.scores):
        return 0.5
    precise = outcome.values if fusion else [score.log_odds for score in outcome.scores]
    return _won(
        pool,
        [
            (-math.inf if value is None else value, -math.inf if entropy is None else -entropy)
            for value, entropy in zip(precise, outcome.entropies, strict=True)
        ],
    )


def _won(pool: Pool, values: Sequence[tuple[float, ...]]) -> float:
    right = next(value for place, value in zip(pool.places, values, strict=True) if place in pool.right)
    wrong = next(value for place, value in zip(pool.places, values, strict=True) if place not in pool.right)
    return 0.5 if right == wrong else float(right > wrong)
