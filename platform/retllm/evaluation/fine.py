"""The fine stage of an evaluation: pairs judged once each, and the final order of every query by each variant."""

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
    from retllm.fine import Scorer


class Judging:
    """Gives the scores of pairs: those that are kept, and the scorer's for the rest, which are kept from then on."""

    def __init__(self, scorer: Scorer, kept: KeptScores) -> None:
        self._scorer = scorer
        self._kept = kept

    def scores(self, query: Item, candidates: Sequence[Item], mode: Mode, injection: Injection) -> list[KeptScore]:
        """The scores of the candidates against the query, in their order.

        Raises:
            What :meth:`retllm.fine.Scorer.score` does, and BenchmarkUnreadable.
        """
        version = self._scorer.version(injection, mode)
        keys = [candidate.key for candidate in candidates]
        known = self._kept.find(version, query.key, keys)
        missing = {item.key: item for item in candidates if item.key not in known}
        if missing:
            started = time.perf_counter()
            contents = [_content(item) for item in missing.values()]
            judged = self._judged(_content(query), contents, mode, injection)
            share = (time.perf_counter() - started) / len(judged)
            new = {key: KeptScore.of(pair, share) for key, pair in zip(missing, judged, strict=True)}
            self._kept.keep(version, query.key, new)
            known |= new
        return [known[key] for key in keys]

    def _judged(self, query: Content, contents: Sequence[Content], mode: Mode, injection: Injection) -> list[PairScore]:
        """The scorer's answers; a pair that can't be judged has its error, since thousands must not end with one."""
        try:
            return self._scorer.score(query, contents, injection, mode=mode)
        except (TooLargeForDevice, ScoreUnreadable, InvalidInput) as error:
            if isinstance(error, InvalidInput) and "index" not in error.detail:
                raise  # the settings are at fault, not a pair
            if len(contents) == 1:
                return [PairScore(None, None, None, None, None, 0, error=error.message)]
        return [score for one in contents for score in self._judged(query, [one], mode, injection)]


def _content(item: Item) -> Content:
    return Content(image=item.picture, text=item.text)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """One query with the best of its candidates in coarse order."""

    query: Item
    candidates: Sequence[Item]
    places: Sequence[int]
    similarity: Sequence[float]
    right: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class QueryOutcome:
    """What a variant makes of one query.

    Attributes:
        order: places in the task's candidates, the best first.
        scores: of the candidates that were judged, in coarse order.
        values: what those were ordered by; None for one that has no score.
        entropies: what decided their ties, where known and used.
        seconds: that judging took, second passes included.
        second_passes: pairs asked a second time, for the entropy of a tie.
    """

    order: Sequence[int]
    scores: Sequence[KeptScore]
    values: Sequence[float | None]
    entropies: Sequence[float | None]
    seconds: float
    second_passes: int


def pools(task: Task, ranking: CoarseRanking) -> list[Pool]:
    """The queries of a task with their candidates in coarse order."""
    made = []
    for query, right, order, similarity in zip(
        task.queries, task.right, ranking.order.tolist(), ranking.similarity.tolist(), strict=True
    ):
        places = [place for place in order if place >= 0]
        items = [task.candidates[place] for place in places]
        made.append(Pool(query, items, places, similarity[: len(places)], right))
    return made


def judge(pool: Pool, variant: Variant, judging: Judging) -> QueryOutcome:
    """Run one variant of the fine stage on one query."""
    scores = _opened(pool, variant, judging)
    seconds, again = sum(score.seconds for score in scores), {}
    if variant.entropy:
        again = _asked_again(pool, variant, judging, scores)
        seconds += sum(score.seconds for score in again.values())
    entropies = [
        (again[place].entropy if place in again else score.entropy) if variant.entropy else None
        for place, score in enumerate(scores)
    ]
    values = _values(pool, variant, scores)
    rows = [
        Scored(place, place, value, entropy, failed=score.error is not None)
        for place, (score, value, entropy) in enumerate(zip(scores, values, entropies, strict=True))
    ]
    rows += [Scored(place, place) for place in range(len(scores), len(pool.places))]
    order = [pool.places[ranked.key] for ranked in final_order(rows, default_tie_decimals(variant.mode))]
    return QueryOutcome(order, scores, values, entropies, seconds, len(again))


def _opened(pool: Pool, variant: Variant, judging: Judging) -> list[KeptScore]:
    """The scores of the candidates that the variant looks at: all of its pool, or wave by wave."""
    limit = min(variant.k, len(pool.candidates))
    scores: list[KeptScore] = []
    while True:
        wave = limit - len(scores)
        if variant.adaptive is not None:
            wave = next_wave(variant.adaptive, [score.log_odds for score in scores], limit)
        if wave == 0:
            return scores
        opened = pool.candidates[len(scores) : len(scores) + wave]
        scores += judging.scores(pool.query, opened, variant.mode, variant.injection)


def _asked_again(pool: Pool, variant: Variant, judging: Judging, scores: Sequence[KeptScore]) -> dict[int, KeptScore]:
    """The second pass of those whose tie only an entropy can decide, by their coarse place (method section 3)."""
    rows = [
        Scored(place, place, score.score, score.entropy, failed=score.error is not None)
        for place, score in enumerate(scores)
    ]
    places = tied(rows, default_tie_decimals(variant.mode))
    items = [pool.candidates[place] for place in places]
    asked = judging.scores(pool.query, items, "true_false", variant.injection) if items else []
    return dict(zip(places, asked, strict=True))


def _values(pool: Pool, variant: Variant, scores: Sequence[KeptScore]) -> list[float | None]:
    if variant.fusion == 0:
        return [score.score for score in scores]
    similarity = pool.similarity[: variant.k]
    # the similarity is standardised over the whole pool, whether or not all of it was looked at
    padding: list[float | None] = [None] * (len(similarity) - len(scores))
    return fused([score.log_odds for score in scores] + padding, similarity, variant.fusion)[: len(scores)]


def rank_of_right(pool: Pool, order: Sequence[int]) -> int | None:
    """The rank, from 1, of the first right candidate; None if it is none of these."""
    return next((rank for rank, place in enumerate(order, start=1) if place in pool.right), None)


def coarse_choice(pool: Pool) -> float:
    """Of two candidates: 1 if the right one is more similar, 1/2 if both are equally similar, else 0."""
    return _won(pool, [(similarity,) for similarity in pool.similarity])


def fine_choice(pool: Pool, outcome: QueryOutcome, fusion: float) -> float:
    """Of two candidates: 1 if the right one scores higher, 1/2 if nothing tells them apart, else 0.

    They are told apart by the log-odds, which are finer than the score, and then by the entropy; never by their
    order, whether of the coarse stage or of the file.
    """
    if any(score.error is not None for score in outcome.scores):
        return 0.5
    finest = outcome.values if fusion else [score.log_odds for score in outcome.scores]
    return _won(
        pool,
        [
            (-math.inf if value is None else value, -math.inf if entropy is None else -entropy)
            for value, entropy in zip(finest, outcome.entropies, strict=True)
        ],
    )


def _won(pool: Pool, values: Sequence[tuple[float, ...]]) -> float:
    right = next(value for place, value in zip(pool.places, values, strict=True) if place in pool.right)
    wrong = next(value for place, value in zip(pool.places, values, strict=True) if place not in pool.right)
    return 0.5 if right == wrong else float(right > wrong)
