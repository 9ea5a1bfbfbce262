"""Run an evaluation: the coarse stage of every task, then every variant of the fine stage on every query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from retllm.errors import ModelUnsuited
from retllm.evaluation import coarse
from retllm.evaluation.abstention import Abstention, measure
from retllm.evaluation.benchmark import Task
from retllm.evaluation.fine import (
    CachingScorer,
    Pool,
    QueryOutcome,
    coarse_choice,
    fine_choice,
    pools,
    rank_of_right,
    run_variant,
)
from retllm.evaluation.metrics import AT, Hits, recall_hits
from retllm.evaluation.variants import Variant

MAX_UNSCORED = 64
"""A variant other than the first is stopped if it has no score after this many pairs: writing an answer takes many
times longer than reading a probability, and a model that was not trained to write numbers writes none."""


class Progress(Protocol):
    """Receives the progress of an evaluation."""

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Begin a stage of ``total`` steps; return a function to call with the number of further completed steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The figures of one variant on one task.

    Attributes:
        name, group: the task's.
        coarse, fine: hits of every query for each n of Recall@n.
        pairs: number of scored pairs.
        second_passes: number of pairs with a second pass for the entropy of a tie.
        injected: number of pairs with re-injected visual tokens.
        errors: number of pairs without a score.
        seconds: time of the fine stage.
        coarse_seconds: time of the coarse stage.
    """

    name: str
    group: str | None
    coarse: Mapping[int, Hits]
    fine: Mapping[int, Hits]
    pairs: int
    second_passes: int
    injected: int
    errors: int
    seconds: float
    coarse_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The result of one variant on one section of a benchmark.

    ``skipped`` is the reason why the model does not support the variant; then there are no parts. ``stopped`` is the
    reason why only the first queries were run. ``abstention`` is None if it was not measured.
    """

    variant: Variant
    section: str
    parts: Sequence[Part]
    skipped: str | None = None
    stopped: str | None = None
    abstention: Abstention | None = None


@dataclass(slots=True, eq=False)
class _Counts:
    """The counts of one variant on one task."""

    ranks: list[int | None] = field(default_factory=list)
    choices: list[float] = field(default_factory=list)
    pairs: int = 0
    second_passes: int = 0
    injected: int = 0
    errors: int = 0
    seconds: float = 0.0

    def add(self, task: Task, pool: Pool, variant: Variant, outcome: QueryOutcome) -> None:
        if task.kind == "choice":
            self.choices.append(fine_choice(pool, outcome, variant.fusion))
        else:
            self.ranks.append(rank_of_right(pool, outcome.order))
        self.pairs += len(outcome.scores)
        self.second_passes += outcome.second_passes
        self.injected += sum(score.injected_layer is not None for score in outcome.scores)
        self.errors += sum(score.error is not None for score in outcome.scores)
        self.seconds += outcome.seconds

    @property
    def queries(self) -> int:
        return len(self.ranks) + len(self.choices)

    def part(self, task: Task, coarse_hits: Mapping[int, Hits], coarse_seconds: float) -> Part:
        """Return the figures, those of the coarse stage for the same queries."""
        fine = _hits(task, self.ranks, self.choices)
        same = {n: hits[: self.queries] for n, hits in coarse_hits.items()}
        return Part(
            task.name, task.group, same, fine, self.pairs, self.second_passes, self.injected, self.errors,
            self.seconds, coarse_seconds,
        )  # fmt: skip


def _hits(task: Task, ranks: Sequence[int | None], choices: Sequence[float]) -> dict[int, Hits]:
    if task.kind == "choice":
        won = np.array(choices, dtype=np.float64)
        # both candidates are among the first two, so larger n have no information
        return {n: won if n == 1 else np.ones_like(won) for n in AT}
    return {n: recall_hits(ranks, n) for n in AT}


@dataclass(slots=True, eq=False)
class _Ended:
    """The skipped and the stopped variants, with the reasons."""

    skipped: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)


def evaluate_section(
    name: str,
    tasks: Sequence[Task],
    variants: Sequence[Variant],
    kept: coarse.KeptVectors,
    scorer: CachingScorer,
    progress: Progress,
    *,
    abstain: bool = False,
) -> list[Result]:
    """Run all variants on all tasks of one section.

    Args:
        name: of the section.
        tasks: of the section.
        variants: the model must support the first one; others are skipped if it does not support them.
        kept: embeds the items.
        scorer: scores the pairs.
        progress: receives the progress.
        abstain: measure abstention with the first variant.

    Raises:
        ModelUnsuited: the model does not support the first variant.
        BenchmarkUnreadable: a picture can't be decoded.
    """
    depth = max(max(AT), *(variant.k + 1 for variant in variants))
    embedding = progress.stage(f"{name}: coarse", sum(len(task.queries) + len(task.candidates) for task in tasks))
    ranked = [(task, coarse.rank(task, kept, depth, embedding)) for task in tasks]
    advance = progress.stage(f"{name}: fine", sum(len(task.queries) for task in tasks))
    ended = _Ended()
    parts: dict[str, list[Part]] = {variant.name: [] for variant in variants}
    abstention: Abstention | None = None
    for task, ranking in ranked:
        counts = {variant.name: _Counts() for variant in variants}
        task_pools = pools(task, ranking)
        for pool in task_pools:
            _run_variants(task, pool, variants, scorer, counts, ended)
            advance(1)
        coarse_hits = _hits(
            task,
            [rank_of_right(pool, pool.places) for pool in task_pools],
            [coarse_choice(pool) for pool in task_pools] if task.kind == "choice" else [],
        )
        for variant in variants:
            if counts[variant.name].queries:
                parts[variant.name].append(counts[variant.name].part(task, coarse_hits, ranking.seconds))
        if abstain:
            abstention = measure(task_pools, variants[0], scorer)
    return [
        Result(
            variant,
            name,
            parts[variant.name],
            skipped=ended.skipped.get(variant.name),
            stopped=ended.stopped.get(variant.name),
            abstention=abstention if variant is variants[0] else None,
        )
        for variant in variants
    ]


def _run_variants(
    task: Task,
    pool: Pool,
    variants: Sequence[Variant],
    scorer: CachingScorer,
    counts: Mapping[str, _Counts],
    ended: _Ended,
) -> None:
    """Run every variant on one query, the largest pools first, so that the smaller ones reuse their scores."""
    for variant in sorted(variants, key=lambda variant: (-variant.k, variant.adaptive is not None)):
        if variant.name in ended.skipped or variant.name in ended.stopped:
            continue
        try:
            outcome = run_variant(pool, variant, scorer)
        except ModelUnsuited as error:
            if variant is variants[0]:
                raise
            ended.skipped[variant.name] = error.message
            continue
        count = counts[variant.name]
        count.add(task, pool, variant, outcome)
        if variant is not variants[0] and count.pairs == count.errors >= MAX_UNSCORED:
            ended.stopped[variant.name] = f"none of its first {count.pairs} pairs got a score"
