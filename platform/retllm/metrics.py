"""Metrics that each process counts; ``retllm.operations.totals`` adds them up in the database.

``/metrics`` has the same names and help texts. This module depends on neither database nor web, so that any code can
use it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

REGISTRY = CollectorRegistry()
"""The registry of this process. The default registry would add values that describe one process only."""

STAGES = ("media", "embed", "coarse", "fine")
MODELS = ("embedder", "scorer")
OUTCOMES = {
    "done": "its results were stored",
    "failed": "it ended with an error",
    "stale": "its results were discarded, because the claim was lost",
    "cancelled": "its job was cancelled",
    "returned": "its worker was stopped and returned the unit",
}
"""Outcomes of an attempt. If the process is killed or loses the database there is none: the lease runs out."""

ATTEMPTS = Counter("retllm_attempts", "Attempts at units that workers started.", ["stage"], registry=REGISTRY)
ENDED = Counter(
    "retllm_attempts_ended",
    f"Attempts that ended: {'; '.join(f'{name}: {meaning}' for name, meaning in OUTCOMES.items())}.",
    ["stage", "outcome"],
    registry=REGISTRY,
)
UNIT_SECONDS = Histogram(
    "retllm_unit_seconds",
    "Seconds from the claim of a unit to the end of its attempt, for every outcome.",
    ["stage"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
    registry=REGISTRY,
)
LEASES_LOST = Counter(
    "retllm_leases_lost",
    "Expired leases whose units a dispatcher took back, because the worker died or lost the database.",
    ["stage"],
    registry=REGISTRY,
)
FENCED = Counter(
    "retllm_fenced_writes",
    "Writes that were rejected because the worker no longer held the unit.",
    ["stage"],
    registry=REGISTRY,
)
PASSED_OVER = Counter(
    "retllm_dispatcher_passed_over",
    "Times that a dispatcher skipped a unit or a cancelled job because of an error.",
    registry=REGISTRY,
)
BATCH = Histogram(
    "retllm_batch_size",
    "Pictures, texts or pairs in one forward pass of a model.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)

PREFIX_USES = ("computed", "reused")
PREFIXES = Counter(
    "retllm_image_prefixes",
    "Image prefixes that scorers computed, and questions that began with one from the cache (reused).",
    ["use"],
    registry=REGISTRY,
)


def _start_at_zero() -> None:
    """Create every series with the value 0, so that the first event is visible as an increase."""
    for stage in STAGES:
        for metric in (ATTEMPTS, UNIT_SECONDS, LEASES_LOST, FENCED):
            metric.labels(stage)
        for outcome in OUTCOMES:
            ENDED.labels(stage, outcome)
    for model in MODELS:
        BATCH.labels(model)
    for use in PREFIX_USES:
        PREFIXES.labels(use)


_start_at_zero()
